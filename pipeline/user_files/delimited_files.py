"""Reads CSV and TSV files row by row, within a memory bound.

A row of a .tsv file is a line, and quotes in it are text. In a .csv file, quoted fields may span
lines. A quote there counts as unclosed, its line as a row, and reading resumes with the next line,
if before the closing quote

- the file ends, or the row exceeds 16 MiB or 250,000 lines,
- or a later line opens a field of another row with a quote,
- or each of the later lines looks like a row.

A misplaced quote (neither followed by a delimiter nor by a line end) is text, and so is text after
a closing quote. Each row names such problems.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from pipeline.user_files.csv_dialects import TABS, find_dialect, separator_of
from pipeline.user_files.misplaced_quotes import STRAY, UNCLOSED, split_row

HEAD_BYTES = 1 << 20  # the dialect is found in these
MAX_ROW_BYTES = 16 << 20
MAX_ROW_LINES = 250_000  # a line takes about 60 bytes of memory besides its text
# Lines read in search of the end of a row with misplaced quotes; each line with quotes is a try.
MAX_MORE_LINES, MAX_TRIES = 1000, 16
TOO_LONG = "longer than 16 MiB"
BARE_CR = "CR within the line"


class Row(NamedTuple):
    """A row with the numbers of its first and last line.

    problem: UNCLOSED, STRAY, BARE_CR, TOO_LONG (then the fields are missing) or an empty string.
    """

    first: int
    last: int
    fields: list[str]
    problem: str = ""


class DelimitedFile:
    """The header and the rows of a file. The first line that is not blank begins the header.

    header: the first row, with spaces around the names removed; without fields if the file is
    empty.
    """

    def __init__(
        self,
        blocks: Iterable[bytes],
        decode: Callable[[bytes], str],
        is_blank: Callable[[str], bool],
        has_tabs: bool,
        header: Iterable[str] = (),
    ):
        """blocks: the content. decode: decodes a line without its LF. header: the columns of a
        file without a header row."""
        self._is_blank = is_blank
        stream, head = iter(blocks), b""
        while len(head) < HEAD_BYTES and (block := next(stream, b"")):
            head += block
        lines = (
            (number, None if line is None else f"{decode(line)}\n")
            for number, line in numbered_lines(chain([head], stream))
        )
        full = ((number, line) for number, line in lines if line is None or not is_blank(line))
        first, separator = next(full, (0, "")), ""
        if not has_tabs and (separator := separator_of(first[1] or "")):
            first = next(full, (0, ""))
        head = head.removeprefix(b"\xef\xbb\xbf")
        self.dialect = TABS if has_tabs else find_dialect(head, first[1] or "", separator)
        self._lines = _RowLines(lines)
        self._lines.again += [first] if first[0] else []
        self.header = Row(0, 0, list(header))
        if not header:
            row = next(self.rows(), self.header)
            self.header = row._replace(fields=[name.strip() for name in row.fields])

    @property
    def text(self) -> str:
        """The present row as in the file."""
        return self._lines.text

    def rows(self) -> Iterator[Row]:
        """Yields the rows, blank ones too. Their number of fields may differ from the header's."""
        lines = self._lines
        fields_of = self.dialect.reader(lines) if self.dialect.quotes else map(_tabbed, lines)
        while True:
            lines.begin_row()
            problem = ""
            try:
                fields = next(fields_of)
            except StopIteration:
                return
            except csv.Error as error:
                fields, problem = self._broken_row(str(error))
            yield Row(lines.row[0][0], lines.row[-1][0], fields, problem)

    def _broken_row(self, error: str) -> tuple[list[str], str]:
        """Returns the fields and the problem of a row that `csv` refuses.

        If a quote is unclosed, the row is its first line, and the others are read again.
        """
        if error == TOO_LONG:
            return [], TOO_LONG
        if error == BARE_CR or "new-line character" in error:
            return [], BARE_CR
        width = len(self.header.fields)
        if len(self._lines.row) == 1:
            found = split_row(self.text.removesuffix("\n"), self.dialect, width)
            if found[1] != UNCLOSED:
                return found
        if whole := self._row_of_lines():
            return whole, STRAY
        return split_row(self._lines.give_back().removesuffix("\n"), self.dialect, width)

    def _row_of_lines(self) -> list[str] | None:
        """Returns the row, of several lines, if its quotes can be told from those of other rows."""
        lines, width = self._lines, len(self.header.fields)
        if width == 1 or lines.is_cut:
            return None
        tries = 0
        for _ in range(MAX_MORE_LINES):
            last = lines.row[-1][1].replace("\r\n", "\n")
            if len(lines.row) > 1 and '"' in last:
                if self.dialect.opens_field(last):
                    return None
                row, problem = split_row(self.text.removesuffix("\n"), self.dialect, width)
                if problem != UNCLOSED and len(row) == width and self.text.count('"') % 2 == 0:
                    later = [line for _, line in lines.row[1:] if not self._is_blank(line)]
                    are_rows = all(self.dialect.looks_like_row(line, width) for line in later)
                    return None if are_rows else row
                tries += 1
            if tries == MAX_TRIES:
                return None
            try:
                next(lines)
            except (StopIteration, csv.Error):
                return None
        return None


def _tabbed(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if "\r" in line:
        raise csv.Error(BARE_CR)
    return line.split("\t")


class _RowLines:
    """Iterates over lines; all but the first one of a row can be given back and read again."""

    def __init__(self, numbered: Iterator[tuple[int, str | None]]):
        self.numbered = numbered
        self.again: deque[tuple[int, str | None]] = deque()
        self.most_again = 0  # characters of a row that begins and continues in lines read again
        self.begin_row()

    def begin_row(self) -> None:
        self.row: list[tuple[int, str]] = []
        self.size = 0
        self.is_cut = False  # True if the row has reached the file's end or a limit

    @property
    def text(self) -> str:
        """The lines so far, with LF as line end."""
        return "".join(line for _, line in self.row).replace("\r\n", "\n")

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        """Raises csv.Error at a limit, and with TOO_LONG for a row of one line over 16 MiB."""
        most = self.most_again if self.again else MAX_ROW_BYTES
        if self.row and (self.size > most or len(self.row) >= MAX_ROW_LINES):
            self.is_cut = True
            raise csv.Error("the row is too long")
        found = self.again.popleft() if self.again else next(self.numbered, None)
        if found is None:
            self.is_cut = True
            raise StopIteration
        number, line = found
        if line is None and self.row:
            self.again.appendleft(found)
            self.is_cut = True
            raise csv.Error("a line is too long")
        self.row.append((number, line or ""))
        if line is None:
            raise csv.Error(TOO_LONG)
        self.size += len(line)
        return line

    def give_back(self) -> str:
        """Returns the first line of the row. The next rows read the others again, at most half as
        many at once: all reading stays linear in the file's size, whatever the number of unclosed
        quotes."""
        self.most_again = self.size // 2
        self.again.extendleft(reversed(self.row[1:]))
        del self.row[1:]
        return self.text


def numbered_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number from 1, line without its LF); the line is None if it exceeds 16 MiB."""
    rest, dropped, number = b"", 0, 0  # dropped: bytes cut off the front of `rest`
    for block in chain(blocks, [b"\n"]):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            yield number, None if dropped + len(line) > MAX_ROW_BYTES else line
            dropped = 0
        if len(rest) > MAX_ROW_BYTES:
            rest, dropped = b"", MAX_ROW_BYTES + 1
