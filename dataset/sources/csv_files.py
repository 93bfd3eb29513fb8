"""Articles out of .csv and .tsv files. A row is an article.

A quoted field may span lines. A quote counts as unclosed, and its line as a row by itself, after
which reading goes on with the next line, if before the closing quote

- the file ends, or the row has more than 16 MiB or 250,000 lines,
- or a later line opens a field of another row with a quote,
- or each of the later lines looks like a row by itself.

Another quote with neither a delimiter nor a line end behind it is text, and so is what stands
behind a closing quote. What such rows lose, if anything, is counted. Quotes are doubled within
quoted fields, or escaped by backslashes: see pipeline/user_files/csv_escapes.py.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from dataset.sources.article_stream import MAX_ROW_BYTES, Piece, Tally, clean_text, row_pieces
from dataset.sources.blanks import is_blank
from dataset.sources.corpus_files import checked_head, format_of, iter_blocks, read_head, text_size
from dataset.sources.text_files import FIRST_ROWS, missing_column
from pipeline.errors import StageError
from pipeline.user_files.csv_escapes import (
    BACKSLASH,
    ESCAPED,
    escapes_by_backslash,
    has_spaced_quotes,
    with_backslashes_kept,
)
from pipeline.user_files.file_checks import shown_list

UNCLOSED, STRAY = "unclosed_quotes", "stray_quotes"
MARKS, MARKS_AND_ESCAPES = re.compile('""?'), re.compile(r'\\["\\]|""?')
MAX_ROW_LINES = 250_000  # a line takes about 60 bytes of memory beside its text
# Read on in search of the end of a row with quotes in wrong places; each line of quotes is a try.
MAX_MORE_LINES, MAX_TRIES = 1000, 16
MAX_SUSPECT_ROWS = 100  # behind an unclosed quote
SEPARATOR_LINE = re.compile(r'"?sep=([^"\\\w])"?', re.IGNORECASE)  # Excel's, before the header
QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True)
class CsvSlice:
    """A whole .csv file (commas, or semicolons if its header has no comma outside quotes, or what
    Excel's first line `sep=;` says; double quotes) or .tsv file (tabs; quotes mean nothing, a line
    is a row)."""

    name: str
    path: str
    num_bytes: int
    column: str

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (number of the row's last line, text, whether the article ends).

        A row that ends before the text's column, or has text behind the header's last column, is
        dropped and counted; so is what follows an unclosed quote and is no row by itself. In a
        table of one column a line with delimiters is text as it is.
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
            elif problem := table.problem_of_row(row, place):
                tally.note("malformed_rows", f"{self.path}: {problem}, the row is dropped")
            else:
                yield from row_pieces(number, row[place], limit, tally)


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
        place, rows = header.index(column), islice(table.rows(), FIRST_ROWS)
        problems = [table.problem_of_row(row, place) for _, row in rows]
        if len(problems) == FIRST_ROWS and all(problems):
            raise StageError(
                f"{path}: {problems[0]}, and so on in each of its first {FIRST_ROWS} rows "
                f"({table.advice()})"
            )


# --- rows ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialect:
    """escapes: whether backslashes escape quotes. skips_spaces: whether spaces between a delimiter
    and a field are no part of the field."""

    delimiter: str
    quoting: int = csv.QUOTE_MINIMAL
    escapes: bool = False
    skips_spaces: bool = False

    def behind(self, line: str, place: int) -> int:
        """Where the field begins behind the delimiter before `place`."""
        while self.skips_spaces and line.startswith(" ", place):
            place += 1
        return place

    def opens_field(self, line: str) -> bool:
        """Whether the first quote in a line that begins within quotes opens a field."""
        mark = next((mark for mark in MARKS.finditer(line) if mark[0] == '"'), None)
        if not mark or line[mark.end() : mark.end() + 1] in ("\n", self.delimiter):
            return False
        before = line[: mark.start()]
        before = before.rstrip(" ") if self.skips_spaces else before
        return not before or before.endswith(self.delimiter)

    def looks_like_row(self, line: str, width: int) -> bool:
        """Whether a line without quoted fields has as many; a comma of a sentence parts none."""
        found = line.count(self.delimiter)
        return found - (0 if self.skips_spaces else line.count(f"{self.delimiter} ")) == width - 1


def separator_of(line: str) -> str:
    """The delimiter that a line like `sep=;` names, or an empty string."""
    found = SEPARATOR_LINE.fullmatch(line.rstrip("\n"))
    return found[1] if found else ""


def dialect_of(path: str, header: str, delimiter: str) -> Dialect:
    """delimiter: that is known already, or an empty string."""
    if format_of(path) == "tsv":
        return Dialect("\t", csv.QUOTE_NONE)
    bare = QUOTED.sub("", header)
    delimiter = delimiter or (";" if ";" in bare and "," not in bare else ",")
    head = read_head(path)
    if separator_of(head.split(b"\n", 1)[0].decode(errors="replace").rstrip()):
        head = head.partition(b"\n")[2]
    escapes = escapes_by_backslash(head, delimiter)
    return Dialect(delimiter, escapes=escapes, skips_spaces=has_spaced_quotes(head, delimiter))


class CsvTable:
    """The header of a file, and its rows. The first line that is not blank is the header."""

    def __init__(self, path: str, tally: Tally):
        self.path, self.tally = path, tally
        csv.field_size_limit(MAX_ROW_BYTES + 1)
        lines = iter_lines(path, tally)
        full = (line for _, line in lines if not is_blank(line))
        first, delimiter = next(full, ""), ""
        if format_of(path) == "csv" and (delimiter := separator_of(first)):
            first = next(full, "")
        self.dialect = dialect_of(path, first, delimiter)
        if self.dialect.escapes:
            tally.counts["files_with_backslash_escapes"] += 1
        self.lines = RowLines(lines, self.dialect.escapes)
        self.header = [name.strip() for name in next(self._reader([first]), [])]
        self.num_suspect = 0  # rows behind an unclosed quote that may be parts of its row

    def problem_of_row(self, row: list[str], place: int) -> str:
        """Why the present row of a table of several columns cannot be used for the text in column
        `place`, or an empty string."""
        number, width = self.lines.number, len(self.header)
        if len(row) <= place or any(row[width:]):
            return f"line {number} has {len(row)} columns, the header {width}"
        if self.num_suspect and not self._is_whole(row):
            return f"line {number} is no row by itself, and follows an unclosed quote"
        return ""

    def _is_whole(self, row: list[str]) -> bool:
        text, dialect = self.lines.text, self.dialect
        looks_whole = len(self.lines.row) > 1 or dialect.opens_field(text)
        looks_whole = looks_whole or dialect.looks_like_row(text, len(self.header))
        return looks_whole and len(row) >= len(self.header)

    def advice(self) -> str:
        """What may be wrong with rows of too many columns."""
        delimiter = self.dialect.delimiter
        if f'{delimiter} "'.encode() in read_head(self.path):
            return f"quotes have to follow {delimiter!r} without a space between, in all rows"
        return f"text that has {delimiter!r} in it needs quotes"

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (number of the row's last line, fields) of all rows but blank ones."""
        reader = self._reader(self.lines, strict=True)
        while True:
            self.lines.begin_row()
            try:
                row, is_unclosed = next(reader), False
            except StopIteration:
                return
            except csv.Error:
                row, is_unclosed = self._broken_row()
                self.num_suspect = 0 if is_unclosed else self.num_suspect
            if row and (len(row) > 1 or not is_blank(row[0])):
                yield self.lines.number, row
            if is_unclosed:
                self.num_suspect = MAX_SUSPECT_ROWS
            elif self.num_suspect:
                self.num_suspect = 0 if self._is_whole(row) else self.num_suspect - 1

    def _broken_row(self) -> tuple[list[str], bool]:
        """(a row that has quotes in wrong places, whether one is not closed); then it is the first
        line alone, and the others are read again."""
        width = len(self.header)
        place = f"{self.path}: line {self.lines.row[0][0]}"
        row, problem = [], UNCLOSED
        if len(self.lines.row) == 1:
            row, problem = split_line(self.lines.text.removesuffix("\n"), self.dialect, width)
        if problem == UNCLOSED and (whole := self._row_of_lines()):
            row, problem = whole, STRAY
        elif problem == UNCLOSED:
            line = self.lines.give_back().removesuffix("\n")
            row, problem = split_line(line, self.dialect, width)
        if problem == UNCLOSED:
            self.tally.note(UNCLOSED, f"{place}: a quote is not closed, the line is a row")
        elif problem:
            self.tally.note(
                problem,
                f"{place}: a quote within quotes is not doubled, or text follows a closing quote; "
                "both are text",
            )
        return row, problem == UNCLOSED

    def _row_of_lines(self) -> list[str] | None:
        """The row, of several lines, if its quotes can be told from those of other rows."""
        width = len(self.header)
        if width == 1 or self.lines.is_cut:
            return None
        tries = 0
        for _ in range(MAX_MORE_LINES):
            last = self.lines.row[-1][1]
            if len(self.lines.row) > 1 and '"' in last:
                if self.dialect.opens_field(last):
                    return None
                text = self.lines.text.removesuffix("\n")
                row, problem = split_line(text, self.dialect, width)
                if problem != UNCLOSED and len(row) == width and text.count('"') % 2 == 0:
                    later = [line for _, line in self.lines.row[1:] if not is_blank(line)]
                    are_rows = all(self.dialect.looks_like_row(line, width) for line in later)
                    return None if are_rows else row
                tries += 1
            if tries == MAX_TRIES:
                return None
            try:
                next(self.lines)
            except (StopIteration, csv.Error):
                return None
        return None

    def _reader(self, lines, strict: bool = False):
        return csv.reader(
            lines,
            delimiter=self.dialect.delimiter,
            quoting=self.dialect.quoting,
            escapechar=BACKSLASH if self.dialect.escapes else None,
            skipinitialspace=self.dialect.skips_spaces,
            strict=strict,
        )


def split_line(line: str, dialect: Dialect, num_columns: int) -> tuple[list[str], str]:
    """(fields of a row with quotes in wrong places, what is wrong with them: UNCLOSED | STRAY).

    A quote that opens a field closes it only in front of a delimiter or the line's end. If that
    does not give the columns there are, and in a table of one, fields with quotes in wrong places
    are not taken for quoted ones.
    """
    readings = [_split(line, dialect, lenient) for lenient in (num_columns > 1, False)]
    return next((row for row in readings if len(row[0]) == num_columns), readings[0])


def _split(line: str, dialect: Dialect, lenient: bool) -> tuple[list[str], str]:
    delimiter, escapes = dialect.delimiter, dialect.escapes
    fields, problem, place = [], "", dialect.behind(line, 0)
    while True:
        text, end, is_exact = "", -1, True
        if line.startswith('"', place):
            text, end, is_exact = _quoted_field(line, place, delimiter, escapes, lenient)
            lenient = lenient and end >= 0  # no later one is closed, either
        if end < 0:
            end = line.find(delimiter, place)
            end = len(line) if end < 0 else end
            text = line[place:end]
            if not is_exact and text.count('"') % 2:  # the delimiter stands within quotes
                end = _end_of_pairs(line, place, end, delimiter)
                text = line[place + 1 : end if end >= 0 else len(line)]
                if end >= 0 and not text.endswith('"'):
                    text = line[place:end]
                else:
                    text = text[: -1 if end >= 0 else None].replace('""', '"')
            text = ESCAPED.sub(r"\1", text) if escapes else text
        fields.append(text)
        if end < 0:
            return fields, UNCLOSED
        problem = problem if is_exact else STRAY
        if end == len(line):
            return fields, problem
        place = dialect.behind(line, end + 1)


def _end_of_pairs(line: str, start: int, end: int, delimiter: str) -> int:
    """The first delimiter or line end at or behind `end` with as many quotes opened as closed
    before it; -1 if there is none."""
    is_open = line.count('"', start, end) % 2
    while is_open and end < len(line):
        begin, end = end, line.find(delimiter, end + 1)
        end = len(line) if end < 0 else end
        is_open ^= line.count('"', begin, end) % 2
    return -1 if is_open else end


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
        self.is_cut = False  # whether it has reached the file's end or a limit

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
            self.is_cut = True
            raise csv.Error("the row is too long")
        numbered = self.again.popleft() if self.again else next(self.source, None)
        if numbered is None:
            self.is_cut = True
            raise StopIteration
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
