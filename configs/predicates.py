"""Checks of one value, each with the words for its message."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import in_one_line

# Prefix of the names of data that comes with the program.
BUILTIN = "builtin:"

MAX_SHOWN = 200  # characters of a value in a message


class Rule(NamedTuple):
    """A check of one value; expected: the values that pass it, for messages."""

    test: Callable[[Any], bool]
    expected: str


def at_least(low: float) -> Rule:
    return Rule(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Rule:
    return Rule(lambda value: value > low, f"more than {low}")


def between(low: float, high: float) -> Rule:
    """low <= value < high"""
    return Rule(lambda value: low <= value < high, f"at least {low} and below {high}")


def inside(low: float, high: float) -> Rule:
    """low < value < high"""
    return Rule(lambda value: low < value < high, f"more than {low} and below {high}")


def from_to(low: float, high: float) -> Rule:
    """low <= value <= high"""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def one_of(*values: Any) -> Rule:
    return Rule(lambda value: value in values, "one of " + ", ".join(map(str, values)))


def each(rule: Rule) -> Rule:
    return Rule(lambda values: all(map(rule.test, values)), f"each {rule.expected}")


def matching(pattern: str, expected: str) -> Rule:
    """The whole text matches the regular expression; ASCII only."""
    return Rule(lambda value: re.fullmatch(pattern, value, re.ASCII) is not None, expected)


FILE_NAME = matching(
    "([A-Za-z0-9][A-Za-z0-9._-]{0,127})?",
    "a plain file name of letters, digits, `.`, `_` and `-`, as folders are named after it",
)

# The range of both numpy and torch.
SEED = Rule(lambda value: 0 <= value < 2**32, "at least 0 and below 2^32")


def can_be_a_path(value: str) -> bool:
    """True unless a device or a pipe has this name."""
    return not os.path.exists(value) or os.path.isfile(value) or os.path.isdir(value)


PATH = Rule(can_be_a_path, "a file or a folder")


def is_model_name_or_path(value: str) -> bool:
    """True for a path, and for a name on the Hub that can be the name of a folder."""
    if not can_be_a_path(value):
        return False
    looks_like_a_path = value.startswith((".", "/", "~")) or value.endswith("/")
    if not value or looks_like_a_path or value.count("/") > 1 or os.path.isdir(value):
        return True
    return re.fullmatch(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", value, re.ASCII) is not None


MODEL_NAME_OR_PATH = Rule(
    is_model_name_or_path,
    "an existing folder, or a name on the Hub like google/bert_uncased_L-2_H-128_A-2",
)


HUB_DATASET = Rule(
    lambda entry: 2 <= len(entry) <= 4 and entry[0] != "" and can_be_a_path(entry[0]),
    "[name, subset], [name, subset, split] or [name, subset, split, text column], with the "
    f"name of a data set on the Hub, or of {PATH.expected} (weights: DATASET.WEIGHTS)",
)


def shown(value: Any) -> str:
    """Returns a value as a message shows it."""
    return cut(repr(value))


def cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def problem_with_text(text: str) -> str:
    """Returns the reason if no key can take this text, else an empty string."""
    if in_one_line(text) != text:
        return "line breaks or control characters in it"
    try:
        text.encode("utf-8", "surrogateescape")  # surrogateescape: file names that are not UTF-8
    except UnicodeEncodeError:
        return "half a character in it (a surrogate)"
    return ""


def no_folder(key: str, folder: str) -> str:
    return f"{key}: no such folder, got {Path(folder).absolute()}, expected a folder"
