"""Articles as pieces of bounded size, and the cleaning of their characters.

A piece is (position, text, True at the end of the article). The position identifies the article
within its file, and the pieces of an article are consecutive. A piece is cut at a line end if there
is one, else at white space, else between two characters. The last piece may be empty.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dataset.sources.blanks import BLANKS, BYTE_ORDER_MARKS, with_plain_blank_lines

PIECE_BYTES = 1 << 20  # largest piece
BLOCK_BYTES = 1 << 20  # read at once
MAX_ROW_BYTES = 16 << 20  # of a line of JSON or CSV, which is parsed as a whole
MAX_NOTES = 20

WHITE = BLANKS + b"\n"
NOT_WHITE = re.compile(rb"[^ \t\r\v\f\0\n]")
NEVER = re.compile(rb"(?!)")
SUSPECT_BYTES = b"\0\x1c\x1d\x1e\x1f\xef"  # 0xef begins byte order marks and replacement characters
DIRT = re.compile("[\0\x1c-\x1f\ufeff\ufffd\ud800-\udfff]")
RECODE_HINT = "expected UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)"
UNDECODABLE, NULS = "undecodable_characters", "nul_characters"
NULL_ROWS = "null_rows"  # of tables and JSON: empty articles
CLEANING = (
    (re.compile("[\ufffd\ud800-\udfff]"), "", UNDECODABLE),
    (re.compile("\ufeff"), "", BYTE_ORDER_MARKS),
    (re.compile("\0"), " ", NULS),
    # White space in Python, but not in the tokenizers library, which would join the words.
    (re.compile("[\x1c-\x1f]"), " ", ""),
)

_PLURAL_END = re.compile(r"s\b")

Piece = tuple[int, str, bool]
RawPiece = tuple[int, bytes, bool]


def counted(number: int, names: str) -> str:
    """Returns `1 malformed row` or `1,200 malformed rows`, for the names `malformed rows`."""
    return f"{number:,} {names if number != 1 else _PLURAL_END.sub('', names, count=1)}"


@dataclass
class Tally:
    """Counts of dropped or repaired text, and the first places."""

    counts: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def note(self, count: str, place: str) -> None:
        self.counts[count] += 1
        if len(self.notes) < MAX_NOTES:
            self.notes.append(place)

    def __str__(self) -> str:
        """Returns a line like `12 malformed rows, the first: a.jsonl: ...`, or an empty string."""
        counts = ", ".join(counted(n, name.replace("_", " ")) for name, n in self.counts.items())
        return f"{counts}, the first: {self.notes[0]}" if self.notes else counts

    @contextmanager
    def of_file(self, path: str) -> Iterator[None]:
        """Notes the file read in the `with` block if some of it could not be decoded."""
        before = self.counts[UNDECODABLE]
        yield
        number = self.counts[UNDECODABLE] - before
        if number and len(self.notes) < MAX_NOTES:
            self.notes.append(f"{path}: {counted(number, 'undecodable characters')}, {RECODE_HINT}")


# --- characters ------------------------------------------------------------------------------


def clean_text(raw: bytes, tally: Tally) -> str:
    """Decodes UTF-8 and cleans it, counting removed characters."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return clean_characters(raw.decode(errors="replace"), tally)
    if len(raw.translate(None, SUSPECT_BYTES)) == len(raw):
        return text
    return clean_characters(text, tally)


def clean_characters(text: str, tally: Tally) -> str:
    """Removes undecodable characters and byte order marks; control characters become spaces."""
    if not DIRT.search(text):
        return text
    for pattern, substitute, count in CLEANING:
        text, number = pattern.subn(substitute, text)
        if number and count:
            tally.counts[count] += number
    return text


# --- pieces of a stream ----------------------------------------------------------------------


def iter_raw_pieces(
    blocks: Iterable[bytes],
    position: int,
    separator: re.Pattern[bytes],
    limit: int,
    tally: Tally,
) -> Iterator[RawPiece]:
    """Yields the articles between separators, in pieces of at most `limit` bytes.

    position: of the first block in its file. Blank text is not an article. Memory is bounded by
    `limit` and the size of a block. The pieces do not depend on the borders of blocks. Counts the
    NULs and byte order marks between pieces.
    """
    stream, num_dropped = _ArticleStream(position, separator, limit), 0

    def read() -> Iterator[bytes]:
        nonlocal num_dropped
        for block in blocks:
            num_dropped += _num_nuls(block)
            yield block

    def pieces() -> Iterator[RawPiece]:
        for block in with_plain_blank_lines(read(), tally.counts):
            yield from stream.feed(block)
        yield from stream.finish()

    for piece in pieces():
        num_dropped -= _num_nuls(piece[1])
        yield piece
    if num_dropped:
        tally.counts[NULS] += num_dropped


def _num_nuls(raw: bytes) -> int:
    return raw.count(0) if b"\0" in raw else 0  # `in` is ten times faster than counting none


class _ArticleStream:
    def __init__(self, position: int, separator: re.Pattern[bytes], limit: int):
        self.separator, self.limit = separator, limit
        self.end = position  # in the file, of the last block
        self.rest = b""  # read, but not yielded yet
        self.begin = -1  # position of the unfinished article, if there is one
        self.blank_run = 0  # length of the blanks at the end of `rest`

    def feed(self, block: bytes) -> Iterator[RawPiece]:
        self.end += len(block)
        buffer = self.rest + self._without_endless_blanks(block)
        base = self.end - len(buffer)
        start = 0
        for match in self.separator.finditer(buffer):
            stop, next_start = match.span()
            raw = buffer[start:stop]
            if self.begin >= 0 or len(raw) > self.limit:
                yield from self._finished(raw, base + start)
            elif text := raw.lstrip(WHITE):
                yield base + stop - len(text), text, True
            start = next_start
        raw = buffer[start:].lstrip(WHITE)
        if raw and self.begin < 0:
            self.begin = self.end - len(raw)
        pieces, self.rest = split_off(raw, self.limit)
        for piece in pieces:
            yield self.begin, piece, False

    def finish(self) -> Iterator[RawPiece]:
        yield from self._finished(self.rest, self.end - len(self.rest))

    def _finished(self, raw: bytes, position: int) -> Iterator[RawPiece]:
        """Yields the last pieces of an article."""
        text = raw.lstrip(WHITE)
        if self.begin < 0:
            if not text:
                return
            self.begin = position + len(raw) - len(text)
        pieces, rest = split_off(text, self.limit)
        for piece in pieces:
            yield self.begin, piece, False
        yield self.begin, rest, True
        self.begin = -1

    def _without_endless_blanks(self, block: bytes) -> bytes:
        """Shortens runs of blanks (NULs, say) to the length of a block."""
        inside = block.lstrip(BLANKS)
        num_leading = len(block) - len(inside)
        excess = max(0, self.blank_run + num_leading - BLOCK_BYTES)
        if inside:
            self.blank_run = len(block) - len(block.rstrip(BLANKS))
        else:
            self.blank_run += num_leading - excess
        return block[excess:] if excess else block


def split_off(raw: bytes, limit: int) -> tuple[list[bytes], bytes]:
    """Cuts `raw` into (pieces of at most `limit` bytes, rest of at most that size).

    White space at the very end does not count, as text may or may not follow.
    """
    if len(raw) <= limit:
        return [], raw
    pieces: list[bytes] = []
    start, end = 0, len(raw.rstrip(WHITE))
    while end - start > limit:
        cut = find_cut(raw, start, start + limit)
        pieces.append(raw[start:cut])
        text = NOT_WHITE.search(raw, cut)
        start = text.start() if text else end
    return pieces, raw[start:]


def find_cut(raw: bytes, start: int, stop: int) -> int:
    """Returns the best place in (start, stop] to cut; `stop` must lie within `raw`."""
    for marks in ((b"\n",), (b" ", b"\t")):
        cut = max(raw.rfind(mark, start, stop) for mark in marks) + 1
        if cut > start:
            return cut
    cut = stop
    while cut > stop - 3 and raw[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
        cut -= 1
    return max(cut, start + 1)


# --- pieces of a row -------------------------------------------------------------------------


def row_pieces(position: int, text: str, limit: int, tally: Tally) -> Iterator[Piece]:
    """Yields the pieces of an article held in memory."""
    text = clean_characters(text, tally)
    if len(text) * 4 <= limit:  # no character takes more than 4 bytes
        yield position, text, True
    else:
        yield from raw_row_pieces(position, in_blocks(text.encode()), limit, tally)


def raw_row_pieces(
    position: int, blocks: Iterable[bytes], limit: int, tally: Tally
) -> Iterator[Piece]:
    """Yields the pieces, at least one, of an article given as blocks of UTF-8."""
    ended = False
    for _, piece, ended in iter_raw_pieces(blocks, 0, NEVER, limit, tally):
        yield position, clean_text(piece, tally), ended
    if not ended:
        yield position, "", True


def in_blocks(raw: bytes | memoryview) -> Iterator[bytes]:
    return (bytes(raw[i : i + BLOCK_BYTES]) for i in range(0, len(raw), BLOCK_BYTES))
