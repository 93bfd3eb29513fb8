"""Articles out of .csv and .tsv files. A row is an article.

A quoted field may span lines. A quote counts as unclosed, and its line as a row by itself, after
which reading goes on with the next line, if before the closing quote

- the file ends, or the row has more than 16 MiB or 250,000 lines,
- or a later line has a quote with neither a delimiter nor a line end behind it, as one has that
  opens the field of another row.

A quote on the first line with neither behind it is text. What such rows lose, if anything, is
counted. Quotes are doubled within quoted fields, or escaped by backslashes: see
pipeline/csv_escapes.py.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from dataset.blanks import is_blank
from dataset.corpus_files import checked_head, format_of, iter_blocks, read_head, text_size
from dataset.pieces import MAX_ROW_BYTES, Piece, Tally, clean_text, row_pieces
from dataset.text_files import FIRST_ROWS, missing_column
from pipeline.csv_escapes import (
    BACKSLASH,
    ESCAPED,
    escapes_by_backslash,
    with_backslashes_kept,
)
from pipeline.errors import StageError
from pipeline.text_files import shown_list

UNCLOSED, STRAY = "unclosed_quotes", "stray_quotes"
MARKS, MARKS_AND_ESCAPES = re.compile('""?'), re.compile(r'\\["\\]|""?')
MAX_ROW_LINES = 250_000  # a line takes about 60 bytes of memory beside its text


@dataclass(frozen=True, slots=True)
class CsvSlice:
    """A whole .csv file (commas, or semicolons if its header has no comma; double quotes) or .tsv
    file (tabs; quotes mean nothing, a line is a row)."""

    name: str
    path: str
    num_bytes: int
    column: str

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (number of the row's last line, text, whether the article ends).

        A row that ends before the text's column, or has text behind the header's last column, is
        dropped and counted. In a table of one column a line with delimiters is text as it is.
        """
        table = CsvTable(self.path, tally)
        if not table.header:
            return
        if self.column not in table.header:
            raise StageError(missing_column(self.path, self.column, table.header))
        place, width = table.header.index(self.column), len(table.header)
        for number, row in table.rows():
            if width == 1:
                text = row[0] if len(row) == 1 else table.lines.text
                yield from row_pieces(number, text, limit, tally)
            elif problem := problem_of_row(number, row, place, width):
                tally.note("malformed_rows", f"{self.path}: {problem}, the row is dropped")
            else:
                yield from row_pieces(number, row[place], limit, tally)


def problem_of_row(number: int, row: list[str], place: int, width: int) -> str:
    """Why a row of a table of several columns cannot be used, or an empty string."""
    if len(row) > place and not any(row[width:]):
        return ""
    return f"line {number} has {len(row)} columns, the header {width}"


def open_csv(path: Path, name: str, column: str) -> CsvSlice:
    return CsvSlice(name, str(path), text_size(str(path)), column)


def check_csv_file(path: str, column: str) -> None:
    """Raises StageError if the text is UTF-16, lines end with CR alone, the header lacks the
    column or has it twice, or none of the first ten rows can be used."""
    checked_head(path)
    table = CsvTable(path, Tally())
    header = table.header
    if header and column not in header:
        raise StageError(missing_column(path, column, header))
    if header.count(column) > 1:
        raise StageError(f"{path}: column `{column}` stands twice in {shown_list(header)}")
    if len(header) > 1:
        place, width = header.index(column), len(header)
        rows = islice(table.rows(), FIRST_ROWS)
        problems = [problem_of_row(number, row, place, width) for number, row in rows]
        if len(problems) == FIRST_ROWS and all(problems):
            raise StageError(
                f"{path}: {problems[0]}, and so on in each of its first {FIRST_ROWS} rows "
                f"(text that has {table.delimiter!r} in it needs quotes)"
            )


# --- rows ------------------------------------------------------------------------------------


class CsvTable:
    """The header of a file, and its rows. The first line that is not blank is the header."""

    def __init__(self, path: str, tally: Tally):
        self.path, self.tally = path, tally
        csv.field_size_limit(MAX_ROW_BYTES + 1)
        lines = iter_lines(path, tally)
        first = next((line for _, line in lines if not is_blank(line)), "")
        self.escapes = False
        if format_of(path) == "tsv":
            self.delimiter, self.quoting = "\t", csv.QUOTE_NONE
        else:
            self.delimiter = ";" if ";" in first and "," not in first else ","
            self.quoting = csv.QUOTE_MINIMAL
            self.escapes = escapes_by_backslash(read_head(path), self.delimiter)
        if self.escapes:
            tally.counts["files_with_backslash_escapes"] += 1
        self.lines = RowLines(lines, self.escapes)
        self.header = [name.strip() for name in next(self._reader([first]), [])]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (number of the row's last line, fields) of all rows but blank ones."""
        reader = self._reader(self.lines, strict=True)
        while True:
            self.lines.begin_row()
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                row = self._row_of_one_line()
            if row and (len(row) > 1 or not is_blank(row[0])):
                yield self.lines.number, row

    def _row_of_one_line(self) -> list[str]:
        """The first line of a row that has quotes in wrong places; the others are read again."""
        line = self.lines.give_back().removesuffix("\n")
        row, problem = split_line(line, self.delimiter, self.escapes, len(self.header))
        place = f"{self.path}: line {self.lines.number}"
        if problem == UNCLOSED:
            self.tally.note(UNCLOSED, f"{place}: a quote is not closed, the line is a row")
        elif problem:
            self.tally.note(problem, f"{place}: a quote within quotes is not doubled, it is text")
        return row

    def _reader(self, lines, strict: bool = False):
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=self.quoting,
            escapechar=BACKSLASH if self.escapes else None,
            strict=strict,
        )


def split_line(line: str, delimiter: str, escapes: bool, num_columns: int) -> tuple[list[str], str]:
    """(fields of a line with quotes in wrong places, what is wrong with them: UNCLOSED | STRAY).

    A quote that opens a field closes it only in front of a delimiter or the line's end. If that
    does not give the columns there are, and in a table of one, fields with quotes in wrong places
    are not taken for quoted ones.
    """
    readings = [_split(line, delimiter, escapes, lenient) for lenient in (num_columns > 1, False)]
    return next((row for row in readings if len(row[0]) == num_columns), readings[0])


def _split(line: str, delimiter: str, escapes: bool, lenient: bool) -> tuple[list[str], str]:
    fields, problem, place = [], "", 0
    while True:
        text, end, is_exact = "", -1, True
        if line.startswith('"', place):
            text, end, is_exact = _quoted_field(line, place, delimiter, escapes, lenient)
            lenient = lenient and end >= 0  # no later one is closed, either
        if end < 0:
            end = line.find(delimiter, place)
            end = len(line) if end < 0 else end
            text = line[place:end]
            if not is_exact and text.count('"') % 2:  # up to the end, and to a quote there
                rest, problem = line[place + 1 :], UNCLOSED
                if rest.endswith('"') and rest.count('"') % 2:
                    rest, problem = rest[:-1], STRAY
                rest = rest.replace('""', '"')
                return [*fields, ESCAPED.sub(r"\1", rest) if escapes else rest], problem
            text = ESCAPED.sub(r"\1", text) if escapes else text
        fields.append(text)
        problem = problem if is_exact else STRAY
        if end == len(line):
            return fields, problem
        place = end + 1


def _quoted_field(
    line: str, start: int, delimiter: str, escapes: bool, lenient: bool
) -> tuple[str, int, bool]:
    """(text, end of a field, whether its quotes are in order); the end is -1 if none closes it.

    lenient: whether there may be quotes within that are not doubled.
    """
    parts, begin, num_stray = [], start + 1, 0
    for mark in (MARKS_AND_ESCAPES if escapes else MARKS).finditer(line, begin):
        parts.append(line[begin : mark.start()])
        begin = mark.end()
        is_last = line[begin : begin + 1] in ("", delimiter)
        if mark[0] == '"' and is_last:
            return "".join(parts), begin, num_stray == 0
        if mark[0] == '""' and is_last and num_stray % 2:  # the second of two inside, and the last
            return "".join([*parts, '"']), begin, False
        num_stray += mark[0] == '"'
        if num_stray and not lenient:
            break
        parts.append(mark[0][-1])
    return "", -1, False


class RowLines:
    """Iterates over lines; all but the first of a row can be given back to be read again."""

    def __init__(self, numbered_lines: Iterator[tuple[int, str]], escapes: bool):
        self.source, self.escapes = numbered_lines, escapes
        self.again: deque[tuple[int, str]] = deque()
        self.most_again = 0  # bytes of a row that begins and goes on in lines read again
        self.begin_row()

    def begin_row(self) -> None:
        self.row: list[tuple[int, str]] = []
        self.size = 0

    @property
    def number(self) -> int:
        """Of the line that was read last."""
        return self.row[-1][0]

    @property
    def text(self) -> str:
        """Of the row, as it stands in the file."""
        return "".join(line for _, line in self.row)

    def __iter__(self) -> "RowLines":
        return self

    def __next__(self) -> str:
        most = self.most_again if self.again else MAX_ROW_BYTES
        if self.row and (self.size > most or len(self.row) >= MAX_ROW_LINES):
            raise csv.Error("the row is too long")
        numbered = self.again.popleft() if self.again else next(self.source)
        self.row.append(numbered)
        self.size += len(numbered[1])
        return with_backslashes_kept(numbered[1]) if self.escapes else numbered[1]

    def give_back(self) -> str:
        """The row's first line. Others are read again, at most half as many at once: what is
        read in all stays in proportion to the file, however many quotes are unclosed."""
        self.most_again = self.size // 2
        self.again.extendleft(reversed(self.row[1:]))
        del self.row[1:]
        return self.row[0][1]


# --- lines -----------------------------------------------------------------------------------


def iter_lines(path: str, tally: Tally) -> Iterator[tuple[int, str]]:
    """Yields (number, line with its end); drops and counts those that are too long."""
    rest, dropped, number = b"", 0, 0  # dropped: bytes from the front of `rest`
    for block in chain(iter_blocks(path), [b"\n"]):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            if dropped + len(line) > MAX_ROW_BYTES:
                place = f"{path}: line {number} is longer than {MAX_ROW_BYTES >> 20} MiB"
                tally.note("oversized_rows", f"{place}, it is dropped")
            else:
                yield number, _clean_line(line, tally)
            dropped = 0
        if len(rest) > MAX_ROW_BYTES:
            rest, dropped = b"", MAX_ROW_BYTES + 1


def _clean_line(line: bytes, tally: Tally) -> str:
    return clean_text(line, tally).rstrip("\r").replace("\r", " ") + "\n"
