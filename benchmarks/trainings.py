"""Contestants of benchmarks.pretrain: bare steps, the real loop, and the processor's limit."""

import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Report, seconds_of
from benchmarks.sizes import Size

if TYPE_CHECKING:
    import torch

NUM_BATCHES = 6
TURN_SECONDS = 1.0  # at least
LOOP_STEPS = 6  # in a turn of the loop; more than it reads ahead, so reading counts
PEAK_SECONDS = 0.1
SPEEDS = ("matmul", "linear", "own_shapes")
# The weights' products in a forward pass: how often in a step, rows, inner size, columns.
Shape = tuple[int, int, int, int]


def train_bare(
    report: Report,
    name: str,
    size: Size,
    dropout: float,
    precision: str,
    dataset: Path,
    batch_size: int,
    steps: int = 0,
) -> None:
    """Reports the seconds per step of each turn.

    A turn has that many steps, or at least TURN_SECONDS of steps after an uncounted one, which
    refills the processor's caches.
    """
    from benchmarks.models import MODELS, Training, read_batches

    training = Training(MODELS[name](size, dropout, precision))
    batches = cycle(read_batches(dataset, batch_size, NUM_BATCHES))
    report(None)
    while True:
        if not steps:
            training.step(next(batches))
        begin, seconds, num_steps = time.perf_counter(), 0.0, 0
        while num_steps < steps or (not steps and seconds < TURN_SECONDS):
            training.step(next(batches))
            num_steps += 1
            seconds = time.perf_counter() - begin
        report(seconds / num_steps)


def train_in_loop(report: Report, flags: Sequence[str]) -> None:
    """Runs the real loop; reports the seconds per step of each turn of LOOP_STEPS steps."""
    from pretrain.engine.distributed import start_ranks
    from pretrain.flags import parse_flags
    from pretrain.run_pretraining import run

    args, begin = parse_flags(flags), 0.0

    def watch(run_: Any) -> None:  # called before the first step and after each one
        nonlocal begin
        if run_.budget.step % LOOP_STEPS == 0:
            report((time.perf_counter() - begin) / LOOP_STEPS)
            begin = time.perf_counter()

    run(args, start_ranks(), quiet_log(args.output_dir), watch=watch)


def quiet_log(output_dir: str | Path) -> Any:
    """Returns a log of metrics that prints nothing."""
    from pretrain.loop import METRICS
    from pretrain.training.metrics_file import MetricsLog

    class QuietLog(MetricsLog):
        def say(self, text: str) -> None: ...

        def progress(self, *_: Any, **__: Any) -> None: ...

    return QuietLog(Path(output_dir) / METRICS)


def loop_flags(
    size: Size, dropout: float, precision: str, dataset: Path, batch: int, output_dir: Path
) -> list[str]:
    """Returns the flags of an endless run with the default settings."""
    flags = {
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feed_forward(gated=False),
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "dataset_path": dataset,
        "output_dir": output_dir,
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch,
        "max_steps": 10**6,
        "precision": precision,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


# --- the processor's limit --------------------------------------------------------------------


def product_shapes(size: Size, batch_size: int, num_predictions: int) -> list[Shape]:
    from benchmarks.models import LENGTH, VOCAB_SIZE

    tokens, hidden = batch_size * LENGTH, size.hidden
    return [
        (size.layers, tokens, hidden, 3 * hidden),
        (size.layers, tokens, hidden, hidden),
        (size.layers, tokens, hidden, 4 * hidden),
        (size.layers, tokens, 4 * hidden, hidden),
        (1, num_predictions, hidden, VOCAB_SIZE),
    ]


def measure_limits(report: Report, shapes: Sequence[Shape], precision: str) -> None:
    """Reports FLOP/s by the names in SPEEDS.

    own_shapes: of our layers with their gradients, from fp32 weights and hidden states in the
    precision, so that converting the latter does not count.
    """
    import torch

    from benchmarks.models import CPU
    from pretrain.engine.engine import compute_dtype
    from pretrain.kernels.linear import bf16_linear, linear
    from pretrain.training.flops import PASSES, matmul_peak

    dtype = compute_dtype(precision)
    layer = bf16_linear if dtype == torch.bfloat16 else linear

    def product(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
        return layer(left, right, None)

    def train(hidden: "torch.Tensor", weight: "torch.Tensor") -> None:
        output = product(hidden, weight)
        torch.autograd.grad(output, (hidden, weight), output.detach())

    factors = [
        (
            torch.randn(rows, inner, dtype=dtype).requires_grad_(),
            torch.randn(columns, inner).requires_grad_(),
        )
        for _, rows, inner, columns in shapes
    ]
    flops = sum(PASSES * 2 * n * rows * inner * columns for n, rows, inner, columns in shapes)
    report(None)
    while True:
        times = [seconds_of(partial(train, *pair)) for pair in factors]
        seconds = sum(shape[0] * time for shape, time in zip(shapes, times, strict=True))
        matmul = matmul_peak(CPU, dtype, PEAK_SECONDS, torch.matmul)
        linear_peak = matmul_peak(CPU, dtype, PEAK_SECONDS, product)
        report(dict(zip(SPEEDS, (matmul, linear_peak, flops / seconds), strict=True)))
