"""Spans of characters in a text: from and to the tags of its words.

Words are those of BERT: runs of letters, digits and their marks; every other character is a word.
So is every character, with its marks, of scripts without spaces between words (Chinese, Japanese,
Thai, Lao, Khmer, Burmese). The text alone decides, never the spans: no word of a text to predict
could be cut where a span ends, and a score on words cut so would be too high. A span that ends
within a word is widened to the whole word, and counted.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from finetune.tagging.tag_schemes import Span, spans_of, tags_of
from pipeline.user_files.file_checks import shown

Offsets = Sequence[tuple[int, int]]
# The classes of characters: blank, letter or digit, character of a script without spaces, mark.
_BLANK, _LETTER, _ALONE, _MARK, _OTHER = " lamo"
_WORD = re.compile(f"{_LETTER}[{_LETTER}{_MARK}]*|[{_ALONE}{_MARK}{_OTHER}]{_MARK}*")
_WITHOUT_SPACES = re.compile("(?:HALFWIDTH )?(?:CJK|HIRAGANA|KATAKANA|THAI|LAO|KHMER|MYANMAR)[ -]")
_JOINERS = "\u200c\u200d"
EXPECTED = 'expected {"start": 0, "end": 5, "label": "PER"} or [0, 5, "PER"]'


class CharSpan(NamedTuple):
    """The characters [start, stop) of a text, counted as Unicode code points."""

    start: int
    stop: int
    label: str


@functools.lru_cache(maxsize=1 << 16)
def _class_of(char: str) -> str:
    category = unicodedata.category(char)
    if char.isspace():
        return _BLANK
    if category[0] == "M" or char in _JOINERS:
        return _MARK
    if category[0] not in "LN":
        return _OTHER
    return _ALONE if _WITHOUT_SPACES.match(unicodedata.name(char, "")) else _LETTER


def words_of(text: str) -> list[tuple[int, int]]:
    """Returns the characters [start, stop) of each word."""
    return [word.span() for word in _WORD.finditer("".join(map(_class_of, text)))]


def parsed_spans(value: Any, text: str) -> list[CharSpan]:
    """Returns the spans of an object's `spans`, in the order of the text.

    Blanks at a span's ends do not count. Raises ValueError for another form, for spans beyond the
    text, without a word or overlapping, and for a span's own `text` that is not there.
    """
    if not isinstance(value, list):
        raise ValueError(f"spans are no list, {EXPECTED}")
    spans = sorted(_parsed_span(one, text) for one in value)
    for before, span in pairwise(spans):
        if span.start < before.stop:
            raise ValueError(f"spans overlap: {_shown(before, text)} and {_shown(span, text)}")
    return spans


def _parsed_span(one: Any, text: str) -> CharSpan:
    said = None
    if isinstance(one, dict):
        start, stop, label = (one.get(key) for key in ("start", "end", "label"))
        said = one.get("text")
    elif isinstance(one, list) and len(one) == 3:
        start, stop, label = one
    else:
        raise ValueError(f"span {shown(str(one))}, {EXPECTED}")
    if type(start) is not int or type(stop) is not int or not isinstance(label, str) or not label:
        raise ValueError(f"span {shown(str(one))}, {EXPECTED}")
    if not 0 <= start < stop <= len(text):
        raise ValueError(
            f"span {start} to {stop} of {shown(label)}, "
            f"expected 0 <= start < end <= {len(text)}, the length of the text in characters"
        )
    there = text[start:stop]
    if isinstance(said, str) and said.split() != there.split():
        raise ValueError(
            f"span {start} to {stop} of {shown(label)} is {shown(there)!r}, not {shown(said)!r} "
            "(start and end count characters, not bytes or UTF-16 units)"
        )
    if not there.strip():
        raise ValueError(f"span {start} to {stop} of {shown(label)} is blank")
    return CharSpan(stop - len(there.lstrip()), start + len(there.rstrip()), label)


def _shown(span: CharSpan, text: str) -> str:
    return f"{span.start} to {span.stop} ({shown(text[span.start : span.stop])})"


def tags_of_words(
    spans: Sequence[CharSpan], offsets: Offsets, text: str
) -> tuple[tuple[str, ...], int]:
    """Returns the tags of the words in IOB2, and the number of spans that ended within a word.

    spans: in the order of the text. Raises ValueError if two of them share a word.
    """
    found: list[Span] = []
    num_widened = word = 0
    before: CharSpan | None = None
    for span in spans:
        while offsets[word][1] <= span.start:
            word += 1
        first = word
        if before and found[-1].stop > first:
            start, stop = offsets[first]
            raise ValueError(
                f"spans {_shown(before, text)} and {_shown(span, text)} share the word "
                f"{shown(text[start:stop])}, expected spans of whole words, or `tokens` and `tags`"
            )
        last = first
        while offsets[last][1] < span.stop:
            last += 1
        num_widened += (offsets[first][0], offsets[last][1]) != (span.start, span.stop)
        found.append(Span(span.label, first, last + 1))
        before, word = span, last
    return tuple(tags_of(found, len(offsets))), num_widened


def spans_of_words(tags: Sequence[str], offsets: Offsets) -> list[CharSpan]:
    """Returns the spans of the entities of a text, by the tags of its words."""
    return [
        CharSpan(offsets[span.start][0], offsets[span.stop - 1][1], span.kind)
        for span in spans_of(tags)
    ]
