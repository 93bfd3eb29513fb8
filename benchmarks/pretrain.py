"""Speed of pretraining on the CPU, beside transformers, the processor's limit and a bare loop.

    python -m benchmarks.pretrain                                  all sizes that fit into memory
    python -m benchmarks.pretrain --sizes 12x768 --skip gated,modernbert,loop
    python -m benchmarks.pretrain --precision fp32                 all models multiply in fp32

Each contestant trains in its own process, under the settings of a real run (threads, allocator).
They take turns of a second or more. Our models multiply as a real run with that PRECISION does;
the models of transformers are trained in fp32 and, where ours multiply in bf16, also in bf16
(autocast).

Times are medians with their range. A ratio compares turns of the same round: "x ours" is the time
of a step divided by that of our model.

Shares count the matrix products that our model needs to learn from these sequences; computing
tokens without a prediction does not count. They are shares of the speed of torch.matmul, and of our
layers, on large squares in our precision.

The loop: turns of the real loop beside turns of bare steps on batches in memory, with the same
model and precision.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import (
    DATASET_ID,
    Contestant,
    Spread,
    ratio,
    run_dataset_stage,
    take_turns,
    write_numbers,
)
from benchmarks.sizes import Size, parse_size
from benchmarks.texts import find_vocabulary, repeated_text, text_folders
from benchmarks.trainings import (
    LOOP_STEPS,
    NUM_BATCHES,
    SPEEDS,
    measure_products,
    run_flags,
    train_bare,
    train_in_loop,
)

SIZES = "4x256,12x768,24x1024"
TEXT_MEGABYTES = 3
HEADER = [
    *("model", "products in", "s per step", "seq/s", "real tokens/s", "x ours"),
    *(f"of {name}" for name in SPEEDS),
]
TITLES = {
    "ours": "ours",
    "bert": "BertForMaskedLM",
    "gated": "ours, rotary and gated",
    "modernbert": "ModernBertForMaskedLM",
}


class Data(NamedTuple):
    dataset: Path
    batch_size: int


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", default=SIZES, help="layers x hidden size, separated by commas")
    add("--batch", type=int, default=16, help="sequences of 128 tokens per step")
    add("--rounds", type=int, default=5, help="turns of each contestant after a warm-up")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of our models and of the loop, as in a real run (default: auto)",
    )
    add("--dropout", default="0.1,0", help="of hidden states and attention; one table for each")
    add("--skip", default="", help="of bert, gated, modernbert, loop; separated by commas")
    add("--dataset", type=Path, help="samples of 128 tokens; default: made of real text")
    add("--work_dir", type=Path, help="where everything is written; default: a temporary folder")
    add("--json", type=Path, help="file for all numbers")
    return parser.parse_args()


def make_dataset(folder: Path) -> Path:
    """Makes samples of 128 tokens with dynamic masking."""
    text = repeated_text(text_folders(), folder / "text", TEXT_MEGABYTES * 1e6)
    run_dataset_stage(text, find_vocabulary(text, folder), folder, folder)
    return folder / "data" / DATASET_ID


# --- comparisons ------------------------------------------------------------------------------


def compare(
    size: Size, dropout: float, precision: str, names: Sequence[str], data: Data, rounds: int
) -> dict[str, Any]:
    """Measures the models of that size; each of ours takes turns with its rivals.

    precision: of our models: auto, fp32 or bf16.
    """
    from benchmarks.models import LENGTH, RIVALS, model_args, read_batches
    from pretrain.training.flops import training_flops

    batches = read_batches(*data, NUM_BATCHES)
    num_tokens = median(batch.num_tokens for batch in batches)
    num_predictions = round(median(batch.num_predictions for batch in batches))
    precision = model_args(size, dropout, precision=precision).precision
    limits: list[dict[str, float]] = []
    rows: list[dict[str, Any]] = []
    for ours, rival in RIVALS.items():
        pairs = [(ours, precision), *((rival, p) for p in dict.fromkeys(("fp32", precision)))]
        group = {f"{name} {p}": (name, p) for name, p in pairs if name in names}
        contestants = {
            title: Contestant(train_bare, name, size, dropout, p, *data)
            for title, (name, p) in group.items()
        }
        if not group:
            continue
        contestants["limits"] = Contestant(measure_products, precision)
        seconds = take_turns(contestants, rounds)
        limits += seconds.pop("limits")
        args = model_args(size, dropout, gated=ours == "gated")
        flops = training_flops(args, data.batch_size, LENGTH, num_predictions)
        for title, (name, p) in group.items():
            step = median(seconds[title])
            row = {"model": name, "precision": p, "seconds": seconds[title]}
            row["sequences_per_second"] = data.batch_size / step
            row["tokens_per_second"] = num_tokens / step
            row["flops_per_second"] = flops / step
            if name == rival and ours in names:
                row["times_ours"] = ratio(seconds[title], seconds[f"{ours} {precision}"])
            rows.append(row)
    peaks = {name: max(one[name] for one in limits) for name in SPEEDS}
    return {"precision": precision, "models": rows, **peaks}


def print_table(size: Size, dropout: float, results: dict[str, Any]) -> None:
    from pipeline.console import table

    rows = [
        [
            TITLES[row["model"]],
            row["precision"],
            f"{Spread.of(row['seconds']):.3f}",
            f"{row['sequences_per_second']:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['times_ours']:.2f}" if "times_ours" in row else "",
            *(f"{row['flops_per_second'] / results[name]:.0%}" for name in SPEEDS),
        ]
        for row in results["models"]
    ]
    peaks = ", ".join(f"{name} {results[name] / 1e9:,.0f}" for name in SPEEDS)
    print(
        f"\n{size}, dropout {dropout:g}. Large matrix products in {results['precision']}, GFLOP/s: "
        f"{peaks}\n{table([HEADER, *rows])}",
        flush=True,
    )


def compare_loop(
    size: Size, dropout: float, precision: str, data: Data, rounds: int, folder: Path
) -> dict[str, Any]:
    """Measures and prints the cost of the real loop."""
    from benchmarks.models import model_args
    from pretrain.launch import flag_words

    precision = model_args(size, dropout, precision=precision).precision
    flags = run_flags(size, *data, folder / f"run-{size}") | {"precision": precision}
    flags |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    bare = Contestant(train_bare, "ours", size, dropout, precision, *data, LOOP_STEPS)
    found = take_turns({"real": Contestant(train_in_loop, flag_words(flags)), "bare": bare}, rounds)
    real, bare = (f"{Spread.of(found[name]):.3f}" for name in ("real", "bare"))
    times = ratio(found["real"], found["bare"])
    print(
        f"\n{size}, dropout {dropout:g}, {precision}: a step of the real loop takes {real} s, a "
        f"bare one {bare} s; the loop costs {times.median - 1:.1%} ({times.low - 1:.1%} to "
        f"{times.high - 1:.1%})",
        flush=True,
    )
    return {"precision": precision, **found, "overhead": times.median - 1}


# --- all of it --------------------------------------------------------------------------------


def measure(args: argparse.Namespace, dataset: Path, folder: Path) -> dict[str, Any]:
    """Prints a table per size and dropout, then the cost of the loop; returns all numbers."""
    skipped, data = args.skip.split(","), Data(dataset, args.batch)
    names = [name for name in TITLES if name not in skipped]
    dropouts = [float(text) for text in args.dropout.split(",")]
    results: dict[str, Any] = {}
    for size in map(parse_size, args.sizes.split(",")):
        if not fits(size, args.batch, 1 if names == ["ours"] and "loop" in skipped else 3):
            continue
        one = results[str(size)] = {}
        for dropout in dropouts:
            numbers = compare(size, dropout, args.precision, names, data, args.rounds)
            one[f"dropout {dropout:g}"] = numbers
            print_table(size, dropout, numbers)
        if "loop" not in skipped:
            settings = (args.precision, data, args.rounds, folder)
            one["loop"] = compare_loop(size, dropouts[0], *settings)
    return results


def fits(size: Size, batch_size: int, num_models: int) -> bool:
    """True if this many trainings fit into memory, each in its own process; else says why not."""
    import psutil

    needed = num_models * memory_needed(size, batch_size)
    free = psutil.virtual_memory().available
    if needed > free:
        print(f"\n{size}: left out, it takes {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free")
    return needed <= free


def memory_needed(size: Size, batch_size: int) -> int:
    """Returns the approximate bytes of a training."""
    from benchmarks.models import BYTES_PER_WEIGHT, LENGTH, VOCAB_SIZE

    weights = size.hidden * (12 * size.layers * size.hidden + VOCAB_SIZE)
    tokens = batch_size * LENGTH
    per_layer = 4 * tokens * (24 * size.hidden + 4 * size.heads * LENGTH)
    logits = 4 * 4 * tokens * VOCAB_SIZE  # transformers', their fp32 copy, softmax and gradient
    return BYTES_PER_WEIGHT * weights + size.layers * per_layer + logits


def main() -> None:
    args = parse_arguments()
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.work_dir) as folder:
        results = measure(args, args.dataset or make_dataset(Path(folder)), Path(folder))
    write_numbers(args.json, results)


if __name__ == "__main__":
    main()
