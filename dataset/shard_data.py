"""Command line: raw text to text shards.

    python shard_data.py --output_dir tmp/shards --num_train_shards 256 --num_test_shards 128 \\
        --frac_test 0.1 --max_memory 64 --dataset wikipedia 20220301.en --dataset custom FOLDER
"""

import argparse
import sys
from dataclasses import fields
from operator import itemgetter
from pathlib import Path

if __name__ == "__main__":  # imports start at the repository, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from dataset.command_line import claim, run_command
from dataset.plan import SCRATCH
from dataset.shards.split_plan import ShardSettings
from dataset.sources import source_checks
from dataset.sources.digests import FileDigests, identity_of
from dataset.sources.registry import Source, customized_source, hub_source, problem_with
from dataset.sources.saved_datasets import split_in_words
from dataset.text_shards import make_text_shards
from dataset.workers import SampleFiles, open_executor, plan_work
from pipeline.console import Console
from pipeline.errors import ConfigError


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder for train_*.txt and test_*.txt")
    add(
        "--dataset",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "SUBSET"),
        help="a Hub dataset: NAME SUBSET [SPLIT [TEXT_COLUMN]], or your own text: `custom FOLDER`; "
        "may be repeated",
    )
    add("--text_column", default="text", help="column of the text, in all but .txt files")
    add("--language", default="en", help="ISO 639 code, for the ends of sentences")
    add("--streaming", action="store_true", help="read Hub datasets without downloading them")
    add("--num_train_shards", type=int, default=0, help="0: as many as fit")
    add("--num_test_shards", type=int, default=0, help="0: as many as fit")
    add("--frac_test", type=float, default=0.005, help="share of held-out articles")
    add("--max_memory", type=float, default=16.0, help="GB, over all processes")
    add("--seed", type=int, default=42)
    add("--n_processes", type=int, default=0, help="0: one per core")
    add("--dask_scheduler", default="", help="e.g. tcp://server:8786, instead of local processes")
    args = parser.parse_args(arguments)
    for entry in args.dataset:
        if not 2 <= len(entry) <= (2 if entry[0] == "custom" else 4):
            parser.error(f"--dataset: expected NAME SUBSET or custom FOLDER, got {' '.join(entry)}")
    return args


def main(arguments: list[str] | None = None) -> None:
    run_command("shard_data", parse_arguments(arguments), shard_text)


def shard_text(args: argparse.Namespace, console: Console) -> None:
    sources, digests = sources_of(args), FileDigests(args.output_dir / "digests.json")
    check_sources(sources, args.output_dir, digests)
    for source in sources:
        if split := split_in_words(Path(source.name)):
            console.say(split)
    plan_work(args.n_processes, args.max_memory, SampleFiles())  # raises if it is too little
    shaping = {field.name: getattr(args, field.name) for field in fields(ShardSettings)}
    inputs = {**shaping, "sources": [identity_of(source, digests) for source in sources]}
    artifact = claim(
        *("shard_data", args.output_dir, "--output_dir", inputs, console),
        scratch=SCRATCH,
        files_in=itemgetter("shards"),
    )
    if artifact is None:
        return
    digests.save()
    output_dir = args.output_dir.absolute()  # the workers of a cluster have other folders
    with open_executor(
        args.dask_scheduler, output_dir, args.n_processes, args.max_memory, SampleFiles()
    ) as workers:
        text = make_text_shards(
            sources, output_dir, ShardSettings(**shaping), artifact.fingerprint, workers, console
        )
    artifact.finish(text)


def sources_of(args: argparse.Namespace) -> list[Source]:
    sources = []
    for name, subset, *rest in args.dataset:
        if name == "custom":
            sources.append(customized_source(subset, "--dataset custom", args.text_column))
        else:
            split, column = (*rest, "", "")[:2]
            column = column or args.text_column
            sources.append(hub_source(name, subset, "--dataset", split, column, args.streaming))
    return sources


def check_sources(sources: list[Source], output_dir: Path, digests: FileDigests) -> None:
    """Raises ConfigError with all problems of the sources."""
    found = [problem_with(source, digests.files_of) for source in sources]
    problems = [problem for problem in found if problem]
    problems += source_checks.problems_with_overlaps(sources)
    problems += source_checks.problems_with_output(sources, [output_dir])
    problems = problems or source_checks.problems_with_heads(sources, digests.files_of)
    if problems:
        raise ConfigError(problems)


if __name__ == "__main__":
    main()
