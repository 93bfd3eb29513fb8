"""The schedule of a run, and its comparison with that of a run of another length.

A run can take over a checkpoint only if it would have had the same values in every step up to
there. The values are compared, not the settings: curves differ by where they begin to fall.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.console import WARNING_PREFIX
from pretrain.optimization.budget import amount_in_words, length_of
from pretrain.optimization.lr_curves import CurveShape, curve_shape, is_decaying, lr_multiplier
from pretrain.settings import TrainingSettings

NEVER_BEGUN = -1.0  # begin of the last step, before the first one
# Rounding moves a rate by a few units of the 16th digit. Weights in fp32 do not see it.
TOLERANCE = 1e-12
MAX_COMPARED = 20_000  # of longer runs, evenly spread steps


@dataclass(frozen=True)
class RunSchedule:
    """Everything in a run that depends on the share of it that has passed.

    unit: step | time | tokens. length: in steps, hours or tokens, the unit of all positions. peak:
    learning rate. masked_lm_prob_end: final masking rate, 0 if it does not change.
    """

    unit: str
    length: float
    curve: str
    shape: CurveShape
    peak: float
    masked_lm_prob_end: float = 0.0

    @classmethod
    def of(cls, settings: TrainingSettings) -> "RunSchedule":
        return cls(
            settings.lr_schedule,
            length_of(settings),
            settings.curve,
            curve_shape(settings),
            settings.lr,
            settings.masked_lm_prob_end,
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "RunSchedule":
        """Returns the schedule of a `record`."""
        return cls(**{**record, "shape": CurveShape(**record["shape"])})

    def record(self) -> dict[str, Any]:
        """Returns the schedule for a checkpoint, JSON-able."""
        return asdict(self)

    @property
    def length_in_words(self) -> str:
        """`23000 steps`, `24 h` or `1000000 tokens`."""
        return amount_in_words(self.unit, self.length)

    def with_warmup(self, share: float) -> "RunSchedule":
        return replace(self, shape=replace(self.shape, warmup=share))

    def progress(self, position: float) -> float:
        """Returns the share of the run before a position, as Budget.progress does."""
        return position / self.length if self.length else 1.0

    def values(self, position: float) -> dict[str, float]:
        """Returns the values of a step that begins at a position, by their names in messages.

        Every value that changes over the run belongs here. A masking rate does, too, but also
        depends on the dataset: `disagreement` looks at its parameters.
        """
        multiplier = lr_multiplier(self.curve, self.progress(position), self.shape)
        return {"learning rate": self.peak * multiplier}

    def is_decaying(self, position: float) -> bool:
        """True in the final decay of a wsd curve."""
        return is_decaying(self.curve, self.progress(position), self.shape)


def disagreement(done: RunSchedule, wanted: RunSchedule, last_begin: float) -> str:
    """Returns the difference that most matters between the steps done and those of a wanted run.

    last_begin: position at the begin of the last step done, NEVER_BEGUN without one. Returns an
    empty string if both have the same values, up to rounding; the peak rate is not compared.
    """
    done = replace(done, peak=wanted.peak)
    if done == wanted or last_begin == NEVER_BEGUN:
        return ""
    if done.unit != wanted.unit:
        return f"its length was {done.length_in_words}, and is {wanted.length_in_words} now"
    if last_begin >= wanted.length:
        return f"it has trained for longer than {wanted.length_in_words}"
    if (done.masked_lm_prob_end or wanted.masked_lm_prob_end) and (
        (done.masked_lm_prob_end, done.length) != (wanted.masked_lm_prob_end, wanted.length)
    ):
        return (
            "the share of masked tokens changes over the run, and would have been another one in a "
            f"run of {wanted.length_in_words}"
        )
    found = (
        (abs(ours - theirs), position, name, ours, theirs)
        for position in _compared(done.unit, last_begin)
        for (name, ours), theirs in zip(
            done.values(position).items(), wanted.values(position).values(), strict=True
        )
        if not math.isclose(ours, theirs, rel_tol=TOLERANCE)
    )
    worst = max(found, default=None)
    if worst is None:
        return ""
    _, position, name, ours, theirs = worst
    return (
        f"{_place(done.unit, position)} the {name} was {ours:.3g}, in a run of "
        f"{wanted.length_in_words} it would have been {theirs:.3g}"
    )


def changes_in_words(record: Mapping[str, Any] | None, ours: RunSchedule) -> Iterator[str]:
    """Yields a line on the length and the peak rate, if a resumed checkpoint had others.

    record: of the checkpoint's schedule, None in those of early versions.
    """
    if record is None:
        yield "it is of an early version: its schedule is taken to be that of this run"
        return
    done = RunSchedule.from_record(record)
    if (done.unit, done.length) != (ours.unit, ours.length):
        yield f"it is of a run of {done.length_in_words}, now of {ours.length_in_words}"
    if done.peak != ours.peak:
        yield (
            f"{WARNING_PREFIX}--lr was {done.peak:g} up to there, and is {ours.peak:g} now: the "
            "result is not that of a run with one rate"
        )


def _compared(unit: str, last: float) -> Iterable[float]:
    """Returns the begins of steps to compare, the last one included."""
    if unit == "step" and last < MAX_COMPARED:
        return range(int(last) + 1)
    spread = (last * i / MAX_COMPARED for i in range(MAX_COMPARED + 1))
    return map(math.floor, spread) if unit == "step" else spread


def _place(unit: str, position: float) -> str:
    if unit == "step":
        return f"in step {int(position) + 1}"
    return f"after {amount_in_words(unit, position)}"


def warmup_kept(done: RunSchedule, length: float) -> float:
    """Returns the share of a run of this length that is the warmup of another run, in short."""
    share = done.shape.warmup * done.length / length
    texts = (f"{share:.{digits}g}" for digits in range(1, 18))
    # Of 17 digits, every number is itself.
    return next(float(text) for text in texts if math.isclose(float(text), share, rel_tol=1e-14))
