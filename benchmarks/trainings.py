"""Contestants of benchmarks.pretrain, and runs of the real loop."""

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.harness import Report
from benchmarks.sizes import Size

NUM_BATCHES = 6
TURN_SECONDS = 1.0  # at least
PEAK_SECONDS = 0.1
SPEEDS = ("torch.matmul", "our layers")


def train_bare(
    report: Report,
    name: str,
    size: Size,
    dropout: float,
    precision: str,
    dataset: Path,
    batch_size: int,
) -> None:
    """Reports the seconds per step of each turn of at least TURN_SECONDS.

    A first step is not counted; it refills the processor's caches.
    """
    from benchmarks.models import MODELS, Training, read_batches

    training = Training(MODELS[name](size, dropout, precision))
    batches = cycle(read_batches(dataset, batch_size, NUM_BATCHES))
    report(None)
    while True:
        training.step(next(batches))
        begin, seconds, num_steps = time.perf_counter(), 0.0, 0
        while seconds < TURN_SECONDS:
            training.step(next(batches))
            num_steps += 1
            seconds = time.perf_counter() - begin
        report(seconds / num_steps)


def run_loop(
    flags: Sequence[str],
    device: Any,
    watch: Callable[[Any], None] | None = None,
    interrupts: Any = None,
) -> Path:
    """Runs the real loop without any output; returns the file of its metrics.

    flags: of run_pretraining; interrupts, watch: of its `run`.
    """
    from pipeline.store.paths import METRICS
    from pretrain.flags import parse_flags
    from pretrain.run_pretraining import run
    from pretrain.training.metrics_file import MetricsLog

    class QuietLog(MetricsLog):
        def say(self, text: str) -> None: ...

        def progress(self, *_: Any, **__: Any) -> None: ...

    args = parse_flags(flags)
    log = QuietLog(Path(args.output_dir) / METRICS)
    try:
        run(args, device, log, interrupts, watch)
    finally:
        log.close()
    return log.path


def measure_products(report: Report, precision: str) -> None:
    """Reports FLOP/s of products of large squares, by the names in SPEEDS."""
    import torch

    from benchmarks.models import CPU
    from pretrain.engine.engine import compute_dtype
    from pretrain.kernels.linear import bf16_linear, linear
    from pretrain.training.flops import matmul_peak

    dtype = compute_dtype(precision)
    layer = bf16_linear if dtype == torch.bfloat16 else linear
    products = (torch.matmul, lambda left, right: layer(left, right, None))
    report(None)
    while True:
        speeds = [matmul_peak(CPU, dtype, PEAK_SECONDS, product) for product in products]
        report(dict(zip(SPEEDS, speeds, strict=True)))
