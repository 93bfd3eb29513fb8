"""What was written for a key, read in the type of the key's default."""

import math
from collections.abc import Callable
from typing import Any

from configs.predicates import cut, problem_with_text

LARGEST_NUMBER = 10**15  # what is larger is a mistake, and would overflow somewhere
TRUTH_VALUES = {  # those of YAML, in lower case
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
# An element of each list, by the last part of its key: the list itself may be empty.
ELEMENTS = {
    "HUGGINGFACE_DATASETS": ["wikipedia", "20220301.en"],
    "CUSTOMIZED_DATASETS": "raw_data/wikipedia",
    "SPECIAL_TOKENS": "[ENT]",
    "FINETUNE_TIME_MARKERS": 24.0,
    "TASKS": "CoLA",
    "STILT_TASKS": "RTE",
    "SEEDS": 42,
    "MULTIPROCESS_GPU_LIST": [0],
    "EPOCHS": 3,
    "BATCH_SIZES": 32,
    "LEARNING_RATES": 5e-5,
    "TEXT_COLUMNS": "sentence",
    "LABELS": "positive",
    "SCORE_RANGE": 5.0,
    "METRICS": "accuracy",
}


def read_value(written: Any, default: Any, key: str) -> Any:
    """written: as configs.yaml_files reads it: text, None, or a list or dict of these.

    Raises ValueError, which says what was expected.
    """
    example = [ELEMENTS[key.rpartition(".")[2]]] if isinstance(default, list) else default
    return _read(written, example, key)


def in_words(written: Any, key: str) -> str:
    """For a message; never what may be a secret."""
    return "a value that is not shown" if key.startswith("WANDB") else cut(_as_written(written))


def _read(written: Any, example: Any, key: str) -> Any:
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


def _read_list(written: Any, example: list, key: str) -> list:
    element = example[0]
    is_list = isinstance(written, list)
    if not is_list or (isinstance(element, list) and not all(isinstance(x, list) for x in written)):
        expected = f"a list like {_as_written(example)}"
        raise ValueError(f"wrong type, got {in_words(written, key)}, expected {expected}")
    return [_read(part, element, key) for part in written]


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
        number = int(written)  # exactly, not by way of a float
    except ValueError:
        number = _number(written)
        if not number.is_integer():
            raise ValueError("wrong type") from None
    return _not_too_large(int(number))


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


# By the type of an example: what is expected, and what reads it.
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
