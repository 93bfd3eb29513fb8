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
    """A key of the config.

    default: its type is the type of the key. rule: check of a value; None accepts every value of
    the type. identity: True if other values give other results, and so new results are made;
    False if they do not; a predicate if the rest of the config decides it. element: example for a
    list that is empty by default. is_path: `~` is expanded, also in the elements of a list, or the
    first elements of its lists. flag: name on the command line of run_pretraining.py; None means
    the key's name in lower case for MODEL and PRETRAIN and no flag elsewhere, "" no flag. hint:
    ends the message on a list with elements of a wrong type.
    """

    default: Any
    rule: Rule | None = None
    _: KW_ONLY
    identity: Identity
    element: Any = None
    is_path: bool = False
    flag: str | None = None
    hint: str = ""

    def make_default(self) -> Any:
        """Returns a copy, as lists can be changed."""
        return deepcopy(self.default)

    @property
    def example(self) -> Any:
        """The default, or a list with a single element."""
        if not isinstance(self.default, list):
            return self.default
        return [self.element] if self.element is not None else self.default[:1]


@dataclass(frozen=True)
class NamedEntries:
    """A section of entries with the same keys; users may add entries under names of their own.

    keys: rows of an entry. present: the default entries by name, each with the values other than
    the rows' defaults.
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
    """Marks a key as part of the identity in another form, added by the stage's plan.

    Examples are the content of a file in place of its path, and the runs of a search.
    """
    return False
