"""Strict YAML: duplicate keys, tags and unclear syntax are ConfigErrors with file and line.

Every value is read as text, or None if it is missing; the key decides its type. So `no` may be a
language, 010 a name and 1e-4 a number.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from configs.predicates import problem_with_text, shown
from pipeline.errors import ConfigError

BASE = "_BASE_"

# The beginning of a message of PyYAML, and our text in its place.
NEEDS_QUOTES = "a value that begins with any of * & @ % ` needs quotes"
NEEDS_SINGLE_QUOTES = "a backslash between double quotes, expected it between single quotes"
EXPLANATIONS = {
    "found character '\\t'": "a tab, expected spaces",
    "found character": NEEDS_QUOTES,
    "expected alphabetic": NEEDS_QUOTES,
    "found undefined alias": NEEDS_QUOTES,
    "found unknown escape": NEEDS_SINGLE_QUOTES,
    "expected escape sequence": NEEDS_SINGLE_QUOTES,
    "mapping values are not": "a key where none is expected; is the line before it complete, as in "
    "`KEY: value`, and indented alike? A value with `: ` in it needs quotes",
    "expected <block end>": "not indented like the lines before it, or not `KEY: value` or "
    "`- value` as they are",
    "could not find expected ':'": "expected `KEY: value`, with a colon and a space",
    "expected ',' or": "a bracket that is not closed, or a comma that is missing",
    "found unexpected end of stream": "a quote that is not closed",
    "but found another document": "a second document begins here, expected a single one",
    "expected '<document start>'": "text after a complete value, expected sections like `SYSTEM:`",
}
# PyYAML notices these some lines below the mistake.
NOTICED_LATE = ("could not find expected ':'", "expected ',' or", "found unexpected end of stream")

TEXT, MERGE, NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "null"))


def read_files(path: str | os.PathLike, users: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yields the (full key, value) pairs of a YAML file, after those of its base file.

    users: paths of the files with this one as their base. Raises ConfigError, with the file and
    mostly the line.
    """
    place = os.path.realpath(path)
    if place in users:
        raise ConfigError([f"{place}: {BASE} leads back to this file"])
    content = _read_file(place, users)
    if BASE in content:
        name = content.pop(BASE)
        if not isinstance(name, str) or not name or problem_with_text(name):
            raise ConfigError([f"{place}: {BASE}: expected the name of a YAML file"])
        yield from read_files(os.path.join(os.path.dirname(place), name), (*users, place))
    pairs = list(_pairs(content))
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:  # `DATASET: {ID: a}` and `DATASET.ID: b`
            raise ConfigError([f"{place}: {key} appears twice"])
    yield from pairs


def read_overrides(overrides: Sequence[str], defaults: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (full key, value) pairs; the value of a text key is the text, others are YAML.

    overrides: alternating keys and values. defaults: by full key. Raises ConfigError with the key.
    """
    if len(overrides) % 2:
        raise ConfigError([f"{overrides[-1]}: expected KEY VALUE pairs, got a key without a value"])
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        if isinstance(defaults.get(key), str):
            yield key, text
        else:
            yield from _pairs({key: _parse(text, key)})


def _read_file(path: str, users: Sequence[str]) -> dict:
    """Returns the sections of a file."""
    content = _parse(_text_of(path, users), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise ConfigError([f"{path}: expected sections like `SYSTEM:`, got {kind}"])
    return content


def _text_of(path: str, users: Sequence[str]) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe may never end
            raise ConfigError([f"{path}: cannot be read (not a regular file)"])
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        hint = f"; {BASE} of {users[-1]} is a path from the folder of that file" if users else ""
        raise ConfigError([f"{path}: cannot be read ({error.strerror}){hint}"]) from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}: line {line}: not UTF-8 text, expected UTF-8"]) from error


def _pairs(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parse(text: str, name: str) -> Any:
    """Returns the value of a YAML text. name: file or key for messages."""
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([f"{name}: {_explained(error)}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"character #x{error.character:04x}"
        raise ConfigError([f"{name}: line {line}: {found} is not allowed in YAML"]) from error
    except (ValueError, OverflowError) as error:  # an escape like \UFFFFFFFF
        raise ConfigError([f"{name}: {NEEDS_SINGLE_QUOTES}"]) from error


def _explained(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    mark = error.context_mark if problem.startswith(NOTICED_LATE) else error.problem_mark
    found = (text for begin, text in EXPLANATIONS.items() if problem.startswith(begin))
    place = f"line {mark.line + 1}: " if mark else ""
    return place + next(found, problem)


class _StrictLoader(yaml.SafeLoader):
    """Reads scalars and keys as text, and refuses duplicate keys and tags."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        event = self.peek_event()
        if not isinstance(event, yaml.AliasEvent) and event.tag not in (None, "!", TEXT):
            raise _error(f"the tag {shown(event.tag)}, expected values without tags", event)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node


def _check_keys(node: yaml.MappingNode) -> None:
    """Makes the keys of a mapping texts. Raises an error for lists, sections and duplicates."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _error("expected a name as key, got a list or a section", key)
        if key.value in lines:
            raise _error(f"{key.value} appears twice, first in line {lines[key.value]}", key)
        lines[key.value] = key.start_mark.line + 1
        if key.tag != MERGE:
            key.tag = TEXT


def _error(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """place: an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
