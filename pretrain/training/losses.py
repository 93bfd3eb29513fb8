"""Losses between two lines of metrics, and signs of a failing run."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.engine.distributed import sum_over_ranks
from pretrain.engine.engine import Update

SMOOTHING = 0.98  # of the average that shows divergence, over about 50 steps


class LossWindow:
    """Collects the losses of steps; only `collect` waits for the device and the other ranks.

    divergence_limit: nats that the smoothed loss may rise above its minimum. stuck_limit: maximum
    of consecutive stuck steps, with a loss scale of 1 or less or, without a scale, skipped. 0: no
    limit. scales_loss: True in fp16.
    """

    def __init__(
        self, divergence_limit: float = 0.0, stuck_limit: int = 0, scales_loss: bool = False
    ) -> None:
        self.divergence_limit, self.stuck_limit = divergence_limit, stuck_limit
        self.scales_loss = scales_loss
        self.losses: list[float] = []  # on the host, of the steps since the last line
        self.num_skipped = 0  # since the last line
        self.newest: float | None = None
        self.measured_step = -1  # last step of this process with a finite loss
        self.stuck_steps = 0  # consecutive, at the end
        self.smoothed = self.lowest = math.inf
        self._pending: list[tuple[Tensor, Update]] = []

    def state(self) -> dict[str, Any]:
        """Returns the JSON-able argument of `restore`."""
        return {
            "losses": list(self.losses),
            "num_skipped": self.num_skipped,
            "smoothed": self.smoothed,
            "lowest": self.lowest,
        }

    def restore(self, state: dict[str, Any], stuck_steps: int) -> None:
        self.losses = list(state["losses"])
        self.num_skipped = state.get("num_skipped", 0)  # not in old checkpoints
        self.smoothed, self.lowest = state["smoothed"], state["lowest"]
        self.stuck_steps = stuck_steps

    def add(self, loss: Tensor, update: Update) -> None:
        """Adds a step. loss: [], this rank's part of the sum."""
        self._pending.append((loss, update))

    def collect(self, step: int) -> None:
        """Copies the losses of the steps up to `step` to the host, summed over the ranks.

        Leaves out losses that are not finite if the loss scaler skipped the step. Raises
        FloatingPointError for another step with such a loss, if the smoothed loss has risen by the
        limit, or if too many consecutive steps were stuck.
        """
        if not self._pending:
            return
        first = step - len(self._pending) + 1
        pending, updates = zip(*self._pending, strict=True)
        self._pending = []
        losses = sum_over_ranks(torch.stack(pending).double()).tolist()
        skipped = _on_host([update.skipped for update in updates])
        scales = _on_host([update.scale for update in updates])
        for number, numbers in enumerate(zip(losses, skipped, scales, strict=True), first):
            self._take(number, *numbers)

    def _take(self, step: int, loss: float, is_skipped: float, scale: float) -> None:
        skipped = bool(is_skipped)
        self.num_skipped += skipped
        if math.isfinite(loss):
            self._check_divergence(loss, step)
            self.losses.append(loss)
            self.newest, self.measured_step = loss, step
        elif not (skipped and self.scales_loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}")
        self._count_stuck(step, scale <= 1.0 if self.scales_loss else skipped)

    def _count_stuck(self, step: int, stuck: bool) -> None:
        self.stuck_steps = self.stuck_steps + 1 if stuck else 0
        if 0 < self.stuck_limit <= self.stuck_steps:
            what = (
                "fp16 loss scale was 1 or less" if self.scales_loss else "gradient was not finite"
            )
            raise FloatingPointError(f"the {what} for {self.stuck_steps} steps, up to step {step}")

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
        """True if the smoothed loss is close to its minimum."""
        limit = self.divergence_limit / 4
        return not limit or self.smoothed == math.inf or self.smoothed - self.lowest < limit

    def mean(self) -> float:
        """Returns the mean of the window's losses, at least one, and begins the next window."""
        losses, self.losses, self.num_skipped = self.losses, [], 0
        return sum(losses) / len(losses)


def _on_host(numbers: Sequence[Tensor | float]) -> list[float]:
    """Copies numbers to the host at once; tensors are [], on the device."""
    tensors = [number for number in numbers if isinstance(number, Tensor)]
    return torch.stack(tensors).tolist() if tensors else [float(n) for n in numbers]
