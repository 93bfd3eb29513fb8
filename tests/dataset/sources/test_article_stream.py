"""Streams cut into articles, and long articles into pieces: the same however they are read."""

import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset.sources import article_stream, blanks
from dataset.sources.article_stream import (
    Tally,
    clean_text,
    counted,
    iter_raw_pieces,
    row_pieces,
    split_off,
)
from dataset.sources.blanks import is_blank, with_plain_blank_lines
from dataset.sources.text_files import SEPARATORS

BLOCKS = SEPARATORS["blocks"]
DIRT = st.lists(
    st.sampled_from(
        [
            *(b"word", b" ", b"\n", b"\n\n", b"\r\n", b"\t", b"\0", b"\xff", b"\xe3\x80"),
            "é中😀".encode(),
            *map(str.encode, "\u3000\xa0\u200b\u200d\ufeff\x85\u2028\u2029\x1c』"),
        ]
    ),
    max_size=60,
).map(b"".join)


def plain(content: bytes) -> bytes:
    """With spaces in blank lines, by the definition."""
    lines = [line.decode(errors="surrogateescape") for line in content.split(b"\n")]
    lines = [
        "".join(c if c in " \t\r\0" else " " * len(c.encode()) for c in line)
        if is_blank(line)
        else line
        for line in lines
    ]
    return "\n".join(lines).encode(errors="surrogateescape")


def in_blocks(content: bytes, size: int) -> list[bytes]:
    return [content[i : i + size] for i in range(0, len(content), size)]


def read(content: bytes, block: int, limit: int, separator=BLOCKS):
    return list(iter_raw_pieces(in_blocks(content, block), 0, separator, limit, Tally()))


@given(DIRT, st.integers(1, 70), st.integers(4, 40))
@example(b"word" + b" " * 40 + b"word", 3, 8)
def test_pieces_do_not_depend_on_blocks(content, block, limit):
    found = read(content, block, limit)
    assert found == read(content, len(content) + 1, limit)
    text = b"".join(raw for _, raw, _ in found)
    content = plain(content)
    assert text.translate(None, article_stream.WHITE) == content.translate(
        None, article_stream.WHITE
    )
    for position, raw, ends in found:
        assert ends or 0 < len(raw) <= limit
        assert len(raw.rstrip(article_stream.WHITE)) <= limit
        assert content[position : position + 1] not in (b"\n", b" ", b"\0", b"")


@given(DIRT, st.integers(1, 70))
def test_articles_are_what_stands_between_blank_lines(content, block):
    expected = re.split(rb"\n(?:[ \t\r\v\f\0]*\n)+", plain(content))
    expected = [text.strip(article_stream.WHITE) for text in expected]
    found = read(content, block, 1 << 20)
    assert [raw.strip(article_stream.WHITE) for _, raw, _ in found] == [
        text for text in expected if text
    ]
    assert all(ends for _, _, ends in found)


BLANK_LINES = {
    "ideographic space": "\u3000",
    "no-break space": "\xa0",
    "zero-width space": "\u200b",
    "byte order mark": "\ufeff",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "en quad": "\u2000",
    "narrow no-break space": "\u202f",
    "mathematical space": "\u205f",
    "ogham space": "\u1680",
    "word joiner": "\u2060",
    "mark of direction": "\u200f",
    "braille": "\u2800",
    "hangul": "\u3164",
    "unit separator": "\x1f",
    "soft hyphen": "\xad",
    "grapheme joiner": "\u034f",
    "arabic mark of direction": "\u061c",
    "hangul fillers": "\u115f\u1160\uffa0",
    "vowels of khmer": "\u17b4\u17b5",
    "mongolian": "\u180b\u180c\u180d\u180e\u180f",
    "invisible operators": "".join(map(chr, range(0x2060, 0x2070))),
    "variation selectors": "".join(map(chr, range(0xFE00, 0xFE10))),
    "unused": "".join(map(chr, range(0xFFF0, 0xFFF9))),
    "mixture": "\u3000 \t\xa0\u200b\ufeff\x85\0\f",
}


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("blank", BLANK_LINES.values(), ids=BLANK_LINES)
def test_a_line_of_any_blanks_parts_articles(blank, end):
    articles = [f"One{number} of it.{end}Two{number}." for number in range(10)]
    content = f"{end}{blank}{end}".join([blank, *articles, blank, blank]).encode()
    for block in (1, 2, 3, 7, 1000):
        found = read(content, block, 1 << 20)
        assert [raw.strip().decode() for _, raw, _ in found] == articles
        assert [position for position, _, _ in found] == [
            content.index(article.encode()) for article in articles
        ]


@pytest.mark.parametrize(
    "text",
    [
        "Größe",
        "ﾀﾟ",
        "各",
        "\u3164한",
        "ا",
        "❤\ufe0f",
        "\u0301",
        "ក",
        "\u1161",
        "\uffe0",
        "\xad-",
        "㌀",
    ],
)
def test_a_line_of_anything_else_parts_nothing(text):
    content = f"One.\n{text}\nTwo.".encode()
    for block in (1, 2, 3, 1000):
        assert [raw for _, raw, _ in read(content, block, 1 << 20)] == [content]


@pytest.mark.parametrize("blank", [" ", *"\u3000\u200b\ufeff\x85\xad\ufe0f"])
def test_blanks_within_a_line_of_text_stay(blank):
    content = f"{blank}one{blank}two{blank}\nthree".encode()
    [(position, raw, _)] = read(content, 3, 1 << 20)
    assert raw == content[position:] and position == (1 if blank == " " else 0)


def test_blank_lines_become_spaces_of_the_same_size():
    content = "a\u3000\n\u3000\ufeff\r\n\0\xa0\n』\n\ufeff".encode() + b"\n\xe3\x80\n\x85\n"
    expected = "a\u3000\n      \r\n\0  \n』\n   ".encode() + b"\n\xe3\x80\n\x85\n"
    for block in range(1, 30):
        counts = Counter()
        assert b"".join(with_plain_blank_lines(in_blocks(content, block), counts)) == expected
        assert counts == {"byte_order_marks": 2}


@pytest.mark.parametrize("character", ["\u3000", "\u200b", "』"])
def test_endless_lines_of_blanks_take_no_memory(monkeypatch, character):
    monkeypatch.setattr(blanks, "MAX_HELD_BYTES", 100)
    content = f"head\n{character * 1000}\ntail".encode()
    sizes = [len(block) for block in with_plain_blank_lines(in_blocks(content, 50), Counter())]
    assert sum(sizes) == len(content) and max(sizes) <= 200
    found = b"".join(with_plain_blank_lines(in_blocks(content, 50), Counter()))
    assert found == (content if character == "』" else plain(content))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"one two\nthree four", [b"one two\n", b"three four"]),
        (b"one two three four", [b"one two ", b"three four"]),
        (b"onetwothreefour", [b"onetwothre", b"efour"]),
        ("жукжукжук".encode(), ["жукжу".encode(), "кжук".encode()]),
        ("aжукжукжук".encode(), ["aжукж".encode(), "укжук".encode()]),
        (b"one two   \n  ", [b"one two   \n  "]),
    ],
)
def test_where_an_article_is_cut(text, expected):
    pieces_, rest = split_off(text, 10)
    assert [*pieces_, rest] == expected


def test_endless_blanks_take_no_memory(monkeypatch):
    monkeypatch.setattr(article_stream, "BLOCK_BYTES", 64)
    stream = article_stream._ArticleStream(0, BLOCKS, 100)
    found = []
    for block in [b"head\n" + b"\0" * 59, *[b"\0" * 64] * 50, b"tail", b" " * 64, b"\n\nnext"]:
        found += stream.feed(block)
        assert len(stream.rest) <= 300
    found += stream.finish()
    assert [raw.translate(None, article_stream.WHITE) for _, raw, _ in found] == [
        b"headtail",
        b"next",
    ]
    assert found[-1][0] == 64 * 51 + 4 + 64 + 2


def test_dirt_is_removed_and_counted():
    tally = Tally()
    raw = "\ufeffa\0b\x1cc\x1fd \ufffd caf".encode() + b"\xe9 end\xc3"
    assert clean_text(raw, tally) == "a b c d  caf end"
    assert tally.counts == {
        "byte_order_marks": 1,
        "nul_characters": 1,
        "undecodable_characters": 3,
    }


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("unclosed quotes", "1 unclosed quote"),
        ("articles over several shards", "1 article over several shards"),
        ("files with backslash escapes", "1 file with backslash escapes"),
    ],
)
def test_counts_in_words(name, one):
    assert counted(1, name) == one
    assert [counted(number, name) for number in (0, 1200)] == [f"0 {name}", f"1,200 {name}"]


def test_a_tally_in_a_line():
    tally = Tally()
    tally.note("malformed_rows", "a.csv: line 2")
    tally.counts["null_rows"] += 2
    assert str(tally) == "1 malformed row, 2 null rows, the first: a.csv: line 2"


def test_rows_are_cleaned_and_cut():
    tally = Tally()
    assert list(row_pieces(7, "a\ud800b", 100, tally)) == [(7, "ab", True)]
    assert tally.counts == {"undecodable_characters": 1}
    assert list(row_pieces(7, " ", 100, tally)) == [(7, " ", True)]
    assert list(row_pieces(7, " " * 99, 100, tally)) == [(7, "", True)]
    found = list(row_pieces(7, "é" * 70, 100, tally))
    assert found == [(7, "é" * 50, False), (7, "é" * 20, True)]
