"""Learning rate curves: pure functions from progress to a multiplier of the peak rate.

Progress is the share of the whole run, warmup included, that has passed, in steps, hours or tokens.
A run may cover a part of a curve, as several runs may share one. To add a curve, write a function
of (progress, shape) that returns the multiplier after the warmup, and a row in CURVES.

Elastic step decay and the wsd curves count progress from the start of the run, as their papers
do; all others from the end of the warmup. configs.defaults limits the parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pretrain.settings import TrainingSettings

# Far below one step of any run, far above rounding errors.
BORDER_TOLERANCE = 1e-9


@dataclass(frozen=True)
class CurveShape:
    """Parameters of the curves.

    warmup: share of the run. r and l (the paper's names): constants of elastic step decay.
    end_ratio: multiplier at progress 1 of all curves but elastic step decay and constant; above 0
    for exponential, step_decay and inverse_time. power: of polynomial. num_decay_steps: intervals
    of step_decay, at least 2. decay_proportion: final share of the run in which the wsd curves
    decay, at most 1 - warmup. begin, end: the part of the curve that the run covers, the shares
    above being those of the whole curve.
    """

    warmup: float = 0.06
    r: float = 2**-0.5
    l: int = 6  # noqa: E741
    end_ratio: float = 0.0
    power: float = 1.0
    num_decay_steps: int = 4
    decay_proportion: float = 0.2
    begin: float = 0.0
    end: float = 1.0

    def on_curve(self, progress: float) -> float:
        """Returns the place on the whole curve for the progress of the run, at most 1."""
        return self.begin + min(progress, 1.0) * (self.end - self.begin)


def curve_shape(settings: TrainingSettings) -> CurveShape:
    return CurveShape(
        warmup=settings.warmup_proportion,
        r=settings.esd_r,
        l=settings.esd_l,
        end_ratio=settings.lr_end_ratio,
        power=settings.lr_power,
        num_decay_steps=settings.lr_decay_steps,
        decay_proportion=settings.lr_decay_proportion,
        begin=settings.curve_begin,
        end=settings.curve_end,
    )


def elastic_step_decay(progress: float, shape: CurveShape) -> float:
    """Equation (1) of the ExtremeBERT paper, after Elastic Step Decay (Pan et al., 2021).

    1 in [0, 1 - r^l], then (1 / 2r)^(i - l) in (1 - r^(i-1), 1 - r^i] for i = l + 1, l + 2, ...
    With the paper's r and l: 1 up to 7/8 of the run, then 2^-1/2, 1/2, ... each interval
    2^1/2 times shorter than its predecessor. The limit at progress 1 is 0.
    """
    if progress >= 1.0:
        return 0.0
    # progress <= 1 - r^i  <=>  i >= log(1 - progress) / log(r); with the tolerance, rounding does
    # not move a border to the next interval.
    interval = math.ceil(math.log1p(-progress) / math.log(shape.r) - BORDER_TOLERANCE)
    return (1 / (2 * shape.r)) ** max(0, interval - shape.l)


def linear(progress: float, shape: CurveShape) -> float:
    """Falls linearly to the end ratio."""
    return _above_end(1.0 - _decayed(progress, shape), shape)


def cosine(progress: float, shape: CurveShape) -> float:
    """Falls to the end ratio along half a cosine (Loshchilov and Hutter, 2017)."""
    return _above_end(0.5 * (1.0 + math.cos(math.pi * _decayed(progress, shape))), shape)


def exponential(progress: float, shape: CurveShape) -> float:
    """end_ratio^x: each step has the same factor."""
    return shape.end_ratio ** _decayed(progress, shape)


def step_decay(progress: float, shape: CurveShape) -> float:
    """Falls by the same factor after each of equal intervals; the last is at the end ratio."""
    last = shape.num_decay_steps - 1
    interval = math.floor(_decayed(progress, shape) * shape.num_decay_steps + BORDER_TOLERANCE)
    return shape.end_ratio ** (min(last, interval) / last)


def inverse_time(progress: float, shape: CurveShape) -> float:
    """1 / (1 + kx), with k from the end ratio."""
    return 1.0 / (1.0 + (1.0 / shape.end_ratio - 1.0) * _decayed(progress, shape))


def polynomial(progress: float, shape: CurveShape) -> float:
    """(1 - x)^power, down to the end ratio."""
    return _above_end((1.0 - _decayed(progress, shape)) ** shape.power, shape)


def constant(progress: float, shape: CurveShape) -> float:
    return 1.0


def wsd(progress: float, shape: CurveShape) -> float:
    """Warmup, stable, decay: constant, then 1 - sqrt(x) (Haegele et al., 2024)."""
    return _above_end(1.0 - math.sqrt(_cooled(progress, shape)), shape)


def wsd_linear(progress: float, shape: CurveShape) -> float:
    """Warmup, stable, decay: constant, then linear."""
    return _above_end(1.0 - _cooled(progress, shape), shape)


def _above_end(share: float, shape: CurveShape) -> float:
    """Returns the multiplier at this share of the distance from the end ratio to 1."""
    return shape.end_ratio + (1.0 - shape.end_ratio) * share


def _decayed(progress: float, shape: CurveShape) -> float:
    """Returns the elapsed share of the time after the warmup."""
    return (progress - shape.warmup) / (1.0 - shape.warmup)


def _cooled(progress: float, shape: CurveShape) -> float:
    """Returns the elapsed share of the final decay, 0 before it and without a decay."""
    left = 1.0 - progress
    if left >= shape.decay_proportion:
        return 0.0
    return 1.0 - left / shape.decay_proportion


CURVES: dict[str, Callable[[float, CurveShape], float]] = {
    "elastic_step_decay": elastic_step_decay,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "step_decay": step_decay,
    "inverse_time": inverse_time,
    "polynomial": polynomial,
    "constant": constant,
    "wsd": wsd,
    "wsd_linear": wsd_linear,
}

CURVES_WITH_STABLE_PHASE = ("wsd", "wsd_linear")


def is_decaying(curve: str, progress: float, shape: CurveShape) -> bool:
    """True in the final decay of a curve with a stable phase, False for all other curves."""
    return curve in CURVES_WITH_STABLE_PHASE and _cooled(shape.on_curve(progress), shape) > 0.0


def lr_multiplier(curve: str, progress: float, shape: CurveShape) -> float:
    """Returns the multiplier of a linear warmup from 0 to 1, followed by the curve.

    Progress above 1 counts as 1. Raises KeyError for a curve that is not in CURVES.
    """
    progress = shape.on_curve(progress)
    if progress < shape.warmup:
        return progress / shape.warmup
    return CURVES[curve](progress, shape)


class LearningRateSchedule:
    """Sets the learning rates of an optimizer."""

    def __init__(self, optimizer, peak: float, curve: str, shape: CurveShape):
        self.optimizer, self.peak, self.curve, self.shape = optimizer, peak, curve, shape

    def set_progress(self, progress: float) -> float:
        """Sets the learning rates of a step. progress: at its begin.

        A group's peak_lr replaces the common peak. Returns the rate of groups without one.
        """
        multiplier = lr_multiplier(self.curve, progress, self.shape)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("peak_lr", self.peak) * multiplier
        return self.peak * multiplier
