"""Articles out of plain text files, streamed with bounded memory.

What an article is:

- Articles are separated by blank lines, and a file's end ends an article. Line ends inside an
  article are white space: the lines may be sentences, paragraphs or wrapped text.
- A file that has no blank line in its first MiB, but lines of 1000 bytes or more on average there,
  holds one article per line.
- Anything longer than 1 MiB is cut into several articles, at a line end if there is one, else at
  white space, else between two characters.

Byte order marks and bytes that are not UTF-8 are removed, NULs become spaces; all are counted.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StageError

MAX_ARTICLE_BYTES = 1 << 20
ARTICLE_LINE_BYTES = 1000  # mean line length from which a line is taken for a whole article
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class TextSlice:
    """Bytes [start, end) of a file, cut between articles.

    name: the file's name within its source, a part of the articles' identity.
    """

    name: str
    path: Path
    start: int
    end: int
    one_article_per_line: bool

    @property
    def num_bytes(self) -> int:
        return self.end - self.start

    def articles(self, tally: Counter) -> Iterator[tuple[int, str]]:
        """Yields (position, text); position is the byte at which the article begins."""
        for position, raw in self._raw_articles(tally):
            yield position, clean_text(raw, tally)

    def _raw_articles(self, tally: Counter) -> Iterator[tuple[int, bytes]]:
        lines: list[bytes] = []
        begin, size = self.start, 0
        for position, line in self._lines():
            too_long = size + len(line) > MAX_ARTICLE_BYTES
            tally["cut_articles"] += bool(lines) and too_long and not is_blank(line)
            if lines and (is_blank(line) or too_long or self.one_article_per_line):
                yield begin, b"".join(lines)
                lines, size = [], 0
            if not is_blank(line):
                begin = begin if lines else position
                lines.append(line)
                size += len(line)
        if lines:
            yield begin, b"".join(lines)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            position = self.start
            while position < self.end and (line := read_line(file)):
                yield position, line[: self.end - position]  # a giant line may go on behind
                position += len(line)


def cut_file(path: Path, name: str, slice_bytes: int) -> list[TextSlice]:
    """A file as slices of about `slice_bytes`, found without reading what lies between the cuts.

    Raises StageError if the file is UTF-16.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(MAX_ARTICLE_BYTES)
        if head.startswith(UTF16_MARKS):
            raise StageError(f"{path}: the text is UTF-16, expected UTF-8")
        per_line = holds_one_article_per_line(head)
        targets = range(slice_bytes, size, slice_bytes)
        borders = {find_border(file, target, per_line) for target in targets}
    borders = sorted({0, size} | borders)
    return [TextSlice(name, path, start, end, per_line) for start, end in pairwise(borders)]


def holds_one_article_per_line(head: bytes) -> bool:
    """Whether a file that begins with `head` (at most 1 MiB) holds one article per line."""
    lines = head.splitlines()
    if len(lines) < 2 or any(is_blank(line) for line in lines):
        return False
    return len(head) / len(lines) >= ARTICLE_LINE_BYTES


def find_border(file: BinaryIO, target: int, per_line: bool) -> int:
    """The first position between two articles after the line that holds byte `target`.

    Where no blank line comes within 1 MiB, the article is cut.
    """
    file.seek(target)
    position = target + len(read_line(file))
    while not per_line and position - target < MAX_ARTICLE_BYTES and (line := read_line(file)):
        position += len(line)
        if is_blank(line):
            break
    return position


def read_line(file: BinaryIO) -> bytes:
    """The next line with its end; of a line longer than 1 MiB the next piece."""
    line = file.readline(MAX_ARTICLE_BYTES)
    if len(line) < MAX_ARTICLE_BYTES or line.endswith(b"\n"):
        return line
    cut = max(line.rfind(b" "), line.rfind(b"\t")) + 1 or _last_character(line)
    file.seek(cut - len(line), os.SEEK_CUR)
    return line[:cut]


def _last_character(line: bytes) -> int:
    """Start of the last UTF-8 character, which may be incomplete."""
    start = len(line) - 1
    while start > len(line) - 4 and line[start] & 0xC0 == 0x80:
        start -= 1
    return start


def is_blank(line: bytes) -> bool:
    return not line.strip(b" \t\r\n\v\f\0")


def clean_text(raw: bytes, tally: Counter) -> str:
    """Decodes UTF-8 and counts what had to be removed."""
    text = raw.decode("utf-8", errors="replace")
    for character, substitute, count in (
        ("\ufffd", "", "undecodable_characters"),
        ("\ufeff", "", "byte_order_marks"),
        ("\0", " ", "nul_characters"),
    ):
        if character in text:
            tally[count] += text.count(character)
            text = text.replace(character, substitute)
    return text
