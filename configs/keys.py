"""Tables derived from the rows of configs.defaults: checks, values by key, and identity."""

from collections.abc import Iterator
from typing import Any

from yacs.config import CfgNode

from configs.defaults import SECTIONS
from configs.predicates import Rule
from configs.rows import Key, NamedEntries

# Sections with entries that users may add, by full name.
NAMED_ENTRIES: dict[str, NamedEntries] = {
    f"{section}.{name}": row
    for section, rows in SECTIONS.items()
    for name, row in rows.items()
    if isinstance(row, NamedEntries)
}
KEYS: dict[str, Key] = {
    f"{section}.{name}": row
    for section, rows in SECTIONS.items()
    for name, row in rows.items()
    if isinstance(row, Key)
}
RULES: dict[str, Rule] = {key: row.rule for key, row in KEYS.items() if row.rule}


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Returns `{"SYSTEM.NUM_GPUS": -1, ...}`: every value by its full key."""
    flat = {}
    for name, value in node.items():
        if isinstance(value, CfgNode):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def row_of(key: str) -> Key:
    """Returns the row of a full key, also in an entry added by a user."""
    if key in KEYS:
        return KEYS[key]
    section, _, name = key.rpartition(".")
    return NAMED_ENTRIES[section.rpartition(".")[0]].keys[name]


def rows_of(config: CfgNode) -> Iterator[tuple[str, Key, Any]]:
    """Yields (full key, row, value) for every key of a config."""
    for key, value in flatten(config).items():
        yield key, row_of(key), value


def identity_inputs(config: CfgNode, section: str) -> dict[str, Any]:
    """Returns `{full key: value}` of the keys of a section that a stage's results depend on.

    Without those in another form, which the stage's plan adds (see configs.rows.by_plan).
    """
    return {
        key: value
        for key, row, value in rows_of(config)
        if key.startswith(f"{section}.")
        and (row.identity(config) if callable(row.identity) else row.identity)
    }
