"""Speed and memory of the dataset stage, beside the same work done in the obvious way.

    python -m benchmarks.preprocess --megabytes 300

The obvious way gets a smaller piece of the text; results are per MB. Repeated text (--megabytes)
has no new words after its first round, so a real corpus of that size takes a little longer.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import DATASET_ID, CommandRun, run_dataset_stage
from benchmarks.obvious_way import prepare_obviously
from benchmarks.texts import find_vocabulary, read_articles, repeated_text, text_folders

HEADER = ["stage", "CPU s/MB", "wall s", "MB/s", "peak GB", "data/text", "obvious/ours"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--text", default="", help="folder of .txt files; default: real text, if available")
    add("--megabytes", type=float, default=0, help="repeat the text to this size; 0: once")
    add("--sample_megabytes", type=float, default=5, help="text for the obvious way")
    add("--copies", type=int, default=10, help="static mask copies")
    add("--max_memory", type=float, default=16.0, help="SYSTEM.MAX_MEMORY_IN_GB")
    add("--workers", type=int, default=2, help="workers of the parallel runs")
    add("--work_dir", type=Path, help="where everything is written; default: a temporary folder")
    return parser.parse_args()


@dataclass(frozen=True)
class StageRun:
    """A run of the dataset stage, from the start of Python to the manifest."""

    command: CommandRun
    text_mb: float
    sample_mb: float


def run_stage(
    text: Path, vocabulary: Path, folder: Path, max_memory: float, workers: int, **dataset: object
) -> StageRun:
    """Runs the stage in a new folder, then deletes it. dataset: keys of DATASET."""
    print(".", end="", flush=True, file=sys.stderr)
    place = Path(tempfile.mkdtemp(dir=folder))
    system = {"MAX_MEMORY_IN_GB": max_memory, "NUM_WORKERS": workers}
    command = run_dataset_stage(text, vocabulary, place, place, SYSTEM=system, DATASET=dataset)
    found = StageRun(command, size_mb(text), size_mb(place / "data" / DATASET_ID))
    shutil.rmtree(place)
    return found


def size_mb(folder: Path) -> float:
    """Returns the disk space of a folder; holes in files take none."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_blocks * 512 for path in files) / 1e6


def stage_table(runs: Mapping[str, StageRun], obvious: Mapping[str, float]) -> str:
    """Formats a row per run. obvious: CPU s/MB of the obvious way, by masking."""
    from pipeline.console import table

    rows = []
    for name, run in runs.items():
        per_mb = run.command.cpu / run.text_mb
        rows.append(
            [
                name,
                f"{per_mb:.3f}",
                f"{run.command.wall:.1f}",
                f"{run.text_mb / run.command.wall:.1f}",
                f"{run.command.peak_bytes / 1e9:.2f}",
                f"{run.sample_mb / run.text_mb:.2f}",
                f"{obvious[name.partition(',')[0]] / per_mb:.1f}",
            ]
        )
    return table([HEADER, *rows])


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Prints a table of the stage with static and dynamic masks, by one worker and by several."""
    folders = text_folders(args.text)
    text = repeated_text(folders, folder / "text", args.megabytes * 1e6)
    vocabulary = find_vocabulary(text, folder)
    print(f"text: {', '.join(map(str, folders))}, {size_mb(text):,.0f} MB")
    articles = list(read_articles(text, 1e6 * args.sample_megabytes))
    articles_mb = sum(len(article.encode()) for article in articles) / 1e6
    segmentation, copy = prepare_obviously(articles, vocabulary, folder, args.copies)
    maskings = {
        "static": {"MASKING": "static", "DUP_FACTOR": args.copies},
        "dynamic": {"MASKING": "dynamic"},
    }
    runs = {
        f"{masking}, {count} worker{'s' * (count > 1)}": run_stage(
            text, vocabulary, folder, args.max_memory, count, **keys
        )
        for masking, keys in maskings.items()
        for count in (1, args.workers)
    }
    # Dynamic masking is compared with a single static copy.
    copies = {"static": args.copies, "dynamic": 1}
    obvious = {name: (segmentation + n * copy) / articles_mb for name, n in copies.items()}
    print(
        f"\nthe whole stage, main.py to manifest; the obvious way, on {articles_mb:.0f} MB, took "
        f"{obvious['static']:.3f} CPU s/MB for {args.copies} static copies\n"
        f"{stage_table(runs, obvious)}"
    )


def main() -> None:
    args = parse_arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # compares single cores
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.work_dir) as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    main()
