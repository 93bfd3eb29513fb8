"""Losses and token counts between two lines of metrics, kept on the device until then."""

import math

import torch

from pretrain.distributed import sum_over_ranks


class LossWindow:
    """Collects the losses of steps; only `collect` waits for the device and the other ranks."""

    def __init__(self) -> None:
        self.losses: list[float] = []  # on the host, of the steps since the last line
        self.num_tokens = 0  # of the whole run
        self.newest: float | None = None
        self._pending: list[torch.Tensor] = []
        self._pending_tokens = 0

    def add(self, loss: torch.Tensor, num_tokens: int) -> None:
        """A step's loss and tokens; both are this rank's part of a sum."""
        self._pending.append(loss)
        self._pending_tokens += num_tokens

    def collect(self, step: int) -> None:
        """Brings the losses of the steps up to `step` to the host, summed over the ranks.

        Raises FloatingPointError with the first step whose loss is not a finite number.
        """
        if not self._pending:
            return
        values = torch.stack(self._pending).double()
        values = torch.cat([values, values.new_tensor([float(self._pending_tokens)])])
        *losses, num_tokens = sum_over_ranks(values).tolist()
        self._pending, self._pending_tokens = [], 0
        for loss_step, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {loss_step}")
        self.losses += losses
        self.num_tokens += round(num_tokens)
        self.newest = losses[-1]

    def mean(self) -> float:
        """Mean loss of the window; begins the next one."""
        losses, self.losses = self.losses, []
        return sum(losses) / len(losses)
