"""Learning rate curves: pure functions from progress to a multiplier of the peak.

Progress is the share of the whole run, warmup included, that has passed: 0 at the start, 1 at
the end. It is steps / all steps or elapsed time / whole time. To add a curve, write a function
of (progress, shape) that gives the multiplier after the warmup, and a row in CURVES.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CurveShape:
    """warmup: share of the run; r and l (the paper's names): elastic step decay's constants."""

    warmup: float = 0.06
    r: float = 2**-0.5
    l: int = 6  # noqa: E741


def elastic_step_decay(progress: float, shape: CurveShape) -> float:
    """Equation (1) of the ExtremeBERT paper, after Elastic Step Decay (Pan et al., 2021).

    1 in [0, 1 - r^l], then (1 / 2r)^(i - l) in (1 - r^(i-1), 1 - r^i] for i = l + 1, l + 2, ...
    With the paper's r and l: 1 up to 7/8 of the run, then 2^-1/2, 1/2, ... each interval
    2^1/2 times shorter than the one before. The limit at progress 1 is 0.
    """
    if progress >= 1.0:
        return 0.0
    # progress <= 1 - r^i  <=>  i >= log(1 - progress) / log(r); the tolerance keeps a border
    # that rounding has moved up by an ulp in its own interval.
    interval = math.ceil(math.log1p(-progress) / math.log(shape.r) - 1e-9)
    return (1 / (2 * shape.r)) ** max(0, interval - shape.l)


def linear(progress: float, shape: CurveShape) -> float:
    """Straight from 1 at the end of the warmup to 0 at the end of the run."""
    return 1.0 - _decayed(progress, shape)


def cosine(progress: float, shape: CurveShape) -> float:
    """Half a cosine from 1 at the end of the warmup to 0 at the end of the run."""
    return 0.5 * (1.0 + math.cos(math.pi * _decayed(progress, shape)))


def constant(progress: float, shape: CurveShape) -> float:
    return 1.0


def _decayed(progress: float, shape: CurveShape) -> float:
    """Share of the part after the warmup that has passed."""
    return (progress - shape.warmup) / (1.0 - shape.warmup)


CURVES: dict[str, Callable[[float, CurveShape], float]] = {
    "elastic_step_decay": elastic_step_decay,
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
}


def lr_multiplier(curve: str, progress: float, shape: CurveShape) -> float:
    """Linear warmup from 0 to 1, then the curve of that name.

    progress beyond 1 counts as 1. Raises KeyError for a curve that is not in CURVES.
    """
    progress = min(progress, 1.0)
    if progress < shape.warmup:
        return progress / shape.warmup
    return CURVES[curve](progress, shape)


class LearningRateSchedule:
    """Puts the curve's value into the parameter groups of an optimizer."""

    def __init__(self, optimizer, peak: float, curve: str, shape: CurveShape):
        self.optimizer, self.peak, self.curve, self.shape = optimizer, peak, curve, shape

    def set_progress(self, progress: float) -> float:
        """Sets and returns the learning rate of the step that begins at this progress."""
        lr = self.peak * lr_multiplier(self.curve, progress, self.shape)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr
