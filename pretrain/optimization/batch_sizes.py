"""Samples per step: constant, or rising in a ramp at the start."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """full: samples per step after the ramp. start: first size of the ramp, a divisor of full.
    start and ramp_steps 0: no ramp.

    The sizes of the ramp are start, 2 start, 3 start, ... below full, each for the same number of
    steps, give or take one. A size depends on the step alone: restarts and any number of ranks
    train on the same batches.
    """

    full: int
    start: int = 0
    ramp_steps: int = 0

    @property
    def unit(self) -> int:
        """The greatest common divisor of all sizes."""
        return self.start or self.full

    def size(self, step: int) -> int:
        """Samples of the step after `step` steps."""
        return self.unit * self._multiple(step)

    def samples_before(self, step: int) -> int:
        """Samples of the first `step` steps."""
        ramp = min(step, self.ramp_steps)
        # The multiple is 1 + the number of borders passed; border k lies at ceil(k * steps / n).
        extra = sum(max(0, ramp - self._border(k)) for k in range(1, self._num_sizes))
        return self.unit * (ramp + extra) + self.full * (step - ramp)

    def first_step_at(self, sample: int) -> int:
        """Returns the first step to begin at this sample or a later one."""
        low, high = 0, sample // self.unit + 1
        while low < high:
            middle = (low + high) // 2
            if self.samples_before(middle) < sample:
                low = middle + 1
            else:
                high = middle
        return low

    @property
    def _num_sizes(self) -> int:
        """Number of sizes in the ramp, without full."""
        return self.full // self.unit - 1 if self.ramp_steps else 0

    def _border(self, k: int) -> int:
        return -(-k * self.ramp_steps // self._num_sizes)

    def _multiple(self, step: int) -> int:
        if step >= self.ramp_steps:
            return self.full // self.unit
        return 1 + step * self._num_sizes // self.ramp_steps
