"""Speed and memory of the dataset stage, against the same work done the obvious way.

    python -m benchmarks.preprocess --megabytes 300              speed, and what limits it
    python -m benchmarks.preprocess --megabytes 300 --scaling    more text, less memory

Everything is measured in one run on one machine. The obvious way is measured on a smaller piece of
the text and counted per MB. Text that is repeated (--megabytes) has no new words after its first
round, so a corpus of that size with words of its own takes a little longer.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.clock import Clock, copy_speed, disk_speed
from benchmarks.obvious_way import ObviousWay
from benchmarks.stage_runs import (
    StageRun,
    find_vocabulary,
    read_articles,
    repeated_text,
    run_stage,
    text_folders,
)
from pipeline.console import table

STEPS = ("segmentation", "tokenization", "rows", "masking", "writing")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--text", default="", help="folder of .txt files; default: real text, if it is at hand")
    add("--megabytes", type=float, default=0, help="repeat the text to this size; 0: once")
    add(
        "--sample_megabytes",
        type=float,
        default=5,
        help="text for the obvious way, and 8 times as much for ours step by step",
    )
    add("--copies", type=int, default=10, help="static mask copies")
    add("--max_memory", type=float, default=16.0, help="SYSTEM.MAX_MEMORY_IN_GB")
    add("--workers", type=int, default=2, help="workers of the parallel runs")
    add("--work_dir", type=Path, help="where everything is written; default: a temporary folder")
    add("--scaling", action="store_true", help="1 and 10 times the text; budgets of 1 and 16 GB")
    return parser.parse_args()


# --- steps -----------------------------------------------------------------------------------


def our_steps(articles: list[str], vocabulary: Path, folder: Path, copies: int) -> Clock:
    """CPU seconds of the stage's own steps, all in this process."""
    from dataset.samples.generation import SampleJob, SampleSettings, iter_row_blocks_of
    from dataset.samples.hdf5_files import SampleWriter
    from dataset.samples.masking import Masker, masking_key
    from dataset.shards.sentences import load_segmenter
    from dataset.tokenizers.build import build_tokenizer
    from dataset.tokenizers.cached_encoder import WordEncoder
    from dataset.tokenizers.load import load_tokenizer

    clock = Clock()
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
    clock["rows"] -= clock["tokenization"]  # that went on within
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


def report_steps(ours: Clock, our_mb: float, obvious: Clock, obvious_mb: float, copies: int):
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
        f"on {obvious_mb:.0f} MB (it makes its rows while it tokenizes):\n{table(rows)}"
    )


# --- the whole stage -------------------------------------------------------------------------


def stage_row(name: str, run: StageRun, obvious_per_mb: float) -> list[str]:
    return [
        name,
        f"{run.cpu_per_mb:.3f}",
        f"{run.wall:.1f}",
        f"{run.mb_per_second:.1f}",
        f"{run.peak_bytes / 1e9:.2f}",
        f"{run.sample_bytes / run.text_bytes:.2f}",
        f"{obvious_per_mb / run.cpu_per_mb:.1f}" if obvious_per_mb else "",
    ]


STAGE_HEADER = ["stage", "CPU s/MB", "wall s", "MB/s", "peak GB", "data/text", "obvious/ours"]


def report_stage(
    run: Callable[..., StageRun], workers: int, copies: int, obvious: Clock, sample_mb: float
) -> dict[str, StageRun]:
    static = {"MASKING": "static", "DUP_FACTOR": copies}
    dynamic = {"MASKING": "dynamic"}
    static_obvious = obvious.total() / sample_mb
    once = (obvious.total() - obvious["segmentation"]) / copies + obvious["segmentation"]
    runs = {
        "static, 1 worker": run(workers=1, **static),
        f"static, {workers} workers": run(workers=workers, **static),
        "dynamic, 1 worker": run(workers=1, **dynamic),
        f"dynamic, {workers} workers": run(workers=workers, **dynamic),
    }
    # Masks that change in every epoch need a copy per epoch, made the obvious way; one is compared.
    rows = [
        stage_row(name, one, static_obvious if "static" in name else once / sample_mb)
        for name, one in runs.items()
    ]
    print(f"\nthe whole stage, main.py to manifest:\n{table([STAGE_HEADER, *rows])}")
    for masking in ("static", "dynamic"):
        one, many = (run.wall for name, run in runs.items() if name.startswith(masking))
        print(f"{masking}: {workers} workers take {many / one:.2f} of the time of 1")
    return runs


def report_limits(run: StageRun, obvious: Clock, sample_mb: float, folder: Path) -> None:
    """How far the parallel static run is from what the machine could do at all."""
    disk, memory = disk_speed(folder), copy_speed()
    written = (run.sample_bytes + 2 * run.text_bytes) / 1e6  # runs and shards hold the text again
    encode = sample_mb / (obvious["tokenization"] or 1)
    print(
        f"\nlimits: disk {disk:,.0f} MB/s (write and flush), memory {memory:,.0f} MB/s (copy, one "
        f"core)\nstatic run: {written:,.0f} MB written at {written / run.wall:,.0f} MB/s, "
        f"{written / run.wall / disk:.0%} of the disk's speed; CPU "
        f"{run.cpu / run.wall / len(os.sched_getaffinity(0)):.0%} busy\n"
        f"tokenizers' encode_batch, one thread, all copies: {encode:.2f} MB/s of text"
    )


# --- scaling ---------------------------------------------------------------------------------


def report_scaling(
    run: Callable[..., StageRun], args: argparse.Namespace, small: Path, large: Path
):
    """Ten times the text; and a small budget against a large one."""
    settings = {"workers": args.workers, "MASKING": "dynamic"}
    one = run(text=small, **settings)
    ten = run(text=large, **settings)
    low = run(text=small, max_memory=1.0, **settings)
    high = run(text=small, max_memory=16.0, **settings)
    named = {"1 x text": one, "10 x text": ten, "budget 1 GB": low, "budget 16 GB": high}
    rows = [stage_row(name, each, 0)[:-1] for name, each in named.items()]
    print(table([STAGE_HEADER[:-1], *rows]))
    factor = ten.text_bytes / one.text_bytes
    print(
        f"{factor:.1f} times the text: {ten.wall / one.wall:.2f} times the time, "
        f"{ten.peak_bytes / one.peak_bytes:.2f} times the memory\n"
        f"budget 1 GB: {low.mb_per_second / high.mb_per_second:.0%} of the throughput with 16 GB, "
        f"peak {low.peak_bytes / 1e9:.2f} GB"
    )


# --- door ------------------------------------------------------------------------------------


def main() -> None:
    args = parse_arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a core against a core
    work_dir = Path(tempfile.mkdtemp(prefix="benchmark-", dir=args.work_dir))
    try:
        measure(args, work_dir)
    finally:
        shutil.rmtree(work_dir)


def measure(args: argparse.Namespace, work_dir: Path) -> None:
    folders = text_folders(args.text)
    text = repeated_text(folders, work_dir / "text", args.megabytes * 1e6)
    vocabulary = find_vocabulary(text, work_dir)

    def run(workers: int, text: Path = text, max_memory: float = args.max_memory, **dataset):
        print(".", end="", flush=True, file=sys.stderr)
        stage_dir = Path(tempfile.mkdtemp(dir=work_dir))
        return run_stage(text, vocabulary, stage_dir, max_memory, workers, **dataset)

    print(f"text: {', '.join(map(str, folders))}, {sum_mb(text):,.0f} MB")
    if args.scaling:
        large = repeated_text([text], work_dir / "large", 10e6 * sum_mb(text))
        report_scaling(run, args, text, large)
        return
    report_speed(args, run, text, vocabulary, work_dir)


def report_speed(
    args: argparse.Namespace, run: Callable, text: Path, vocabulary: Path, work_dir: Path
) -> None:
    """Each step in this process, then the whole stage, then what limits it."""
    few, many = (
        list(read_articles(text, factor * 1e6 * args.sample_megabytes)) for factor in (1, 8)
    )
    few_mb, many_mb = (sum(len(a.encode()) for a in articles) / 1e6 for articles in (few, many))
    ours = our_steps(many, vocabulary, work_dir, args.copies)
    obvious = ObviousWay(vocabulary).run(few, work_dir, args.copies)
    report_steps(ours, many_mb, obvious, few_mb, args.copies)
    runs = report_stage(run, args.workers, args.copies, obvious, few_mb)
    report_limits(list(runs.values())[1], obvious, few_mb, work_dir)


def sum_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*.txt")) / 1e6


if __name__ == "__main__":
    main()
