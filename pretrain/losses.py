"""Losses between two lines of metrics, kept on the device until then, and signs of divergence."""

import math
from typing import Any

import torch

from pretrain.distributed import sum_over_ranks

SMOOTHING = 0.98  # of the average that tells divergence: it looks back about 50 steps


class LossWindow:
    """Collects the losses of steps; only `collect` waits for the device and the other ranks.

    divergence_limit: nats that the smoothed loss may rise above its lowest value; 0: any.
    """

    def __init__(self, divergence_limit: float = 0.0) -> None:
        self.divergence_limit = divergence_limit
        self.losses: list[float] = []  # on the host, of the steps since the last line
        self.newest: float | None = None
        self.smoothed = self.lowest = math.inf
        self._pending: list[torch.Tensor] = []

    def state(self) -> dict[str, Any]:
        """What `restore` needs; JSON-able."""
        return {"losses": list(self.losses), "smoothed": self.smoothed, "lowest": self.lowest}

    def restore(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])
        self.smoothed, self.lowest = state["smoothed"], state["lowest"]

    def add(self, loss: torch.Tensor) -> None:
        """A step's loss: this rank's part of a sum."""
        self._pending.append(loss)

    def collect(self, step: int) -> None:
        """Brings the losses of the steps up to `step` to the host, summed over the ranks.

        Raises FloatingPointError with the first step whose loss is not a finite number, or where
        the smoothed loss has risen by the limit.
        """
        if not self._pending:
            return
        losses = sum_over_ranks(torch.stack(self._pending).double()).tolist()
        self._pending = []
        for loss_step, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {loss_step}")
            self._check_divergence(loss, loss_step)
        self.losses += losses
        self.newest = losses[-1]

    def _check_divergence(self, loss: float, step: int) -> None:
        if self.smoothed == math.inf:
            self.smoothed = loss
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self.lowest = min(self.lowest, self.smoothed)
        if 0 < self.divergence_limit < self.smoothed - self.lowest:
            raise FloatingPointError(
                f"the loss diverges: its average is {self.smoothed:.3f} at step {step}, and was "
                f"{self.lowest:.3f}"
            )

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks for a divergence: the smoothed loss is near its lowest value."""
        limit = self.divergence_limit / 4
        return not limit or self.smoothed == math.inf or self.smoothed - self.lowest < limit

    def mean(self) -> float:
        """Mean loss of the window; begins the next one."""
        losses, self.losses = self.losses, []
        return sum(losses) / len(losses)
