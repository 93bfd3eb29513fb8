"""What the loop around the model costs: data, logs and DeepSpeed, against the bare steps."""

import time
from argparse import Namespace
from pathlib import Path
from statistics import median

from benchmarks.contestants import Ours, Size, Training, model_args, read_batches
from pretrain.engine.distributed import start_ranks
from pretrain.flags import parse_flags
from pretrain.run_pretraining import run
from pretrain.training.metrics_file import MetricsLog

SLICE_STEPS = 6  # more than the loop reads ahead, so that it reads in its own time


class Enough(Exception):
    """Ends the real loop after the last slice."""


class Slices:
    """A run's progress bar, which after some steps stops the clock, and takes bare steps instead.

    args: the run's flags, which it completes before its first step.
    """

    def __init__(self, args: Namespace, num_slices: int):
        self.args, self.num_slices = args, num_slices
        self.real: list[float] = []  # seconds of slices
        self.bare: list[float] = []
        self.training: Training | None = None
        self.num_steps = 0

    def show(self, now: bool, **numbers) -> None:
        """Called by the run after each of its steps."""
        self.num_steps += 1
        if self.num_steps % SLICE_STEPS:
            return
        if self.training is None:  # the first slice is not counted: it warms up
            self._prepare()
            self._bare_slice()
        else:
            self.real.append(time.perf_counter() - self.begin)
            self.bare.append(self._bare_slice())
        if len(self.real) == self.num_slices:
            raise Enough
        self.begin = time.perf_counter()

    def close(self) -> None: ...

    def _prepare(self) -> None:
        args = self.args
        self.training = Training(Ours(args))
        micro = args.train_micro_batch_size_per_gpu
        self.batches = read_batches(Path(args.dataset_path), micro, SLICE_STEPS)

    def _bare_slice(self) -> float:
        begin = time.perf_counter()
        for batch in self.batches:
            self.training.step(batch)
        return time.perf_counter() - begin


class QuietLog(MetricsLog):
    """Writes metrics as any run does, but the screen belongs to the benchmark."""

    def say(self, text: str) -> None: ...


def run_flags(
    dataset_path: Path, output_dir: Path, size: Size, batch: int, dropout: float, precision: str
) -> Namespace:
    """Flags of a run that lasts longer than it is measured, and otherwise has the defaults."""
    ours = model_args(size, dropout)
    names = (
        *("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    )
    settings = {name: getattr(ours, name) for name in names} | {
        "dataset_path": dataset_path,
        "output_dir": output_dir,
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch,
        "max_steps": 10**6,
        "precision": precision,
    }
    return parse_flags(
        [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    )


def measure_loop(args: Namespace, num_slices: int) -> Slices:
    """Runs the real loop, and the bare one in between, until there are enough slices of both."""
    slices = Slices(args, num_slices)
    log = QuietLog(Path(args.output_dir) / "metrics.jsonl", progress=slices)
    try:
        run(args, start_ranks(), log)
    except Enough:
        return slices
    finally:
        log.close()
    raise RuntimeError("the run ended before it was measured")


def overhead(slices: Slices) -> float:
    """Share by which the real loop takes longer; of neighbouring slices, the median."""
    pairs = zip(slices.real, slices.bare, strict=True)
    return median(real / bare for real, bare in pairs) - 1
