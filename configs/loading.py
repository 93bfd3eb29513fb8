"""YAML files and `KEY VALUE` pairs made into a checked, frozen config.

Values are brought to the type of their default before they are merged, and everything that is
wrong is collected and raised at once.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from configs.defaults import get_default_config
from configs.rules import problems_of_values
from pipeline.errors import ConfigError

BASE = "_BASE_"

# Shape of the elements of those lists whose default is empty and cannot show it.
ELEMENT_EXAMPLES = {
    "DATASET.HUGGINGFACE_DATASETS": ["wikipedia", "20220301.en"],
    "DATASET.CUSTOMIZED_DATASETS": "folder",
    "FINETUNE.MULTIPROCESS_GPU_LIST": [0],
    "EPOCHS": 3,
    "BATCH_SIZES": 32,
    "LEARNING_RATES": 5e-5,
    "FINETUNE.STILT_TASKS": "RTE",
}


def load_config(
    path: str | Path, overrides: Sequence[str] = (), stages: Iterable[str] | None = None
) -> CfgNode:
    """The config of a YAML file.

    overrides: alternating keys and values, as on the command line. stages: names of the stages
    that will run (None: all that are enabled); what only the others need is not checked.
    Raises ConfigError with every problem that was found.
    """
    config = get_default_config()
    problems: list[str] = []
    for key, value in (*_read_yaml(Path(path)), *_read_overrides(overrides)):
        _set(config, key, value, problems)
    # A value of the wrong kind was not taken over, so checks across keys would mislead.
    problems += problems_of_values(config, stages)
    if problems:
        raise ConfigError(problems)
    config.freeze()
    return config


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """`{"SYSTEM.NUM_GPUS": -1, ...}`: every key under its full name."""
    flat = {}
    for name, value in node.items():
        if isinstance(value, CfgNode):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


# --- reading ---------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML takes the last of two equal keys silently; here they are an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands twice", mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(full key, value) pairs of a file, those of its `_BASE_` first."""
    path = path.resolve()
    if path in seen:
        raise ConfigError([f"{path}: {BASE} leads back to this file"])
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader) or {}
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: {_one_line(error)}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: expected sections like `SYSTEM:`, got {content!r}"])
    if BASE in content:
        yield from _read_yaml(path.parent / str(content.pop(BASE)), (*seen, path))
    yield from _pairs(content)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark else ""
    return place + (getattr(error, "problem", None) or str(error).splitlines()[0])


def _pairs(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if len(overrides) % 2:
        raise ConfigError([f"{overrides[-1]}: expected KEY VALUE pairs, got a key without a value"])
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        try:
            value = yaml.load(text, _StrictLoader)
        except yaml.YAMLError as error:
            raise ConfigError([f"{key}: {_one_line(error)}"]) from error
        yield from _pairs({key: value})


# --- merging ---------------------------------------------------------------------------------


def _set(config: CfgNode, key: str, value: Any, problems: list[str]) -> None:
    """Puts a value into the tree under its full key, or adds a problem."""
    *sections, name = key.split(".")
    node: Any = config
    for section in sections:
        node = node.get(section) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or name not in node:
        problems.append(f"{key}: unknown key{_did_you_mean(config, key)}")
    elif isinstance(node[name], CfgNode):
        if value not in (None, {}):  # a section that is left empty changes nothing
            problems.append(f"{key}: expected a section with keys, got {value!r}")
    else:
        try:
            node[name] = _coerce(value, node[name], key)
        except ValueError as error:
            problems.append(f"{key}: {error}")


def _did_you_mean(config: CfgNode, key: str) -> str:
    known = list(flatten(config))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    by_name = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    found = close or by_name
    return f" (did you mean {found[0]}?)" if found else ""


def _coerce(value: Any, example: Any, key: str) -> Any:
    """The value in the type of its default; ValueError says what was expected."""
    if isinstance(example, list):
        return _coerce_list([] if value is None else value, example, key)
    if isinstance(example, str):
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    elif isinstance(example, bool):
        if isinstance(value, bool):
            return value
    elif not isinstance(value, bool):
        number = _number(value)
        if number is not None and isinstance(example, float):
            return number
        if number is not None and number.is_integer():
            return int(number)
    raise ValueError(f"wrong type, got {value!r}, expected {_kind(example)}")


def _coerce_list(values: Any, example: list, key: str) -> list:
    if not isinstance(values, list | tuple):
        raise ValueError(f"wrong type, got {values!r}, expected a list like [{_kind(example)}]")
    element = ELEMENT_EXAMPLES.get(key, ELEMENT_EXAMPLES.get(key.rpartition(".")[2]))
    if element is None:
        element = example[0]
    return [_coerce(value, element, "") for value in values]


def _number(value: Any) -> float | None:
    """PyYAML reads 1e-5 as a string, so strings are looked at too."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _kind(example: Any) -> str:
    if isinstance(example, list):
        return ", ".join(_kind(element) for element in example[:1]) or "values"
    return {bool: "True or False", int: "a whole number", float: "a number"}.get(
        type(example), "text"
    )
