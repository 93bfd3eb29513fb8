"""YAML files and `KEY VALUE` pairs made into a checked, frozen config.

What is written is read in the type of its key's default before it is merged, and everything that is
wrong is collected and raised at once.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from configs.defaults import custom_task_node, get_default_config, grid_node
from configs.key_rules import PATH_KEYS, problems_of_values
from configs.parsing import in_words, read_value
from configs.predicates import cut
from configs.yaml_files import read_files, read_overrides
from pipeline.errors import MAX_PROBLEMS, ConfigError
from pipeline.privacy import LOGIN

# Sections whose keys are names that users choose, and what stands under such a name.
OPEN_SECTIONS = {
    "FINETUNE.CUSTOM_TASKS": custom_task_node,
    "FINETUNE.GRID": grid_node,
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
    for key, value in (*read_files(path), *read_overrides(overrides, flatten(config))):
        _set(config, key, value, problems)
    _expand_home(config)
    # What is of the wrong kind was not taken over, and counts as its default here.
    problems += problems_of_values(config, stages)
    problems += _logins(config)
    if problems:
        raise ConfigError(problems)
    config.freeze()
    return config


def _logins(config: CfgNode) -> Iterator[str]:
    """Addresses with a login: the config goes into records and reports that others read."""
    for key, value in flatten(config).items():
        if LOGIN.search(str(value)):
            yield f"{key}: an address with a login, which is not shown, expected it without"


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """`{"SYSTEM.NUM_GPUS": -1, ...}`: every key under its full name."""
    flat = {}
    for name, value in node.items():
        if isinstance(value, CfgNode):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


# --- merging ---------------------------------------------------------------------------------


def _expand_home(config: CfgNode) -> None:
    """`~` in paths, wherever the config takes one."""
    dataset = config.DATASET
    for section, _, key in (full_key.partition(".") for full_key in PATH_KEYS):
        config[section][key] = os.path.expanduser(config[section][key])
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
    try:
        _make_room(config, key, value)
        node: Any = config
        for section in sections:
            node = node.get(section) if isinstance(node, CfgNode) else None
        if not isinstance(node, CfgNode) or name not in node:
            # Looking for what was meant takes a while; of many problems the last are not shown.
            hint = _did_you_mean(key) if len(problems) < MAX_PROBLEMS else ""
            raise ValueError(f"unknown key{hint}")
        if not isinstance(node[name], CfgNode):
            node[name] = read_value(value, node[name], key)
        elif value not in (None, {}):  # a section that is left empty changes nothing
            shown = in_words(value, key)
            raise ValueError(f"expected a section, lines of `KEY: value`, got {shown}")
    except ValueError as error:
        problems.append(f"{cut(key)}: {error}")


def _make_room(config: CfgNode, key: str, value: Any) -> None:
    """For what stands under a name that the user chose; ValueError if the key is not like that."""
    for place, make_node in OPEN_SECTIONS.items():
        if not key.startswith(f"{place}."):
            continue
        name, *keys = key.removeprefix(f"{place}.").split(".")
        if len(keys) > 1 or (not keys and value not in (None, {})):
            expected = f"{place}.NAME.KEY, without a dot in the NAME"
            raise ValueError(f"got {in_words(value, key)}, expected {expected}")
        top, _, section = place.partition(".")
        config[top][section].setdefault(name, make_node())


def _did_you_mean(key: str) -> str:
    known = list(flatten(get_default_config()))
    section, _, name = key.rpartition(".")
    if section.rpartition(".")[0] in OPEN_SECTIONS:
        known += [f"{section}.{own}" for own in OPEN_SECTIONS[section.rpartition(".")[0]]()]
    in_capitals = {other.upper(): other for other in known}
    wanted, last = key.strip().upper(), name.strip().upper()
    same = [other for other in in_capitals if other.rpartition(".")[2] == last]
    found = difflib.get_close_matches(wanted, same or in_capitals, 1, cutoff=0 if same else 0.8)
    return f" (did you mean {in_capitals[found[0]]}?)" if found else ""
