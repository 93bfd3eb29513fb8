"""Checks of one value, with the words for what is expected."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import in_one_line

# (test, what is expected): a rule of one value.
Rule = tuple[Callable[[Any], bool], str]

# What stands before the name of data that the program brings along.
BUILTIN = "builtin:"

MAX_TEXT = 4096  # characters
MAX_SHOWN = 200
# Of one name and of a whole path, in bytes: what file systems take, less what is added to them.
MAX_NAME, MAX_PATH = 255, 3000


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


def shown(value: Any) -> str:
    """A value in a message."""
    return cut(repr(value))


def cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def problem_with_text(text: str) -> str:
    """Why a text can be no value, whatever its key; or an empty string."""
    if len(text) > MAX_TEXT:
        return f"more than {MAX_TEXT:,} characters"
    if in_one_line(text) != text:
        return "line breaks or control characters in it"
    try:
        text.encode("utf-8", "surrogateescape")  # what a file's name can hold that is not UTF-8
    except UnicodeEncodeError:
        return "half a character in it (a surrogate)"
    return ""


def can_be_a_path(value: str) -> bool:
    """Whether a file or a folder may have that name; one that is there is no device or pipe."""
    path = value.encode("utf-8", "surrogateescape")
    if len(path) > MAX_PATH or any(len(name) > MAX_NAME for name in path.split(b"/")):
        return False
    return not os.path.exists(value) or os.path.isfile(value) or os.path.isdir(value)


PATH: Rule = (
    can_be_a_path,
    f"a file or a folder, with at most {MAX_NAME} bytes in a name and {MAX_PATH} in all",
)


def is_model_name_or_path(value: str) -> bool:
    """Where it is no path, folders are named after it."""
    if not can_be_a_path(value):
        return False
    looks_like_a_path = value.startswith((".", "/", "~")) or value.endswith("/")
    if not value or looks_like_a_path or value.count("/") > 1 or os.path.isdir(value):
        return True
    return re.fullmatch(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", value, re.ASCII) is not None


MODEL_NAME_OR_PATH: Rule = (
    is_model_name_or_path,
    "a folder that is there, or a name on the Hub like google/bert_uncased_L-2_H-128_A-2",
)


def no_folder(key: str, folder: str) -> str:
    return f"{key}: folder is not there, got {Path(folder).absolute()}, expected a folder"
