"""YAML files and `KEY VALUE` pairs made into a checked, frozen config.

Values are brought to the type of their default before they are merged, and everything that is
wrong is collected and raised at once.
"""

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from configs.defaults import custom_task_node, get_default_config, grid_node
from configs.rules import problems_of_values
from pipeline.errors import ConfigError

BASE = "_BASE_"

# Shape of the elements of those lists whose default is empty and cannot show it.
ELEMENT_EXAMPLES = {
    "DATASET.HUGGINGFACE_DATASETS": ["wikipedia", "20220301.en"],
    "TOKENIZER.SPECIAL_TOKENS": "[ENT]",
    "DATASET.CUSTOMIZED_DATASETS": "folder",
    "FINETUNE.MULTIPROCESS_GPU_LIST": [0],
    "EPOCHS": 3,
    "BATCH_SIZES": 32,
    "LEARNING_RATES": 5e-5,
    "FINETUNE.STILT_TASKS": "RTE",
    "TEXT_COLUMNS": "sentence",
    "LABELS": "positive",
    "SCORE_RANGE": 5.0,
    "METRICS": "accuracy",
    "PRETRAIN.FINETUNE_TIME_MARKERS": 24.0,
}

# Sections whose keys are names that users choose, and what stands under such a name.
OPEN_SECTIONS = {
    "FINETUNE.CUSTOM_TASKS": custom_task_node,
    "FINETUNE.GRID": grid_node,
}

PATH_KEYS = (
    ("SYSTEM", "OUTPUT_ROOT"),
    ("SYSTEM", "HOSTFILE"),
    ("PRETRAIN", "DEEPSPEED_CONFIG"),
    ("TOKENIZER", "NAME_OR_PATH"),
    ("FINETUNE", "GLUE_DIR"),
    ("FINETUNE", "SUPERGLUE_DIR"),
    ("FINETUNE", "MODEL_NAME_OR_PATH"),
)


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
    for key, value in (*_read_yaml(Path(path)), *_read_overrides(overrides, flatten(config))):
        _set(config, key, value, problems)
    _expand_home(config)
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
    """Plain YAML takes the last of two equal keys silently; here they are an error.

    Nor is a name like 2024-01-05 made into a date.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        own = [key for key, _ in node.value if not key.tag.endswith(":merge")]
        keys = [self.construct_object(key, deep=True) for key in own]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = own[position].start_mark
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


def _read_overrides(
    overrides: Sequence[str], defaults: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """(full key, value) pairs; a text key takes its value as it is, the others read it as YAML."""
    if len(overrides) % 2:
        raise ConfigError([f"{overrides[-1]}: expected KEY VALUE pairs, got a key without a value"])
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        if isinstance(defaults.get(key), str):
            yield key, text
            continue
        try:
            value = yaml.load(text, _StrictLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError([f"{key}: {_one_line(error)}"]) from error
        yield from _pairs({key: value})


# --- merging ---------------------------------------------------------------------------------


def _expand_home(config: CfgNode) -> None:
    """`~` in paths, wherever the config takes one."""
    dataset = config.DATASET
    for node, key in PATH_KEYS:
        config[node][key] = os.path.expanduser(config[node][key])
    for task in config.FINETUNE.CUSTOM_TASKS.values():
        for key in ("TRAIN", "DEV", "TEST"):
            task[key] = os.path.expanduser(task[key])
    dataset.CUSTOMIZED_DATASETS = [os.path.expanduser(path) for path in dataset.CUSTOMIZED_DATASETS]
    dataset.HUGGINGFACE_DATASETS = [
        [os.path.expanduser(pair[0]), *pair[1:]] if pair else pair
        for pair in dataset.HUGGINGFACE_DATASETS
    ]


def _set(config: CfgNode, key: str, value: Any, problems: list[str]) -> None:
    """Puts a value into the tree under its full key, or adds a problem."""
    *sections, name = key.split(".")
    node: Any = config
    for depth, section in enumerate(sections):
        parent = ".".join(sections[:depth])
        if parent in OPEN_SECTIONS and section not in node:
            node[section] = OPEN_SECTIONS[parent]()
        node = node.get(section) if isinstance(node, CfgNode) else None
    if value in (None, {}) and ".".join(sections) in OPEN_SECTIONS and name not in node:
        node[name] = OPEN_SECTIONS[".".join(sections)]()
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
    elif isinstance(value, int) and isinstance(example, int) and not isinstance(value, bool):
        return value  # exactly, however large
    elif not isinstance(value, bool):
        number = _number(value)
        if number is not None and isinstance(example, float):
            return number
        if number is not None and number.is_integer():
            return int(number)
    shown = "a value that is not shown" if key.endswith("API_KEY") else repr(value)
    quoted = isinstance(value, bool) and isinstance(example, str)
    hint = " (in quotes: YAML takes yes, no, on, off, true and false for truth values)"
    raise ValueError(f"wrong type, got {shown}, expected {_kind(example)}{hint if quoted else ''}")


def _coerce_list(values: Any, example: list, key: str) -> list:
    element = ELEMENT_EXAMPLES.get(key, ELEMENT_EXAMPLES.get(key.rpartition(".")[2]))
    if element is None:
        element = example[0]
    if not isinstance(values, list | tuple):
        raise ValueError(f"wrong type, got {values!r}, expected a list like [{_kind(element)}]")
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
        return f"[{', '.join(map(_kind, example))}]"
    return {bool: "True or False", int: "a whole number", float: "a number"}.get(
        type(example), "text"
    )
