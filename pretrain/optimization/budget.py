"""How long a run lasts, by steps, by the clock or by tokens, and how much of it has passed."""

import time
from argparse import Namespace


def progress_unit(
    lr_schedule: str, max_steps: int, hours: float, max_tokens: int
) -> tuple[float, str, float]:
    """(total, unit, factor from `Budget.position`) of a progress bar, which shows minutes."""
    return {
        "step": (max_steps, "steps", 1),
        "time": (hours * 60, "min", 60),
        "tokens": (max_tokens, "tokens", 1),
    }[lr_schedule]


class Budget:
    """Counts steps, seconds and tokens of training, over all restarts.

    args: lr_schedule ("step", "time" or "tokens"), max_steps, total_training_time (hours) and
    max_tokens, of which the schedule's own counts, and early_exit_time_marker (hours).
    """

    def __init__(self, args: Namespace):
        self.args = args
        self.step = 0  # steps done
        self.num_tokens = 0  # without padding
        self.elapsed = 0.0  # seconds, as of the end of the last step
        self.stopped_early = False
        self._start = time.monotonic()

    def restore(self, step: int, num_tokens: int, elapsed: float, stopped_early: bool) -> None:
        """Goes on from there; the time that the run did not run does not count."""
        self.step, self.num_tokens, self.elapsed = step, num_tokens, elapsed
        self.stopped_early = stopped_early
        self._start = time.monotonic() - elapsed

    def clock(self) -> float:
        """Seconds of training up to now, by this process' clock."""
        return time.monotonic() - self._start

    def leave_out(self, seconds: float) -> None:
        """The last so many seconds were no part of the run."""
        self._start += seconds

    def count_step(self, num_tokens: int, elapsed: float) -> None:
        """One more step is done, with so many tokens, over all ranks, at that time of `clock`."""
        self.step, self.num_tokens = self.step + 1, self.num_tokens + num_tokens
        self.elapsed = elapsed

    @property
    def hours(self) -> float:
        return self.elapsed / 3600

    @property
    def finished(self) -> bool:
        return (
            self.stopped_early
            or self.progress >= 1.0
            or (0 < self.args.early_exit_time_marker <= self.hours)
        )

    @property
    def progress(self) -> float:
        """Share of the whole run that has passed, warmup included."""
        done, total = self.position
        return done / total if total else 1.0

    @property
    def position(self) -> tuple[float, float]:
        """(done, total) in the unit of the schedule: steps, hours or tokens."""
        args = self.args
        return {
            "step": (self.step, args.max_steps),
            "time": (self.hours, args.total_training_time),
            "tokens": (self.num_tokens, args.max_tokens),
        }[args.lr_schedule]
