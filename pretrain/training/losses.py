"""Losses between two lines of metrics, kept on the device until then; signs of a failing run."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.engine.distributed import sum_over_ranks
from pretrain.engine.engine import Update

SMOOTHING = 0.98  # of the average that tells divergence: it looks back about 50 steps


class LossWindow:
    """Collects the losses of steps; only `collect` waits for the device and the other ranks.

    divergence_limit: nats that the smoothed loss may rise above its lowest value. stuck_limit:
    steps in a row that may be stuck: with a loss scale of 1 or less, or, without a scale, skipped.
    0: any. scales_loss: whether the loss is scaled, as in fp16.
    """

    def __init__(
        self, divergence_limit: float = 0.0, stuck_limit: int = 0, scales_loss: bool = False
    ) -> None:
        self.divergence_limit, self.stuck_limit = divergence_limit, stuck_limit
        self.scales_loss = scales_loss
        self.losses: list[float] = []  # on the host, of the steps since the last line
        self.num_skipped = 0  # of those steps, and of others whose loss is left out
        self.newest: float | None = None
        self.measured_step = -1  # the last one, since this process began, with a finite loss
        self.stuck_steps = 0  # in a row, up to the last
        self.smoothed = self.lowest = math.inf
        self._pending: list[tuple[Tensor, Update]] = []

    def state(self) -> dict[str, Any]:
        """What `restore` needs; JSON-able."""
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
        """A step's loss, this rank's part of a sum, [], and what became of the step."""
        self._pending.append((loss, update))

    def collect(self, step: int) -> None:
        """Brings the losses of the steps up to `step` to the host, summed over the ranks.

        Leaves out the loss of a step that the loss scaler has skipped if it is not finite. Raises
        FloatingPointError with the first other step whose loss is not a finite number, where the
        smoothed loss has risen by the limit, or where too many steps in a row were stuck.
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

    def _take(self, step: int, loss: float, skipped: bool, scale: float) -> None:
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
        """Whether nothing speaks for a divergence: the smoothed loss is near its lowest value."""
        limit = self.divergence_limit / 4
        return not limit or self.smoothed == math.inf or self.smoothed - self.lowest < limit

    def mean(self) -> float:
        """Mean loss of the window, which holds at least one; begins the next one."""
        losses, self.losses, self.num_skipped = self.losses, [], 0
        return sum(losses) / len(losses)


def _on_host(numbers: Sequence[Tensor | float]) -> list[float]:
    """All of them are tensors [] on the device, or none is."""
    return torch.stack(numbers).tolist() if isinstance(numbers[0], Tensor) else list(numbers)
