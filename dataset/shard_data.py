"""Command line: raw text to text shards.

    python shard_data.py --output_dir tmp/shards --num_train_shards 256 --num_test_shards 128 \\
        --frac_test 0.1 --max_memory 64 --dataset wikipedia 20220301.en --dataset custom FOLDER
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder for train_*.txt and test_*.txt")
    add(
        "--dataset",
        nargs=2,
        action="append",
        required=True,
        metavar=("NAME", "SUBSET"),
        help="a Hub dataset, or `custom FOLDER` (of .txt files); may be repeated",
    )
    add("--num_train_shards", type=int, default=0, help="0: as many as fit")
    add("--num_test_shards", type=int, default=0, help="0: as many as fit")
    add("--frac_test", type=float, default=0.005, help="share of articles that is held out")
    add("--max_memory", type=float, default=16.0, help="GB, over all processes")
    add("--seed", type=int, default=42)
    add("--n_processes", type=int, default=0, help="0: one per core")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    from dataset.command_line import claim, run_command
    from dataset.digests import FileDigests, identity_of
    from dataset.sources import customized_source, hub_source, problem_with
    from dataset.stage import make_text_shards
    from dataset.workers import plan_workers, worker_pool
    from pipeline.errors import ConfigError

    args = parse_arguments(arguments)
    sources = [
        customized_source(subset, "--dataset custom")
        if name == "custom"
        else hub_source(name, subset, "--dataset")
        for name, subset in args.dataset
    ]

    def run(console) -> None:
        problems = [problem for source in sources if (problem := problem_with(source))]
        if problems:
            raise ConfigError(problems)
        digests = FileDigests(args.output_dir / "digests.json")
        shaping = ("num_train_shards", "num_test_shards", "frac_test", "seed")
        inputs = {key: getattr(args, key) for key in shaping}
        inputs["sources"] = [identity_of(source, digests) for source in sources]
        artifact = claim("shard_data", args.output_dir, "--output_dir", inputs, console)
        if artifact is None:
            return
        workers = plan_workers(args.n_processes, args.max_memory, console.say)
        with worker_pool(workers) as executor:
            text = make_text_shards(
                sources,
                args.output_dir,
                (args.num_train_shards, args.num_test_shards),
                args.frac_test,
                args.seed,
                artifact.fingerprint,
                executor,
                console,
            )
        artifact.finish(text)

    run_command("shard_data", args, run)


if __name__ == "__main__":
    main()
