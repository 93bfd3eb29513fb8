"""Outcomes of checks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED = "OK", "FAIL", "skip"


@dataclass(frozen=True)
class Outcome:
    """status: PASSED, FAILED or SKIPPED; seen: one line; advice: what to do after a failure."""

    status: str
    seen: str
    advice: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


# The name of a check and the function for its outcome.
Check = tuple[str, Callable[[], Outcome]]


def judged(seen: str, advice: str = "", **numbers: Any) -> Outcome:
    """Returns a failure if there is advice."""
    return Outcome(FAILED if advice else PASSED, seen, advice, numbers)


def skipped(seen: str) -> Outcome:
    return Outcome(SKIPPED, seen)
