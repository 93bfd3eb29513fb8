"""The row of a config key: its default, its check, and its part in the identity of results."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from typing import Any

from yacs.config import CfgNode

from configs.predicates import Rule

Identity = bool | Callable[[CfgNode], bool]


@dataclass(frozen=True)
class Key:
    """A key of the config; its type is that of its default.

    rule: check of its values; None takes every value of the type. identity: True if other values
    give other results, which are then made again; False if they do not; or a predicate that
    decides it from the config. element: example of an element, of a list that is empty by default.
    is_path: `~` is expanded, in a list in each element, in a list of lists in the first of each.
    flag: its name on the command line of run_pretraining.py; None is the key in lower case for
    MODEL and PRETRAIN and no flag elsewhere, "" is no flag.
    """

    default: Any
    rule: Rule | None = None
    _: KW_ONLY
    identity: Identity
    element: Any = None
    is_path: bool = False
    flag: str | None = None

    def make_default(self) -> Any:
        """Returns a copy, as lists can be changed."""
        return deepcopy(self.default)

    @property
    def example(self) -> Any:
        """The default, or for a list one with a single element."""
        if not isinstance(self.default, list):
            return self.default
        return [self.element] if self.element is not None else self.default[:1]


@dataclass(frozen=True)
class NamedEntries:
    """A section of entries with the same keys; users may add entries under names of their own.

    keys: rows of an entry. present: names of the entries by default, each with the values that
    differ from the rows' defaults.
    """

    keys: Mapping[str, Key]
    present: Mapping[str, Mapping[str, Any]]

    def make_entry(self) -> CfgNode:
        """Returns an entry with the defaults."""
        return CfgNode({name: row.make_default() for name, row in self.keys.items()})

    def make_default(self) -> CfgNode:
        entries = CfgNode()
        for name, values in self.present.items():
            entries[name] = self.make_entry()
            entries[name].update(deepcopy(dict(values)))
        return entries


Row = Key | NamedEntries


def when(key: str, value: Any = None) -> Callable[[CfgNode], bool]:
    """Returns a predicate over the config: True if a key has this value.

    key: full name. Without a value, True if the key is set (not 0, False or empty).
    """
    section, name = key.split(".")

    def is_so(config: CfgNode) -> bool:
        found = config[section][name]
        return bool(found) if value is None else found == value

    return is_so


def by_plan(config: CfgNode) -> bool:
    """Marks a key that is part of the identity in another form, which the stage's plan adds.

    That is the content of a file or folder in place of its path, or the runs of a search.
    """
    return False
