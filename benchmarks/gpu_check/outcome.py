"""What a check comes to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED = "OK", "FAIL", "skip"


@dataclass(frozen=True)
class Outcome:
    """status: PASSED, FAILED or SKIPPED; seen: one line; advice: what to do about a failure."""

    status: str
    seen: str
    advice: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


# A check's name, and what makes its outcome when its turn comes.
Check = tuple[str, Callable[[], Outcome]]


def passed(seen: str, **numbers) -> Outcome:
    return Outcome(PASSED, seen, numbers=numbers)


def failed(seen: str, advice: str, **numbers) -> Outcome:
    return Outcome(FAILED, seen, advice, numbers)


def judged(seen: str, advice: str, **numbers) -> Outcome:
    """A failure if there is advice on it."""
    return failed(seen, advice, **numbers) if advice else passed(seen, **numbers)


def skipped(seen: str) -> Outcome:
    return Outcome(SKIPPED, seen)
