"""Speed and memory of the dataset stage, beside the same work done in the obvious way.

    python -m benchmarks.preprocess --megabytes 300              speed of each step and of the stage
    python -m benchmarks.preprocess --megabytes 300 --scaling    more text, less memory

The obvious way gets a smaller piece of the text; results are per MB. Repeated text (--megabytes)
has no new words after its first round, so a real corpus of that size takes a little longer.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import DATASET_ID, CommandRun, StepClock, run_dataset_stage
from benchmarks.obvious_way import ObviousWay
from benchmarks.texts import find_vocabulary, read_articles, repeated_text, text_folders

STEPS = ("segmentation", "tokenization", "rows", "masking", "writing")
STAGE_HEADER = ["stage", "CPU s/MB", "wall s", "MB/s", "peak GB", "data/text", "obvious/ours"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--text", default="", help="folder of .txt files; default: real text, if available")
    add("--megabytes", type=float, default=0, help="repeat the text to this size; 0: once")
    add(
        "--sample_megabytes",
        type=float,
        default=5,
        help="text for the obvious way; our steps get 8 times as much",
    )
    add("--copies", type=int, default=10, help="static mask copies")
    add("--max_memory", type=float, default=16.0, help="SYSTEM.MAX_MEMORY_IN_GB")
    add("--workers", type=int, default=2, help="workers of the parallel runs")
    add("--work_dir", type=Path, help="where everything is written; default: a temporary folder")
    add("--scaling", action="store_true", help="1 and 10 times the text; budgets of 1 and 16 GB")
    return parser.parse_args()


# --- steps -----------------------------------------------------------------------------------


def our_steps(articles: Sequence[str], vocabulary: Path, folder: Path, copies: int) -> StepClock:
    """Returns the CPU seconds of the stage's own steps in this process."""
    from dataset.samples.generation import SampleJob, SampleSettings, iter_row_blocks_of
    from dataset.samples.hdf5_files import SampleWriter
    from dataset.samples.masking import Masker, masking_key
    from dataset.shards.sentences import load_segmenter
    from dataset.tokenizers.build import build_tokenizer
    from dataset.tokenizers.cached_encoder import WordEncoder
    from dataset.tokenizers.load import load_tokenizer

    clock = StepClock(time.process_time)
    text = folder / "train_00000.txt"
    with clock.step("segmentation"):
        documents = list(map(load_segmenter("en"), articles))
    text.write_text("\n\n".join(filter(None, documents)) + "\n\n", encoding="utf-8")
    build_tokenizer(str(vocabulary), True, folder / "tokenizer")
    settings = SampleSettings(128, 0.15, 20, 0.1, copies, seed=42)
    job = SampleJob(text, folder, folder / "tokenizer", settings, "benchmark")
    tokenizer = load_tokenizer(job.tokenizer_dir)
    with clock.step("rows"):
        encoder = WordEncoder(tokenizer)
        encoder.encode = clock.timed("tokenization", encoder.encode)
        blocks = list(iter_row_blocks_of(job, encoder, Counter()))
    clock["rows"] -= clock["tokenization"]  # a part of it
    masker = Masker(settings.masking_of(tokenizer))
    for copy in range(copies):
        with SampleWriter(folder / f"ours_{copy:02d}.hdf5", "benchmark") as writer:
            first = 0
            for block in blocks:
                with clock.step("masking"):
                    masked = masker.mask(block["input_ids"], masking_key(copy), first)
                with clock.step("writing"):
                    writer.write({**block, **masked._asdict()})
                first += len(block["input_ids"])
            with clock.step("writing"):
                writer.finish({})
    return clock


def report_steps(
    ours: StepClock, our_mb: float, obvious: StepClock, obvious_mb: float, copies: int
) -> None:
    from pipeline.console import table

    rows = [["step", "ours, CPU s/MB", "MB/s per core", "obvious, CPU s/MB", "ratio"]]
    for name in (*STEPS, "total"):
        mine, theirs = (
            (clock.total() if name == "total" else clock[name]) / megabytes
            for clock, megabytes in ((ours, our_mb), (obvious, obvious_mb))
        )
        ratio = f"{theirs / mine:.1f}" if theirs else ""
        rows.append([name, f"{mine:.4f}", f"{1 / mine:,.1f}", f"{theirs:.3f}", ratio])
    print(
        f"\nsteps in one process, {copies} static copies; ours on {our_mb:.0f} MB, the obvious way "
        f"on {obvious_mb:.0f} MB (rows are a part of its tokenization):\n{table(rows)}"
    )


# --- the whole stage -------------------------------------------------------------------------


@dataclass(frozen=True)
class StageRun:
    """A run of the dataset stage, from the start of Python to the manifest."""

    command: CommandRun
    text_mb: float
    sample_mb: float

    @property
    def mb_per_second(self) -> float:
        return self.text_mb / self.command.wall


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


def stage_table(runs: Mapping[str, StageRun], obvious: Sequence[float] = ()) -> str:
    """Formats a row per run. obvious: CPU s/MB of the obvious way, for each run."""
    from pipeline.console import table

    rows = []
    for number, (name, run) in enumerate(runs.items()):
        per_mb = run.command.cpu / run.text_mb
        rows.append(
            [
                name,
                f"{per_mb:.3f}",
                f"{run.command.wall:.1f}",
                f"{run.mb_per_second:.1f}",
                f"{run.command.peak_bytes / 1e9:.2f}",
                f"{run.sample_mb / run.text_mb:.2f}",
                *([f"{obvious[number] / per_mb:.1f}"] if obvious else []),
            ]
        )
    return table([STAGE_HEADER[: len(rows[0])], *rows])


def report_stage(
    run: Callable[..., StageRun], workers: int, copies: int, obvious: StepClock, obvious_mb: float
) -> None:
    """Prints the runs with static and dynamic masks."""
    maskings = {
        "static": {"MASKING": "static", "DUP_FACTOR": copies},
        "dynamic": {"MASKING": "dynamic"},
    }
    counts = {"1 worker": 1, f"{workers} workers": workers}
    runs = {
        f"{masking}, {name}": run(workers=count, **keys)
        for masking, keys in maskings.items()
        for name, count in counts.items()
    }
    # Dynamic masking is compared with a single static copy.
    once = (obvious.total() - obvious["segmentation"]) / copies + obvious["segmentation"]
    per_mb = [(obvious.total() if "static" in name else once) / obvious_mb for name in runs]
    print(f"\nthe whole stage, main.py to manifest:\n{stage_table(runs, per_mb)}")
    for masking in maskings:
        one, many = (runs[f"{masking}, {name}"].command.wall for name in counts)
        print(f"{masking}: {workers} workers take {many / one:.2f} of the time of 1")


def report_scaling(run: Callable[..., StageRun], workers: int, small: Path, large: Path) -> None:
    """Prints runs on ten times the text, and with a small and a large memory budget."""
    runs = {
        name: run(workers=workers, MASKING="dynamic", **settings)
        for name, settings in {
            "1 x text": {"text": small},
            "10 x text": {"text": large},
            "budget 1 GB": {"text": small, "max_memory": 1.0},
            "budget 16 GB": {"text": small, "max_memory": 16.0},
        }.items()
    }
    one, ten, low, high = runs.values()
    memory = ten.command.peak_bytes / one.command.peak_bytes
    print(
        f"{stage_table(runs)}\n"
        f"{ten.text_mb / one.text_mb:.1f} times the text: "
        f"{ten.command.wall / one.command.wall:.2f} times the time, {memory:.2f} times the memory\n"
        f"budget 1 GB: {low.mb_per_second / high.mb_per_second:.0%} of the throughput with 16 GB, "
        f"peak {low.command.peak_bytes / 1e9:.2f} GB"
    )


def measure(args: argparse.Namespace, folder: Path) -> None:
    folders = text_folders(args.text)
    text = repeated_text(folders, folder / "text", args.megabytes * 1e6)
    vocabulary = find_vocabulary(text, folder)

    def run(
        workers: int, text: Path = text, max_memory: float = args.max_memory, **dataset: object
    ) -> StageRun:
        return run_stage(text, vocabulary, folder, max_memory, workers, **dataset)

    print(f"text: {', '.join(map(str, folders))}, {size_mb(text):,.0f} MB")
    if args.scaling:
        large = repeated_text([text], folder / "large", 10e6 * size_mb(text))
        report_scaling(run, args.workers, text, large)
        return
    sizes = (1e6 * args.sample_megabytes, 8e6 * args.sample_megabytes)
    few, many = (list(read_articles(text, size)) for size in sizes)
    few_mb, many_mb = (sum(len(a.encode()) for a in articles) / 1e6 for articles in (few, many))
    ours = our_steps(many, vocabulary, folder, args.copies)
    obvious = ObviousWay(vocabulary).run(few, folder, args.copies)
    report_steps(ours, many_mb, obvious, few_mb, args.copies)
    report_stage(run, args.workers, args.copies, obvious, few_mb)


def main() -> None:
    args = parse_arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # compares single cores
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.work_dir) as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    main()
