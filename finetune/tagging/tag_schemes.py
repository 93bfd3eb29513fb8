"""Schemes of the tags of entities: IOB2, IOB1, IOBES, BILOU and IO.

A tag is `O`, or a prefix and a type, like `B-PER`. A prefix alone has the type `_`, as in seqeval.

| scheme | one token | three tokens          | after another entity of its type |
|--------|-----------|-----------------------|----------------------------------|
| IOB2   | B-PER     | B-PER, I-PER, I-PER   | the same                         |
| IOB1   | I-PER     | I-PER, I-PER, I-PER   | B-PER first                      |
| IOBES  | S-PER     | B-PER, I-PER, E-PER   | the same                         |
| BILOU  | U-PER     | B-PER, I-PER, L-PER   | the same                         |
| IO     | PER       | PER, PER, PER         | cannot be told from its rest     |

One rule reads them all, that of conlleval and seqeval's `get_entities`: an entity begins at B, S
or U, and at any other tag after O, after another type, and after E, S, L or U. It ends at E, S, L
or U, and before O and the next entity. So reading needs no scheme, and invalid tags are read as
these programs score them.

`SchemeCount` finds the scheme of a file: the one that makes the fewest tags invalid, and of several
such the first in the table. Entities next to each other are not needed to tell IOB1 from IOB2: the
first entity after an O begins with I in IOB1 and with B in IOB2. A file with I alone is IOB1, one
with O alone IOB2. Tags without prefixes are IO; such a file needs an O, which parts of speech lack.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

OUTSIDE = "O"
NO_TYPE = "_"
# The prefixes of an entity: its only token, its first, its inner and its last one.
SHAPES = {
    "IOB2": ("B", "B", "I", "I"),
    "IOB1": ("I", "I", "I", "I"),
    "IOBES": ("S", "B", "I", "E"),
    "BILOU": ("U", "B", "I", "L"),
    "IO": ("", "", "", ""),
}
MAX_TYPES = 1000  # without prefixes; a column with more rarely holds tags
_PREFIXES = frozenset("BIESLU")
_BEGINS, _ENDS, _GOES_ON = frozenset("BSU"), frozenset("ESLU"), frozenset("BI")
_ALMOST_PREFIX = re.compile(r"[BI][_:./|+]|[bi][-_:]|.*[-_:./|+][BI]$", re.DOTALL)


class Span(NamedTuple):
    """The entity of the tokens [start, stop)."""

    kind: str
    start: int
    stop: int


def split_tag(tag: str) -> tuple[str, str]:
    """Returns (prefix, type) of a tag: (`O`, ``) of O, an empty prefix if it has none."""
    prefix, _, kind = tag.partition("-")
    if tag == OUTSIDE:
        return OUTSIDE, ""
    return (prefix, kind or NO_TYPE) if prefix in _PREFIXES else ("", tag)


def spans_of(tags: Iterable[str]) -> list[Span]:
    """Returns the entities of a sentence, in their order; the tags may be of any scheme."""
    spans: list[Span] = []
    goes_on = False
    for place, (prefix, kind) in enumerate(map(split_tag, tags)):
        if prefix == OUTSIDE:
            goes_on = False
            continue
        if goes_on and prefix not in _BEGINS and kind == spans[-1].kind:
            spans[-1] = spans[-1]._replace(stop=place + 1)
        else:
            spans.append(Span(kind, place, place + 1))
        goes_on = prefix not in _ENDS
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: str = "IOB2") -> list[str]:
    """Returns the tags of a sentence of `length` tokens.

    IO makes one entity of neighbours of the same type. Raises ValueError for spans that overlap or
    exceed the sentence.
    """
    tags = [OUTSIDE] * length
    single, first, inner, last = SHAPES[scheme]
    before = Span("", 0, 0)
    for span in sorted(spans, key=lambda span: span.start):
        if not before.stop <= span.start < span.stop <= length:
            raise ValueError(f"{span} after {before} in {length} tokens")
        prefixes = [inner] * (span.stop - span.start)
        prefixes[-1] = last
        prefixes[0] = first if len(prefixes) > 1 else single
        if scheme == "IOB1" and before.kind == span.kind and before.stop == span.start:
            prefixes[0] = "B"
        tags[span.start : span.stop] = [_tag(prefix, span.kind) for prefix in prefixes]
        before = span
    return tags


def _tag(prefix: str, kind: str) -> str:
    if not prefix:
        return kind
    return prefix if kind == NO_TYPE else f"{prefix}-{kind}"


def in_scheme(tags: Sequence[str], scheme: str) -> list[str]:
    """Returns tags of any scheme in another one. Valid tags come back exactly, but see IO."""
    return tags_of(spans_of(tags), len(tags), scheme)


# --- the scheme of a file ---------------------------------------------------------------------


@dataclass(frozen=True)
class FoundScheme:
    """num_invalid: tags against the scheme (and O or an end of a sentence where an entity must go
    on). first_invalid: `file:line` of the first one, or empty. types: sorted."""

    scheme: str
    types: tuple[str, ...]
    num_invalid: int = 0
    first_invalid: str = ""


class _Pair(NamedTuple):
    """The prefixes of two neighbours; a sentence is between two O."""

    before: str
    prefix: str
    same_type: bool


class _Seen:
    """The number of times, and when and in which place for the first time."""

    def __init__(self, when: int, place: str):
        self.count, self.when, self.place = 0, when, place


class SchemeCount:
    """Counts the pairs of neighbouring tags, whatever the number of sentences; finds the scheme."""

    def __init__(self) -> None:
        self._pairs: dict[_Pair, _Seen] = {}
        self._prefixed: dict[str, str] = {}  # type -> its first place
        self._bare: dict[str, str] = {}  # likewise, of tags without a prefix
        self._numbers = {"prefixed": 0, "bare": 0, OUTSIDE: 0}  # of tags

    def add(self, tags: Sequence[str], place: Callable[[int], str]) -> None:
        """Adds a sentence. place: gives the `file:line` of a token.

        Raises StageError for an empty tag, and for more than 1,000 types without prefixes.
        """
        before, before_kind = OUTSIDE, ""
        for i, tag in enumerate(tags):
            if not tag:
                raise StageError(f"{place(i)}: an empty tag, expected O or one like B-PER")
            prefix, kind = split_tag(tag)
            sort = OUTSIDE if prefix == OUTSIDE else "prefixed" if prefix else "bare"
            self._numbers[sort] += 1
            types = self._prefixed if prefix else self._bare
            if sort != OUTSIDE and kind not in types:
                types[kind] = place(i)
                if len(self._bare) > MAX_TYPES:
                    raise StageError(
                        f"{place(i)}: tag {shown(tag)!r} and {MAX_TYPES:,} others, "
                        "expected tags like O and B-PER; is this their column?"
                    )
            self._count(_Pair(before, prefix, kind == before_kind), i, place)
            before, before_kind = prefix, kind
        if before != OUTSIDE:
            self._count(_Pair(before, OUTSIDE, False), len(tags) - 1, place)

    def _count(self, pair: _Pair, token: int, place: Callable[[int], str]) -> None:
        if pair not in self._pairs:
            self._pairs[pair] = _Seen(sum(self._numbers.values()), place(token))
        self._pairs[pair].count += 1

    def found(self) -> FoundScheme:
        """Returns the scheme of all tags so far.

        Raises StageError if only some of the tags have prefixes, or none has one and there is no O.
        """
        if self._bare:
            self._check_bare()
            return FoundScheme("IO", tuple(sorted(self._bare)))
        found, types = [], tuple(sorted(self._prefixed))
        for scheme in (name for name in SHAPES if name != "IO"):
            wrong = [seen for pair, seen in self._pairs.items() if not _is_valid(scheme, pair)]
            first = min(wrong, key=lambda seen: seen.when).place if wrong else ""
            found.append(FoundScheme(scheme, types, sum(seen.count for seen in wrong), first))
        return min(found, key=lambda one: one.num_invalid)

    def _check_bare(self) -> None:
        """Raises StageError if the types without prefixes are no tags."""
        kind, place = next(iter(self._bare.items()))
        if self._prefixed:
            other, usual = next(iter(self._prefixed.items()))
            if self._numbers["prefixed"] >= self._numbers["bare"]:
                raise StageError(
                    f"{place}: tag {shown(kind)!r}, expected O or one like B-{shown(other)}, "
                    f"as in {usual}"
                )
            raise StageError(
                f"{usual}: a prefix before {shown(other)!r}, expected a tag without one, like "
                f"{shown(kind)}, as in {place}"
            )
        if almost := next((one for one in self._bare if _ALMOST_PREFIX.match(one)), ""):
            raise StageError(
                f"{self._bare[almost]}: tag {shown(almost)!r}, expected one like B-PER"
            )
        if not self._numbers[OUTSIDE]:
            raise StageError(
                f"{place}: tag {shown(kind)!r}, and no tag is O, expected tags like O and B-PER; "
                "is this their column?"
            )


def _is_valid(scheme: str, pair: _Pair) -> bool:
    """True if the scheme, not IO, allows the second tag of the pair after the first one."""
    _, _, inner, last = SHAPES[scheme]
    if pair.prefix not in (OUTSIDE, "B", *SHAPES[scheme]):
        return False
    goes_on = pair.before in _GOES_ON and pair.same_type
    if scheme == "IOB2":
        return pair.prefix != "I" or goes_on
    if scheme == "IOB1":
        return pair.prefix != "B" or goes_on
    return (pair.before in _GOES_ON) == (pair.prefix in (inner, last)) and (
        goes_on or pair.before not in _GOES_ON
    )
