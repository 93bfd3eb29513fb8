"""Reads written values in the types of their keys' defaults."""

import math
import os
from collections.abc import Callable
from typing import Any

from configs.predicates import cut, problem_with_text

LARGEST_NUMBER = 10**15  # larger ones are mistakes, and would overflow in some computation
TRUTH_VALUES = {  # those of YAML, in lower case
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


def read_value(written: Any, example: Any, key: str) -> Any:
    """Returns a written value in the type of an example.

    example: a list has one element. written: from configs.yaml_files: text, None, or a list or
    dict of these. Raises ValueError with the expected type.
    """
    if isinstance(example, list):
        return _read_list([] if written is None else written, example, key)
    if isinstance(example, str) and written is None:
        return ""
    expected, read = READERS[type(example)]
    try:
        if not isinstance(written, str):
            raise ValueError("wrong type")
        return read(written)
    except ValueError as error:
        raise ValueError(f"{error}, got {in_words(written, key)}, expected {expected}") from error


def with_home(value: Any) -> Any:
    """Expands `~` in a path, in each path of a list, or in the first element of each inner list."""
    if isinstance(value, str):
        return os.path.expanduser(value)
    return [
        [*map(os.path.expanduser, element[:1]), *element[1:]]
        if isinstance(element, list)
        else os.path.expanduser(element)
        for element in value
    ]


def in_words(written: Any, key: str) -> str:
    """Returns a written value for a message, without a possible secret."""
    return "a value that is not shown" if key.startswith("WANDB") else cut(_as_written(written))


def _read_list(written: Any, example: list, key: str) -> list:
    element = example[0]
    is_list = isinstance(written, list)
    if not is_list or (isinstance(element, list) and not all(isinstance(x, list) for x in written)):
        expected = f"a list like {_as_written(example)}"
        raise ValueError(f"wrong type, got {in_words(written, key)}, expected {expected}")
    return [read_value(part, element, key) for part in written]


def _text(written: str) -> str:
    if problem := problem_with_text(written):
        raise ValueError(problem)
    return written


def _truth_value(written: str) -> bool:
    if written.lower() not in TRUTH_VALUES:
        raise ValueError("wrong type")
    return TRUTH_VALUES[written.lower()]


def _whole_number(written: str) -> int:
    try:
        return int(_not_too_large(int(written)))  # exact, unlike a float
    except ValueError:
        number = _number(written)
    if not number.is_integer():
        raise ValueError("wrong type")
    return int(number)


def _number(written: str) -> float:
    try:
        number = float(written)
    except ValueError:
        raise ValueError("wrong type") from None
    if math.isnan(number):
        raise ValueError("wrong type")
    return _not_too_large(number)


def _not_too_large(number: float) -> float:
    if abs(number) > LARGEST_NUMBER:
        raise ValueError(f"too large (beyond {LARGEST_NUMBER:.0e})")
    return number


# By the type of an example: its name in messages, and its reader.
READERS: dict[type, tuple[str, Callable[[str], Any]]] = {
    str: ("text", _text),
    bool: ("True or False", _truth_value),
    int: ("a whole number", _whole_number),
    float: ("a number like 0.5", _number),
}


def _as_written(written: Any) -> str:
    if isinstance(written, list):
        return f"[{', '.join(map(_as_written, written))}]"
    if isinstance(written, dict):
        pairs = (f"{name}: {_as_written(value)}" for name, value in written.items())
        return f"{{{', '.join(pairs)}}}"
    return "nothing" if written in (None, "") else str(written)
