"""Command line: text shards to fewer, larger ones.

    python merge_shards.py --data tmp/shards --output_dir tmp/merged --ratio 4 [--grep train]

Every `ratio` shards of a kind become one, in the order of their numbers: train_00000.txt to
train_00003.txt become the new train_00000.txt, and so on; the last one may get fewer. Kinds, like
train and test, stay apart.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # imports start at the repository, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from dataset.command_line import claim, run_command
from dataset.sources.article_stream import counted
from dataset.sources.digests import FileDigests, digest_of_files
from pipeline.console import Console
from pipeline.errors import ConfigError
from pipeline.store.atomic_files import written_aside

NUMBERED = re.compile(r"(.*?)_*(\d+)")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with .txt shards")
    add("--output_dir", type=Path, required=True, help="folder for the merged shards")
    add("--ratio", type=int, default=1, help="shards merged into one")
    add("--grep", default="", help="merge only files with this in their name")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    run_command("merge_shards", parse_arguments(arguments), merge)


def merge(args: argparse.Namespace, console: Console) -> None:
    found = sorted(path for path in args.data.glob("*.txt") if args.grep in path.stem)
    shards = [path for path in found if path.is_file()]
    if len(shards) < len(found):
        console.say(f"{len(found) - len(shards):,} that are no files are passed over")
    if args.ratio < 1:
        raise ConfigError([f"--ratio: got {args.ratio}, expected an integer of at least 1"])
    if args.data.resolve() == args.output_dir.resolve():
        raise ConfigError(["--output_dir: is the folder of --data, expected another one"])
    if not shards:
        named = f" with {args.grep} in its name" if args.grep else ""
        raise ConfigError([f"--data: {args.data} has no .txt file{named}"])
    digests = FileDigests(args.output_dir / "digests.json")
    inputs = {"ratio": args.ratio, "text": digest_of_files(shards, args.data, digests)}
    artifact = claim("merge_shards", args.output_dir, "--output_dir", inputs, console)
    if artifact is None:
        return
    merged = plan_merge(shards, args.ratio)
    for name, group in merged.items():
        concatenate(group, args.output_dir / name)
    console.say(f"{counted(len(shards), 'shards')} merged into {len(merged):,}")
    artifact.finish({"shards": len(merged)})


def plan_merge(shards: list[Path], ratio: int) -> dict[str, list[Path]]:
    """Returns the shards of each merged one, by its name. Files without a number are `shard`s."""
    kinds: dict[str, list[tuple[int, Path]]] = {}
    for path in shards:
        found = NUMBERED.fullmatch(path.stem)
        kind, number = (found[1], int(found[2])) if found else ("", 0)
        kinds.setdefault(kind or "shard", []).append((number, path))
    return {
        f"{kind}_{start // ratio:05d}.txt": [path for _, path in group[start : start + ratio]]
        for kind, group in ((kind, sorted(paths)) for kind, paths in kinds.items())
        for start in range(0, len(group), ratio)
    }


def concatenate(paths: list[Path], merged: Path) -> None:
    """Streams files into one, with a blank line after each."""
    with written_aside(merged) as aside, open(aside, "wb") as output:
        for path in paths:
            with open(path, "rb") as shard:
                shutil.copyfileobj(shard, output, 1 << 20)
                shard.seek(max(0, shard.tell() - 2))
                end = shard.read()
            missing = 0 if not end or end == b"\n\n" else 1 if end.endswith(b"\n") else 2
            output.write(b"\n" * missing)


if __name__ == "__main__":
    main()
