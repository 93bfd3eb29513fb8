"""Checks of one value, with the words for what is expected."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# (test, what is expected): a rule of one value.
Rule = tuple[Callable[[Any], bool], str]

# What stands before the name of data that the program brings along.
BUILTIN = "builtin:"


def at_least(low: float) -> Rule:
    return lambda value: value >= low, f"at least {low}"


def above(low: float) -> Rule:
    return lambda value: value > low, f"more than {low}"


def between(low: float, high: float) -> Rule:
    """low <= value < high"""
    return lambda value: low <= value < high, f"at least {low} and below {high}"


def inside(low: float, high: float) -> Rule:
    """low < value < high"""
    return lambda value: low < value < high, f"more than {low} and below {high}"


def from_to(low: float, high: float) -> Rule:
    """low <= value <= high"""
    return lambda value: low <= value <= high, f"from {low} to {high}"


def one_of(*values: Any) -> Rule:
    return lambda value: value in values, "one of " + ", ".join(map(str, values))


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def each(rule: Rule) -> Rule:
    test, expected = rule
    return lambda values: all(test(value) for value in values), f"each {expected}"


FILE_NAME: Rule = (
    lambda value: (
        value == "" or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value) is not None
    ),
    "a plain file name of letters, digits, `.`, `_` and `-`, as folders are named after it",
)

# What numpy and torch both take.
SEED: Rule = (lambda value: 0 <= value < 2**32, "at least 0 and below 2^32")


def no_folder(key: str, folder: str) -> str:
    return f"{key}: folder is not there, got {Path(folder).absolute()}, expected a folder"
