"""Blanks: characters that show nothing. A line of only these is a blank line."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

BLANKS = b" \t\r\v\f\0"  # of one byte; readers of bytes know no others
BYTE_ORDER_MARKS = "byte_order_marks"  # in counts
MAX_HELD_BYTES = 1 << 20  # of a line that is blank so far
# White space, and Unicode's Default_Ignorable_Code_Point up to U+FFFF. Those above, like tags, do
# not occur in the blank lines of text editors or web pages.
OTHER_BLANKS = (
    "\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"  # white space
    "\xad\u034f\u17b4\u17b5\u180e\u200b\u200c\u200d\ufeff"  # no width, unless a line ends there
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"  # marks of direction
    "\u2060\u2061\u2062\u2063\u2064\u2065\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e"
    "\u206f\ufff0\ufff1\ufff2\ufff3\ufff4\ufff5\ufff6\ufff7\ufff8"  # more of both, or unused
    "\u180b\u180c\u180d\u180f\ufe00\ufe01\ufe02\ufe03\ufe04\ufe05\ufe06\ufe07\ufe08\ufe09\ufe0a"
    "\ufe0b\ufe0c\ufe0d\ufe0e\ufe0f"  # variants of the letter before
    "\u115f\u1160\u2800\u3164\uffa0"  # letters of Braille and of Hangul without ink
)
_ALL_BLANKS = BLANKS.decode() + "\n" + OTHER_BLANKS
_PLAIN, _OTHER = (re.escape(bytes(sorted(set(chars)))) for chars in (BLANKS, OTHER_BLANKS.encode()))
# Lines of bytes that occur in blanks, with at least one that is not plain. Most are blank.
_SUSPECT_LINE = re.compile(rb"\n[%s]*[%s][%s%s]*(?=\n)" % (_PLAIN, _OTHER, _PLAIN, _OTHER))
_SUSPECT = re.compile(rb"[%s%s]*" % (_PLAIN, _OTHER))
_TO_SPACES = bytes(byte if byte in BLANKS + b"\n" else ord(" ") for byte in range(256))


def is_blank(text: str) -> bool:
    return not text.strip(_ALL_BLANKS)


def with_plain_blank_lines(blocks: Iterable[bytes], counts: Counter) -> Iterator[bytes]:
    """Yields the same bytes with spaces for all other blanks in blank lines.

    A blank becomes as many spaces as it has bytes, which keeps positions. Counts the byte order
    marks among them. If the stream begins within a line, the rest of it counts as a line.
    """
    held, begins_line = b"", True  # held: part of a line that may be blank, not yielded yet
    for block in blocks:
        front = b"\n" if begins_line else b""
        lines = front + held + block
        end = lines.rfind(b"\n") + 1
        begins_line = end > 0 and _SUSPECT.fullmatch(lines, end) is not None
        if not begins_line:
            end = len(lines)
        held = lines[end:]
        yield _plain_lines(lines[:end], counts)[len(front) :]
        if len(held) > MAX_HELD_BYTES:
            end = len(held) - 3  # no character is longer
            while end < len(held) and held[end] & 0xC0 == 0x80:
                end += 1
            plain = _plain(held[:end], counts)
            begins_line = plain != held[:end] or not plain.strip(BLANKS)
            yield plain
            held = held[end:]
    if held and begins_line:
        held = _plain_lines(b"\n" + held + b"\n", counts)[1:-1]
    yield held


def _plain_lines(lines: bytes, counts: Counter) -> bytes:
    return _SUSPECT_LINE.sub(lambda line: _plain(line[0], counts), lines)


def _plain(raw: bytes, counts: Counter) -> bytes:
    """Replaces blanks with spaces if `raw` holds nothing else."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw
    if not is_blank(text):
        return raw
    if number := text.count("\ufeff"):
        counts[BYTE_ORDER_MARKS] += number
    return raw.translate(_TO_SPACES)
