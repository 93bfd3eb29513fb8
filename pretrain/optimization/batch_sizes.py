"""How many samples each step takes: always as many, or more and more at the start."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """full: samples of a step in the end. The ramp: its first size, a divisor of full, and its
    steps; 0 and 0 is no ramp.

    In the ramp the sizes are start, 2 start, 3 start, ... below full, for the same number of steps
    each, give or take one. A function of the step alone, so that every restart and any number of
    ranks trains on the same batches.
    """

    full: int
    start: int = 0
    ramp_steps: int = 0

    @property
    def unit(self) -> int:
        """What every batch is a multiple of."""
        return self.start or self.full

    def size(self, step: int) -> int:
        """Samples of the step that follows `step` steps."""
        return self.unit * self._multiple(step)

    def samples_before(self, step: int) -> int:
        """Samples of the first `step` steps."""
        ramp = min(step, self.ramp_steps)
        # The multiple is 1 + the number of borders passed; border k lies at ceil(k * steps / n).
        extra = sum(max(0, ramp - self._border(k)) for k in range(1, self._num_sizes))
        return self.unit * (ramp + extra) + self.full * (step - ramp)

    def first_step_at(self, sample: int) -> int:
        """The first step that begins at that sample or behind it."""
        low, high = 0, sample // self.unit + 1
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self.samples_before(middle) >= sample else (middle + 1, high)
            )
        return low

    @property
    def _num_sizes(self) -> int:
        """Sizes in the ramp; full is not one of them."""
        return self.full // self.unit - 1 if self.ramp_steps else 0

    def _border(self, k: int) -> int:
        return -(-k * self.ramp_steps // self._num_sizes)

    def _multiple(self, step: int) -> int:
        if step >= self.ramp_steps:
            return self.full // self.unit
        return 1 + step * self._num_sizes // self.ramp_steps
