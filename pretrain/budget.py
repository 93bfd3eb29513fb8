"""How long a run lasts, by steps or by the clock, and how much of it has passed."""

import time
from argparse import Namespace

from pretrain.distributed import from_first_rank


class Budget:
    """Counts steps and seconds of training, over all restarts.

    args: max_steps, lr_schedule ("step" or "time"), total_training_time and
    early_exit_time_marker (hours), use_early_stopping.
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.step = 0  # steps done
        self.elapsed = 0.0  # seconds, as of the end of the last step
        self.stopped_early = False
        self._start = time.monotonic()

    def restore(self, step: int, elapsed: float, stopped_early: bool) -> None:
        """Goes on from there; the time that the run did not run does not count."""
        self.step, self.elapsed, self.stopped_early = step, elapsed, stopped_early
        self._start = time.monotonic() - elapsed

    def count_step(self) -> None:
        """One more step is done. Where the clock decides what follows, rank 0's counts for all."""
        args, seconds = self.args, time.monotonic() - self._start
        if args.lr_schedule == "time" or args.early_exit_time_marker or args.use_early_stopping:
            seconds = from_first_rank(seconds)
        self.step, self.elapsed = self.step + 1, seconds

    @property
    def finished(self) -> bool:
        args, hours = self.args, self.elapsed / 3600
        return (
            self.stopped_early
            or self.step >= args.max_steps
            or (args.lr_schedule == "time" and hours >= args.total_training_time)
            or (0 < args.early_exit_time_marker <= hours)
        )

    @property
    def progress(self) -> float:
        """Share of the whole run that has passed, warmup included."""
        if self.args.lr_schedule == "time":
            return self.elapsed / (3600 * self.args.total_training_time)
        return self.step / max(1, self.args.max_steps)

    @property
    def total_steps(self) -> int:
        """The number of steps of the whole run, estimated where the clock decides."""
        if self.args.lr_schedule == "time" and self.progress > 0:
            return min(self.args.max_steps, max(self.step, round(self.step / self.progress)))
        return self.args.max_steps
