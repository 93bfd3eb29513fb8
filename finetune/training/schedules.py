"""Learning rate schedules by their transformers names."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

SCHEDULES = (
    *("polynomial", "linear", "cosine", "cosine_with_restarts"),
    *("constant", "constant_with_warmup"),
)


def warmup_steps(warmup: float, num_steps: int) -> int:
    """Returns the steps of warmup. warmup: a share of all steps if below 1, else steps.

    A warmup over all steps is shortened by one: the decay after it divides by its own length.
    """
    steps = math.ceil(warmup * num_steps) if warmup < 1 else int(warmup)
    return steps - 1 if steps == num_steps else steps


def make_schedule(
    name: str, optimizer: "Optimizer", warmup: float, num_steps: int
) -> "LRScheduler":
    """Returns a schedule that has set the learning rate of the first step.

    name: one of SCHEDULES. warmup: as `warmup_steps` takes it.
    """
    from transformers import get_scheduler

    # Instead of 1e-7: a straight line to 0.
    options = {"lr_end": 0.0} if name == "polynomial" else None
    return get_scheduler(name, optimizer, warmup_steps(warmup, num_steps), num_steps, options)
