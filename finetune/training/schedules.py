"""Learning rate schedules by their transformers names."""

import math
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch.optim import Optimizer

# Schedules of the dev score instead of the step.
FOLLOWS_SCORE = ("reduce_lr_on_plateau", "greedy")
# Arguments without a default in transformers, or with one that does not suit finetuning.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "polynomial": {"lr_end": 0.0},  # instead of 1e-7: a straight line to 0
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "reduce_lr_on_plateau": {"patience": 1},
    "greedy": {"patience": 1, "min_lr": 0.0},
}
# Share of the steps in which warmup_stable_decay decays.
DECAY_SHARE = 0.1


class Schedule(Protocol):
    """Sets the optimizer's learning rate for the next step.

    Those of FOLLOWS_SCORE take a value to minimise, the others none.
    """

    def step(self, *value: float) -> None: ...


def scheduler_names() -> list[str]:
    from transformers import SchedulerType

    return [scheduler.value for scheduler in SchedulerType]


def warmup_steps(warmup: float, num_steps: int) -> int:
    """Returns the steps of warmup. warmup: a share of all steps if below 1, else steps.

    A warmup over all steps is shortened by one: the decay after it divides by its own length.
    """
    steps = math.ceil(warmup * num_steps) if warmup < 1 else int(warmup)
    return steps - 1 if steps == num_steps else steps


def make_schedule(name: str, optimizer: "Optimizer", warmup: float, num_steps: int) -> Schedule:
    """Returns a schedule that has set the learning rate of the first step.

    warmup: as `warmup_steps` takes it. Raises ValueError for an unknown name.
    """
    from transformers import get_scheduler

    arguments = dict(_ARGUMENTS.get(name, {}))
    if name == "warmup_stable_decay":
        arguments["num_decay_steps"] = math.ceil(DECAY_SHARE * num_steps)
    return get_scheduler(
        name, optimizer, warmup_steps(warmup, num_steps), num_steps, arguments or None
    )
