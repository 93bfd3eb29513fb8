"""Speed of pretraining on the CPU, beside transformers' BERT and the processor's limit.

    python -m benchmarks.pretrain                                  all sizes that fit into memory
    python -m benchmarks.pretrain --sizes 12x768 --precision fp32

Each contestant trains in its own process, under the settings of a real run (threads, allocator).
They take turns of a second or more. Our model multiplies as a real run with that PRECISION does;
BertForMaskedLM is trained in fp32 and, where ours multiplies in bf16, also in bf16 (autocast).

Times are medians with their range. A ratio compares turns of the same round: "x ours" is the time
of a step divided by that of our model.

Shares count the matrix products that our model needs to learn from these sequences; computing
tokens without a prediction does not count. They are shares of the speed of torch.matmul, and of our
layers, on large squares in our precision.
"""

import argparse
import os
import tempfile
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
from benchmarks.trainings import NUM_BATCHES, SPEEDS, measure_products, train_bare

SIZES = "4x256,12x768,24x1024"
TEXT_MEGABYTES = 3
NUM_MODELS = 3  # ours, and BertForMaskedLM in two precisions
HEADER = [
    *("model", "products in", "s per step", "seq/s", "real tokens/s", "x ours"),
    *(f"of {name}" for name in SPEEDS),
]
TITLES = {"ours": "ours", "bert": "BertForMaskedLM"}


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
        help="of our model, as in a real run (default: auto)",
    )
    add("--dropout", default="0.1,0", help="of hidden states and attention; one table for each")
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


def compare(size: Size, dropout: float, precision: str, data: Data, rounds: int) -> dict[str, Any]:
    """Measures both models of that size, in turns.

    precision: of our model: auto, fp32 or bf16.
    """
    from benchmarks.models import LENGTH, model_args, read_batches
    from pretrain.training.flops import training_flops

    batches = read_batches(*data, NUM_BATCHES)
    num_tokens = median(batch.num_tokens for batch in batches)
    num_predictions = round(median(batch.num_predictions for batch in batches))
    args = model_args(size, dropout, precision=precision)
    flops = training_flops(args, data.batch_size, LENGTH, num_predictions)
    precision = args.precision
    pairs = [("ours", precision), *(("bert", one) for one in dict.fromkeys(("fp32", precision)))]
    contestants = {
        " ".join(pair): Contestant(train_bare, pair[0], size, dropout, pair[1], *data)
        for pair in pairs
    }
    contestants["limits"] = Contestant(measure_products, precision)
    seconds = take_turns(contestants, rounds)
    limits = seconds.pop("limits")
    ours = seconds[f"ours {precision}"]
    rows: list[dict[str, Any]] = []
    for (name, its_precision), measured in zip(pairs, seconds.values(), strict=True):
        step = median(measured)
        row: dict[str, Any] = {"model": name, "precision": its_precision, "seconds": measured}
        row["sequences_per_second"] = data.batch_size / step
        row["tokens_per_second"] = num_tokens / step
        row["flops_per_second"] = flops / step
        if measured is not ours:
            row["times_ours"] = ratio(measured, ours)
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


# --- all of it --------------------------------------------------------------------------------


def measure(args: argparse.Namespace, dataset: Path) -> dict[str, Any]:
    """Prints a table per size and dropout; returns all numbers."""
    data = Data(dataset, args.batch)
    results: dict[str, Any] = {}
    for size in map(parse_size, args.sizes.split(",")):
        if not fits(size, args.batch):
            continue
        one = results[str(size)] = {}
        for dropout in map(float, args.dropout.split(",")):
            numbers = compare(size, dropout, args.precision, data, args.rounds)
            one[f"dropout {dropout:g}"] = numbers
            print_table(size, dropout, numbers)
    return results


def fits(size: Size, batch_size: int) -> bool:
    """True if the trainings fit into memory, each in its own process; else says why not."""
    import psutil

    needed = NUM_MODELS * memory_needed(size, batch_size)
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
        results = measure(args, args.dataset or make_dataset(Path(folder)))
    write_numbers(args.json, results)


if __name__ == "__main__":
    main()
