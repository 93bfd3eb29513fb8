"""Loads YAML files and `KEY VALUE` pairs into a checked, frozen config.

Each value is read in the type of its key's default before it is merged. All problems are collected
and raised at once.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from configs.defaults import get_default_config
from configs.key_rules import problems_of_values
from configs.keys import NAMED_ENTRIES, flatten, row_of, rows_of
from configs.parsing import in_words, read_value, with_home
from configs.phases import PHASES, read_phases
from configs.predicates import cut
from configs.yaml_files import read_files, read_overrides
from pipeline.errors import ConfigError
from pipeline.privacy import LOGIN

# Names of other tools for PRETRAIN.START_FROM.
NAMES_OF_START = {
    *("MODEL_NAME_OR_PATH", "MODEL_NAME", "MODEL_PATH", "INIT_CHECKPOINT", "LOAD_PATH"),
    *("PRETRAINED_MODEL_NAME_OR_PATH", "PRETRAINED_MODEL", "PRETRAINED_CHECKPOINT", "CHECKPOINT"),
    *("FROM_PRETRAINED", "PRETRAINED", "BASE_MODEL", "INIT_FROM", "START_CHECKPOINT"),
}
START_FROM = "PRETRAIN.START_FROM"

# (config, keys that the user has set) -> a line for each problem; sets more keys.
Complete = Callable[[CfgNode, Collection[str]], Iterable[str]]


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    stages: Iterable[str] | None = None,
    complete: Complete = lambda config, written: (),
) -> CfgNode:
    """Returns the config of a YAML file.

    overrides: alternating keys and values, as on the command line. stages: names of the stages
    that will run (None: all that are enabled); needs of the others are not checked. complete:
    called before the values are checked, e.g. pretrain.start.completion.complete.
    Raises ConfigError with every problem.
    """
    config = get_default_config()
    problems: list[str] = []
    try:
        pairs = [*read_files(path), *read_overrides(overrides, flatten(config))]
    except RecursionError as error:  # a value can contain itself, by an alias
        problem = f"{path}: nested too deeply, or a value that contains itself"
        raise ConfigError([problem]) from error
    for key, value in pairs:
        _set(config, key, value, problems)
    for key, row, value in rows_of(config):
        if row.is_path:
            node, _, name = key.rpartition(".")
            _node_of(config, node)[name] = with_home(value)
    problems += complete(config, {key for key, _ in pairs})
    # A value of a wrong type was not merged; the checks see the default in its place.
    problems += problems_of_values(config, stages)
    problems += _logins(config)
    if problems:
        raise ConfigError(problems)
    config.freeze()
    return config


def _logins(config: CfgNode) -> Iterator[str]:
    """Addresses with a login: the config is written into records and reports that others read."""
    for key, value in flatten(config).items():
        if LOGIN.search(str(value)):
            yield f"{key}: an address with a login, which is not shown, expected it without"


# --- merging ---------------------------------------------------------------------------------


def _set(config: CfgNode, key: str, value: Any, problems: list[str]) -> None:
    """Sets a full key to a value as it was written, or adds a problem."""
    section, _, name = key.rpartition(".")
    if key == PHASES or key.startswith(f"{PHASES}."):
        config.PRETRAIN.PHASES = read_phases(key, value, problems)
        return
    try:
        _add_named_entry(config, key, value)
        node = _node_of(config, section)
        if not isinstance(node, CfgNode) or name not in node:
            raise ValueError(f"unknown key{_did_you_mean(key)}")
        if not isinstance(node[name], CfgNode):
            row = row_of(key)
            try:
                node[name] = read_value(value, row.example, key)
            except ValueError as error:
                hint = row.hint if isinstance(value, list) else ""
                raise ValueError(f"{error}{hint}") from error
        elif value not in (None, {}):  # an empty section changes nothing
            shown = in_words(value, key)
            raise ValueError(f"expected a section, lines of `KEY: value`, got {shown}")
    except ValueError as error:
        problems.append(f"{cut(key)}: {error}")


def _node_of(config: CfgNode, section: str) -> Any:
    """Returns the node of a section, by full name, or None."""
    node: Any = config
    for name in section.split(".") if section else ():
        node = node.get(name) if isinstance(node, CfgNode) else None
    return node


def _add_named_entry(config: CfgNode, key: str, value: Any) -> None:
    """Adds the entry of a key, if its name is new; ValueError for a key of wrong depth."""
    for section, row in NAMED_ENTRIES.items():
        if not key.startswith(f"{section}."):
            continue
        name, *keys = key.removeprefix(f"{section}.").split(".")
        if len(keys) > 1 or (not keys and value not in (None, {})):
            expected = f"{section}.NAME.KEY, without a dot in the NAME"
            raise ValueError(f"got {in_words(value, key)}, expected {expected}")
        _node_of(config, section).setdefault(name, row.make_entry())


def _did_you_mean(key: str) -> str:
    known = list(flatten(get_default_config()))
    section, _, name = key.rpartition(".")
    if section.strip().upper() in ("", "MODEL", "PRETRAIN") and name.upper() in NAMES_OF_START:
        return f" (did you mean {START_FROM}?)"
    if entries := NAMED_ENTRIES.get(section.rpartition(".")[0]):
        known += [f"{section}.{own}" for own in entries.keys]
    in_capitals = {other.upper(): other for other in known}
    wanted, last = key.strip().upper(), name.strip().upper()
    same = [other for other in in_capitals if other.rpartition(".")[2] == last]
    found = difflib.get_close_matches(wanted, same or in_capitals, 1, cutoff=0 if same else 0.8)
    return f" (did you mean {in_capitals[found[0]]}?)" if found else ""
