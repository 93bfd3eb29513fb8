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
    CPU,
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
from pretrain.engine.engine import compute_dtype
from pretrain.kernels.linear import bf16_linear, linear
from pretrain.training.data_loader import MicroBatch
from pretrain.training.flops import PASSES, matmul_peak, training_flops

NUM_BATCHES = 4
PEAK_SECONDS = 0.1
# The products with weights in a forward pass: how often in a step, rows, inner size, columns.
Shape = tuple[int, int, int, int]

LIMITS = ("matmul", "linear", "own_shapes")
HEADER = [
    *("model", "products in", "seq/s", "real tokens/s"),
    *("of torch.matmul", "of our layers", "of own shapes", "x rival", "x in a turn"),
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
    """FLOP/s of the fastest matrix products so far, in a precision of our model: fp32 or bf16.

    matmul: of large squares, by torch.matmul. linear: the same, by what our layers call instead.
    own_shapes: of our layers alone, one after the other, with their gradients; from fp32 weights,
    but hidden states of the precision, whose conversion is none of the product's.
    """

    def __init__(self, shapes: list[Shape], precision: str):
        self.shapes, self.dtype = shapes, compute_dtype(precision)
        self.layer = bf16_linear if self.dtype == torch.bfloat16 else linear
        self.matmul = self.linear = 0.0
        self.fastest = [float("inf")] * len(shapes)  # seconds
        self.factors = [
            (
                torch.randn(rows, inner, dtype=self.dtype).requires_grad_(),
                torch.randn(columns, inner).requires_grad_(),
            )
            for _, rows, inner, columns in shapes
        ]

    def measure(self, _round: int) -> None:
        settings = CPU, self.dtype, PEAK_SECONDS
        self.matmul = max(self.matmul, matmul_peak(*settings, torch.matmul))
        self.linear = max(self.linear, matmul_peak(*settings, self._product))
        for number, factors in enumerate(self.factors):
            self.fastest[number] = min(self.fastest[number], self._seconds_of_layer(*factors))

    @property
    def own_shapes(self) -> float:
        flops = sum(PASSES * 2 * n * rows * i * columns for n, rows, i, columns in self.shapes)
        times = zip(self.shapes, self.fastest, strict=True)
        return flops / sum(shape[0] * seconds for shape, seconds in times)

    def _product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.layer(left, right, None)

    def _seconds_of_layer(self, hidden: torch.Tensor, weight: torch.Tensor) -> float:
        begin = time.perf_counter()
        output = self._product(hidden, weight)
        torch.autograd.grad(output, (hidden, weight), output.detach())
        return time.perf_counter() - begin


# --- contestants -----------------------------------------------------------------------------


def compare(
    size: Size,
    dropout: float,
    precision: str,
    names: list[str],
    batches: list[MicroBatch],
    num_rounds: int,
) -> dict:
    """All numbers about the contestants of that size; precision: of ours, auto, fp32 or bf16."""
    batch_size = len(batches[0].input_ids)
    num_predictions = round(median(batch.num_predictions for batch in batches))
    precision = model_args(size, dropout, precision=precision).precision
    limits = Limits(product_shapes(size, batch_size, num_predictions), precision)
    steps = {"limits": limits.measure} | {
        name: _stepping(Training(CONTESTANTS[name](size, dropout, precision)), batches)
        for name in names
    }
    seconds = take_turns(steps, num_rounds)
    results: dict = {name: getattr(limits, name) for name in LIMITS}
    results |= {"precision": precision, "models": {}}
    for name in names:
        args = model_args(size, dropout, gated=name in ("gated", "modernbert"))
        flops = training_flops(args, batch_size, LENGTH, num_predictions)
        multiplies_in = precision if name in RIVALS else "fp32"
        speed = _speed(seconds[name], batches, flops, limits)
        results["models"][name] = {"precision": multiplies_in} | speed
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
        f"\n{size}, dropout {dropout:g}. Matrix products in {results['precision']}, GFLOP/s: "
        f"squares by torch.matmul {matmul}, by our layers {ours}; our layers alone, in the shapes "
        f"of this model, {own}\n"
        f"{table([HEADER, *rows])}",
        flush=True,
    )


def _row(title: str, numbers: dict) -> list[str]:
    compared = "times_rival" in numbers
    return [
        title,
        numbers["precision"],
        f"{numbers['sequences_per_second']:.2f}",
        f"{numbers['tokens_per_second']:,.0f}",
        *(f"{numbers[f'share_of_{name}']:.0%}" for name in LIMITS),
        f"{numbers['times_rival']:.2f}" if compared else "",
        f"{numbers['times_rival_in_a_turn']:.2f}" if compared else "",
    ]


def report_loop(size: Size, flags: argparse.Namespace, num_slices: int) -> dict:
    """Measures the loop of a run with these flags, which it completes; prints what it costs."""
    slices = measure_loop(flags, num_slices)
    real, bare = (min(times) / SLICE_STEPS for times in (slices.real, slices.bare))
    print(
        f"\n{size}, dropout {flags.hidden_dropout_prob:g}, {flags.precision}: a step of the real "
        f"loop takes {real:.3f} s, a bare one {bare:.3f} s; the loop costs {overhead(slices):.1%} "
        f"(fastest: {real / bare - 1:.1%})",
        flush=True,
    )
    return {
        "precision": flags.precision,
        "real": slices.real,
        "bare": slices.bare,
        "overhead": overhead(slices),
    }


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
            numbers = compare(size, dropout, args.precision, names, batches, args.rounds)
            one[f"dropout {dropout:g}"] = numbers
            report(size, dropout, numbers)
            gc.collect()
        if "loop" not in skipped:
            place = dataset, work_dir / f"run-{size}"
            flags = run_flags(*place, size, args.batch, dropouts[0], args.precision)
            one["loop"] = report_loop(size, flags, args.rounds)
            gc.collect()
    return results


def fits(size: Size, batch_size: int, num_models: int) -> bool:
    """Whether so many models may be held at once; says so if not."""
    needed = memory_needed(size, batch_size, num_models)
    free = psutil.virtual_memory().available
    if needed > free:
        print(f"\n{size}: left out, it takes {needed / 1e9:.0f} GB, {free / 1e9:.0f} are free")
    return needed <= free
