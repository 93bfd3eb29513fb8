"""The length of a run in steps, hours or tokens, and its progress."""

import time

from pretrain.settings import TrainingSettings

UNITS = {"step": "steps", "time": "h", "tokens": "tokens"}


def length_of(settings: TrainingSettings) -> float:
    """Returns the length of a run in steps, hours or tokens."""
    return {
        "step": settings.max_steps,
        "time": settings.total_training_time,
        "tokens": settings.max_tokens,
    }[settings.lr_schedule]


def amount_in_words(lr_schedule: str, amount: float) -> str:
    """Returns `23000 steps`, `24 h` or `1000000 tokens`."""
    is_count = lr_schedule != "time" and amount == int(amount)
    number = str(int(amount)) if is_count else f"{amount:g}"
    return f"{number} {UNITS[lr_schedule]}"


def progress_unit(
    lr_schedule: str, max_steps: int, hours: float, max_tokens: int
) -> tuple[float, str, float]:
    """Returns total, unit and factor from `Budget.position` of a progress bar; hours as minutes."""
    return {
        "step": (max_steps, "steps", 1),
        "time": (hours * 60, "min", 60),
        "tokens": (max_tokens, "tokens", 1),
    }[lr_schedule]


class Budget:
    """Counts steps, seconds and tokens of training, over all restarts.

    step: steps done. num_tokens: without padding. elapsed: seconds at the end of the last step.
    """

    def __init__(self, settings: TrainingSettings):
        self.settings = settings
        self.restore(0, 0, 0.0, False)

    def restore(self, step: int, num_tokens: int, elapsed: float, stopped_early: bool) -> None:
        """Resumes from these counts; downtime is not counted."""
        self.step, self.num_tokens, self.elapsed = step, num_tokens, elapsed
        self.stopped_early = stopped_early
        self._start = time.monotonic() - elapsed

    def state(self) -> dict[str, float]:
        """Returns the counts for a checkpoint."""
        counts = {"step": self.step, "num_tokens": self.num_tokens, "elapsed": self.elapsed}
        return counts | {"stopped_early": self.stopped_early}

    def clock(self) -> float:
        """Returns the seconds of training until now, by this process's clock."""
        return time.monotonic() - self._start

    def leave_out(self, seconds: float) -> None:
        """Excludes the last seconds from the training time."""
        self._start += seconds

    def count_step(self, num_tokens: int, elapsed: float) -> None:
        """Counts a step. num_tokens: over all ranks. elapsed: `clock` at its end."""
        self.step, self.num_tokens = self.step + 1, self.num_tokens + num_tokens
        self.elapsed = elapsed

    @property
    def hours(self) -> float:
        return self.elapsed / 3600

    @property
    def finished(self) -> bool:
        out_of_time = 0 < self.settings.early_exit_time_marker <= self.hours
        return self.stopped_early or self.progress >= 1.0 or out_of_time

    @property
    def progress(self) -> float:
        """Elapsed share of the whole run, warmup included."""
        done, total = self.position
        return done / total if total else 1.0

    @property
    def position(self) -> tuple[float, float]:
        """(done, total) in the unit of the schedule: steps, hours or tokens."""
        done = {"step": self.step, "time": self.hours, "tokens": self.num_tokens}
        return done[self.settings.lr_schedule], length_of(self.settings)
