"""Steps of all contestants in turns, the limit that the processor sets, and tables of both."""

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import torch

from benchmarks.contestants import (
    CONTESTANTS,
    LENGTH,
    RIVALS,
    VOCAB_SIZE,
    Size,
    Training,
    memory_needed,
    model_args,
    parse_size,
    read_batches,
)
from benchmarks.real_loop import SLICE_STEPS, measure_loop, overhead, run_flags
from pipeline.console import table
from pretrain.data import MicroBatch
from pretrain.flops import PASSES, matmul_peak, training_flops
from pretrain.linear import linear

NUM_BATCHES = 4
PEAK_SECONDS = 0.1
# The products with weights in a forward pass: how often in a step, rows, inner size, columns.
Shape = tuple[int, int, int, int]

LIMITS = ("matmul", "linear", "own_shapes")
HEADER = [
    *("model", "seq/s", "real tokens/s", "of torch.matmul", "of our layers", "of own shapes"),
    *("x rival", "x in a turn"),
]
TITLES = {
    "ours": "ours",
    "bert": "BertForMaskedLM",
    "gated": "ours, rotary and gated",
    "modernbert": "ModernBertForMaskedLM",
}


def take_turns(steps: dict[str, Callable[[int], None]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; a first round warms up. A step is told its round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(num_rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step(number)
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


# --- limits ----------------------------------------------------------------------------------


def product_shapes(size: Size, batch_size: int, num_predictions: int) -> list[Shape]:
    tokens, hidden = batch_size * LENGTH, size.hidden
    return [
        (size.layers, tokens, hidden, 3 * hidden),
        (size.layers, tokens, hidden, hidden),
        (size.layers, tokens, hidden, 4 * hidden),
        (size.layers, tokens, 4 * hidden, hidden),
        (1, num_predictions, hidden, VOCAB_SIZE),
    ]


class Limits:
    """FLOP/s of the fastest matrix products so far.

    matmul: of large squares, by torch.matmul. linear: the same, by what our layers call instead.
    own_shapes: of our layers alone, one after the other, with their gradients.
    """

    def __init__(self, shapes: list[Shape]):
        self.shapes = shapes
        self.matmul = self.linear = 0.0
        self.fastest = [float("inf")] * len(shapes)  # seconds
        self.factors = [
            (
                torch.randn(rows, inner).requires_grad_(),
                torch.randn(columns, inner).requires_grad_(),
            )
            for _, rows, inner, columns in shapes
        ]

    def measure(self, _round: int) -> None:
        settings = torch.device("cpu"), torch.float32, PEAK_SECONDS
        self.matmul = max(self.matmul, matmul_peak(*settings, torch.matmul))
        self.linear = max(self.linear, matmul_peak(*settings))
        for number, factors in enumerate(self.factors):
            self.fastest[number] = min(self.fastest[number], _seconds_of_layer(*factors))

    @property
    def own_shapes(self) -> float:
        flops = sum(PASSES * 2 * n * rows * i * columns for n, rows, i, columns in self.shapes)
        times = zip(self.shapes, self.fastest, strict=True)
        return flops / sum(shape[0] * seconds for shape, seconds in times)


def _seconds_of_layer(inputs: torch.Tensor, weight: torch.Tensor) -> float:
    begin = time.perf_counter()
    output = linear(inputs, weight, None)
    torch.autograd.grad(output, (inputs, weight), output.detach())
    return time.perf_counter() - begin


# --- contestants -----------------------------------------------------------------------------


def compare(
    size: Size, dropout: float, names: list[str], batches: list[MicroBatch], num_rounds: int
) -> dict:
    """All numbers about the contestants of that size."""
    batch_size = len(batches[0].input_ids)
    num_predictions = round(median(batch.num_predictions for batch in batches))
    limits = Limits(product_shapes(size, batch_size, num_predictions))
    steps = {"limits": limits.measure} | {
        name: _stepping(Training(CONTESTANTS[name](size, dropout)), batches) for name in names
    }
    seconds = take_turns(steps, num_rounds)
    results: dict = {name: getattr(limits, name) for name in LIMITS}
    results["models"] = {}
    for name in names:
        args = model_args(size, dropout, gated=name in ("gated", "modernbert"))
        flops = training_flops(args, batch_size, LENGTH, num_predictions)
        results["models"][name] = _speed(seconds[name], batches, flops, limits)
    for name, rival in RIVALS.items():
        if name in seconds and rival in seconds:
            results["models"][name] |= _ratios(seconds[name], seconds[rival])
    return results


def _stepping(training: Training, batches: list[MicroBatch]) -> Callable[[int], float]:
    return lambda number: training.step(batches[number % len(batches)])


def _speed(seconds: list[float], batches: list[MicroBatch], flops: float, limits: Limits) -> dict:
    best = min(seconds)
    return {
        "seconds": seconds,
        "sequences_per_second": len(batches[0].input_ids) / best,
        "tokens_per_second": median(batch.num_tokens for batch in batches) / best,
        **{f"share_of_{name}": flops / best / getattr(limits, name) for name in LIMITS},
    }


def _ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times faster: of the fastest steps, and in the median of the turns."""
    turns = zip(ours, theirs, strict=True)
    return {
        "times_rival": min(theirs) / min(ours),
        "times_rival_in_a_turn": median(their / our for our, their in turns),
    }


# --- reports ---------------------------------------------------------------------------------


def report(size: Size, dropout: float, results: dict) -> None:
    rows = [_row(TITLES[name], numbers) for name, numbers in results["models"].items()]
    matmul, ours, own = (f"{results[name] / 1e9:,.0f}" for name in LIMITS)
    print(
        f"\n{size}, dropout {dropout:g}. Matrix products, GFLOP/s: squares by torch.matmul "
        f"{matmul}, by our layers {ours}; our layers alone, in the shapes of this model, {own}\n"
        f"{table([HEADER, *rows])}",
        flush=True,
    )


def _row(title: str, numbers: dict) -> list[str]:
    compared = "times_rival" in numbers
    return [
        title,
        f"{numbers['sequences_per_second']:.2f}",
        f"{numbers['tokens_per_second']:,.0f}",
        *(f"{numbers[f'share_of_{name}']:.0%}" for name in LIMITS),
        f"{numbers['times_rival']:.2f}" if compared else "",
        f"{numbers['times_rival_in_a_turn']:.2f}" if compared else "",
    ]


def report_loop(
    size: Size, dropout: float, batch_size: int, num_slices: int, dataset: Path, folder: Path
) -> dict:
    """Measures the loop and prints what it costs."""
    slices = measure_loop(run_flags(dataset, folder, size, batch_size, dropout), num_slices)
    real, bare = (min(times) / SLICE_STEPS for times in (slices.real, slices.bare))
    print(
        f"\n{size}, dropout {dropout:g}: a step of the real loop takes {real:.3f} s, a bare one "
        f"{bare:.3f} s; the loop costs {overhead(slices):.1%} (fastest: {real / bare - 1:.1%})",
        flush=True,
    )
    return {"real": slices.real, "bare": slices.bare, "overhead": overhead(slices)}


def measure(args: argparse.Namespace, dataset: Path, work_dir: Path) -> dict:
    """Prints a table per size and dropout, then what the loop costs; returns all numbers.

    args: the command line of benchmarks.pretrain.
    """
    skipped = args.skip.split(",")
    names = [name for name in CONTESTANTS if name not in skipped]
    dropouts = [float(text) for text in args.dropout.split(",")]
    batches = read_batches(dataset, args.batch, NUM_BATCHES)
    results: dict = {}
    for size in map(parse_size, args.sizes.split(",")):
        if not fits(size, args.batch, max(2, len(names))):
            continue
        one = results[str(size)] = {}
        for dropout in dropouts:
            one[f"dropout {dropout:g}"] = compare(size, dropout, names, batches, args.rounds)
            report(size, dropout, one[f"dropout {dropout:g}"])
            gc.collect()
        if "loop" not in skipped:
            folder = work_dir / f"run-{size}"
            one["loop"] = report_loop(size, dropouts[0], args.batch, args.rounds, dataset, folder)
            gc.collect()
    return results


def fits(size: Size, batch_size: int, num_models: int) -> bool:
    """Whether so many models may be held at once; says so if not."""
    needed = memory_needed(size, batch_size, num_models)
    free = psutil.virtual_memory().available
    if needed > free:
        print(f"\n{size}: left out, it takes {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free")
    return needed <= free
