"""Learning rate schedules by their transformers names."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

# Those that follow the score of the evaluations instead of the steps.
FOLLOWS_SCORE = ("reduce_lr_on_plateau", "greedy")
# Arguments that transformers leaves to its users, or whose defaults are not meant for finetuning.
_ARGUMENTS = {
    "polynomial": {"lr_end": 0.0},  # instead of 1e-7: a straight line to 0
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "reduce_lr_on_plateau": {"patience": 1},
    "greedy": {"patience": 1, "min_lr": 0.0},
}
# Share of the steps in which warmup_stable_decay decays.
DECAY_SHARE = 0.1


def scheduler_names() -> list[str]:
    from transformers import SchedulerType

    return [scheduler.value for scheduler in SchedulerType]


def warmup_steps(warmup: float, num_steps: int) -> int:
    """warmup: a share of the steps if below 1, else steps.

    A warmup over exactly all steps leaves out the last one, as a decay over no step has no slope.
    """
    steps = math.ceil(warmup * num_steps) if warmup < 1 else int(warmup)
    return steps - 1 if steps == num_steps else steps


def make_schedule(
    name: str, optimizer: "Optimizer", warmup: float, num_steps: int
) -> "LRScheduler":
    """Sets the optimizer's learning rate for the first step, and with each `step()` the next one.

    Of FOLLOWS_SCORE `step(value)` wants a number that should get smaller. Raises ValueError for an
    unknown name.
    """
    from transformers import get_scheduler

    arguments = dict(_ARGUMENTS.get(name, {}))
    if name == "warmup_stable_decay":
        arguments["num_decay_steps"] = math.ceil(DECAY_SHARE * num_steps)
    return get_scheduler(
        name, optimizer, warmup_steps(warmup, num_steps), num_steps, arguments or None
    )
