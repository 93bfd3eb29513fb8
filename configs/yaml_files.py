"""YAML read strictly: what plain YAML passes over in silence, or chokes on, is a ConfigError here.

Every value is the text that is written, or nothing: what it stands for, its key decides. So `no`
may be Norwegian, 010 a name and 1e-4 a number. No text makes it run code, read anything but regular
files, or take memory or time beyond the size of a large config.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from configs.predicates import MAX_NAME, MAX_TEXT, problem_with_text, shown
from pipeline.errors import ConfigError

BASE = "_BASE_"

# Of a file in bytes, and of what it stands for in characters, with what its aliases repeat. That
# much takes a second or two.
MAX_SIZE = 1_000_000
NODE_SIZE = 20  # what a value counts for, besides its characters
MAX_DEPTH = 20  # of values within values, also by way of aliases

# How PyYAML begins what it says, and what is said instead.
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
    "expected '<document start>'": "more than what the lines before it make complete, expected "
    "sections like `SYSTEM:`",
}
# Those that are noticed some lines below the mistake.
NOTICED_LATE = ("could not find expected ':'", "expected ',' or", "found unexpected end of stream")

TEXT, MERGE, NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "null"))


def read_files(path: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """(full key, value) pairs of a YAML file, those of the files that it is built upon first.

    Raises ConfigError, with the file and mostly the line.
    """
    contents: dict[str, dict] = {}  # by real path, each before the one that it is built upon
    following: str | None = os.fspath(path)
    place = ""
    while following is not None:
        named_by, place = place, _real_path(following)
        if place in contents:
            raise ConfigError([f"{place}: {BASE} leads back to this file"])
        contents[place] = content = _read_file(place, named_by)
        following = _base_of(content, place)
    for place, content in reversed(contents.items()):
        pairs = list(_pairs(content))
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:  # `DATASET: {ID: a}` and `DATASET.ID: b`
                raise ConfigError([f"{place}: {key} stands twice"])
        yield from pairs


def read_overrides(overrides: Sequence[str], defaults: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(full key, value) pairs; a text key takes its value as it is, the others read it as YAML.

    overrides: alternating keys and values. defaults: by full key. Raises ConfigError with the key.
    """
    if len(overrides) % 2:
        raise ConfigError([f"{overrides[-1]}: expected KEY VALUE pairs, got a key without a value"])
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        if isinstance(defaults.get(key), str):
            yield key, text
        else:
            yield from _pairs({key: _parse(text, key)})


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError as error:
        raise ConfigError([f"{path}: not the name of a file ({error})"]) from error


def _base_of(content: dict, place: str) -> str | None:
    """Takes `_BASE_` out of a file's content: the path of that file, None if there is none."""
    if BASE not in content:
        return None
    name = content.pop(BASE)
    if not isinstance(name, str) or not name or problem_with_text(name):
        raise ConfigError([f"{place}: {BASE}: expected the name of a YAML file"])
    return os.path.join(os.path.dirname(place), name)


def _read_file(path: str, named_by: str) -> dict:
    """named_by: the file that builds upon this one, if any."""
    content = _parse(_text_of(path, named_by), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise ConfigError([f"{path}: expected sections like `SYSTEM:`, got {kind}"])
    return content


def _text_of(path: str, named_by: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe may never end
            raise ConfigError([f"{path}: cannot be read (not a regular file)"])
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        hint = f"; {BASE} of {named_by} is a path that starts at the folder of that file"
        problem = f"{path}: cannot be read ({error.strerror}){hint if named_by else ''}"
        raise ConfigError([problem]) from error
    if len(content) > MAX_SIZE:
        raise ConfigError([f"{path}: more than {MAX_SIZE:,} bytes, expected a config"])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"{path}: line {line}: not UTF-8 text, as which it must be saved"
        raise ConfigError([problem]) from error


def _pairs(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parse(text: str, name: str) -> Any:
    """The value of a YAML text. name: of the file or key that it comes from, for messages."""
    if len(text) > MAX_SIZE:
        raise ConfigError([f"{name}: more than {MAX_SIZE:,} characters, expected a value"])
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([f"{name}: {_explained(error)}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"character #x{error.character:04x}"
        raise ConfigError([f"{name}: line {line}: {found} is not allowed in YAML"]) from error
    except (ValueError, OverflowError) as error:  # an escape like \UFFFFFFFF
        raise ConfigError([f"{name}: not YAML ({error})"]) from error


def _explained(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    mark = error.context_mark if problem.startswith(NOTICED_LATE) else error.problem_mark
    found = (text for begin, text in EXPLANATIONS.items() if problem.startswith(begin))
    return f"line {mark.line + 1}: {next(found, problem)}"


class _StrictLoader(yaml.SafeLoader):
    """Limits the size of a document while it is read, before anything is made of it.

    Scalars and keys are text, and two equal keys are an error, where plain YAML takes the last.
    Tags, which ask for types, are not taken.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = 0
        # Of complete nodes, with what their aliases repeat.
        self.sizes: dict[yaml.Node, int] = {}
        self.heights: dict[yaml.Node, int] = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self.sizes:
                raise _error(f"*{event.anchor} stands within what it names", event)
            return node
        if event.tag not in (None, "!", TEXT):
            raise _error(f"the tag {shown(event.tag)} is not taken, expected plain values", event)
        self._check_depth(self.depth, event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        self._measure(node)
        if isinstance(node, yaml.MappingNode):
            _make_names_of_keys(node)
        return node

    def _measure(self, node: yaml.Node) -> None:
        parts: list[yaml.Node] = []
        size = NODE_SIZE
        if isinstance(node, yaml.ScalarNode):
            size += len(node.value)
            if len(node.value) > MAX_TEXT:
                raise _error(f"more than {MAX_TEXT:,} characters in one value", node)
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        else:
            parts = [part for pair in node.value for part in pair]
        self.sizes[node] = size + sum(self.sizes[part] for part in parts)
        self.heights[node] = 1 + max((self.heights[part] for part in parts), default=0)
        self._check_depth(self.heights[node] - 1, node)
        if max(self.sizes[node], len(self.sizes) * NODE_SIZE) > MAX_SIZE:
            most = f"{MAX_SIZE:,} characters or {MAX_SIZE // NODE_SIZE:,} values"
            raise _error(f"more than {most}, aliases followed", node)

    @staticmethod
    def _check_depth(depth: int, place: yaml.Event | yaml.Node) -> None:
        if depth >= MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} levels deep", place)


def _make_names_of_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _error("expected a name as key, got a list or a section", key)
        if len(key.value) > MAX_NAME:
            raise _error(f"more than {MAX_NAME} characters in a key", key)
        if key.value in lines:
            raise _error(f"{key.value} stands twice, first in line {lines[key.value]}", key)
        lines[key.value] = key.start_mark.line + 1
    node.value = [(_as_text(key), value) for key, value in node.value]


def _as_text(key: yaml.ScalarNode) -> yaml.ScalarNode:
    tag = key.tag if key.tag == MERGE else TEXT
    return yaml.ScalarNode(tag, key.value, key.start_mark, key.end_mark)


def _error(problem: str, place: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
