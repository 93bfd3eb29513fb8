"""Reads tables of tasks: .tsv (quotes are text, as in GLUE), .csv and .jsonl (objects in lines).

Lines end at LF or CRLF only; str.splitlines would cut at U+2028, too.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.errors import StageError
from pipeline.user_files.delimited_files import (
    TOO_LONG,
    UNCLOSED,
    DelimitedFile,
    Row,
    numbered_lines,
)
from pipeline.user_files.file_checks import (
    has_bare_carriage_returns,
    problem_with_encoding,
    problem_with_file,
    shown_list,
)
from pipeline.user_files.json_lines import parsed_object

BLOCK_BYTES = 1 << 20
MAX_MALFORMED = 100_000  # rows; with more, it is probably the wrong file
Cells = TypeVar("Cells")


@dataclass(frozen=True)
class Table(Generic[Cells]):
    """rows: (number of the first line, cells). malformed: `file:line: problem` of each row left
    out."""

    path: Path
    rows: list[tuple[int, Cells]] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    def leave_out(self, number: int, problem: object) -> None:
        """Adds a malformed row. Raises StageError if there are more than 100,000."""
        self.malformed.append(f"{self.path}:{number}: {problem}")
        if len(self.malformed) > MAX_MALFORMED:
            raise StageError(
                f"{self.malformed[0]}, and {MAX_MALFORMED:,} more rows are malformed; "
                "is this the right file?"
            )


def table_columns(path: Path) -> list[str]:
    """Returns the column names of a .tsv or .csv file. Raises StageError for a malformed header."""
    return _open_delimited(path).header.fields


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), header: Sequence[str] = ()
) -> Table[tuple[str, ...]]:
    """Reads some columns of a file.

    optional: columns that objects may lack; their cells are empty then. header: all columns of a
    file without a header row.

    Leaves out malformed rows: with another number of fields than the header, misplaced quotes,
    other bytes than UTF-8, a NUL, a CR within a line or more than 16 MiB. Raises StageError for a
    missing file or column, a quote that is never closed, and more than 100,000 malformed rows.
    """
    if path.suffix.lower() == ".jsonl":
        return _read_columns(read_objects(path), columns, optional)
    file = _open_delimited(path, header)
    names = file.header.fields
    picked = column_positions(path, names, columns)
    table: Table[tuple[str, ...]] = Table(path)
    for row in _without_blank_end(file):
        if row.problem == UNCLOSED:
            raise StageError(f"{path}:{row.first}: {UNCLOSED}")
        problem = row.problem or _problem_of_text("".join(row.fields))
        if not problem and len(row.fields) != len(names):
            problem = f"{len(row.fields)} fields, expected {len(names)}"
        if problem:
            lines = f" in lines {row.first} to {row.last}" if row.last > row.first else ""
            table.leave_out(row.first, f"{problem}{lines}")
        else:
            table.rows.append((row.first, tuple(row.fields[i] for i in picked)))
    return table


def column_positions(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Returns the positions of the columns in the header `names`.

    Raises StageError if a column is missing or appears twice.
    """
    missing = [column for column in columns if column not in names]
    if missing:
        found = shown_list(names) if any(names) else "none, the file is empty"
        raise StageError(f"{path}: no column {', '.join(missing)}; it has {found}{_hint(names)}")
    for column in columns:
        if names.count(column) > 1:
            raise StageError(f"{path}: column {column} appears twice in {shown_list(names)}")
    return [names.index(column) for column in columns]


def _hint(names: Sequence[str]) -> str:
    """Explains a header with another delimiter."""
    other = [mark for mark in ",;\t" if len(names) == 1 and mark in names[0]]
    expected = "commas or semicolons in .csv, tabs in .tsv"
    return f" (columns are separated by {expected}, not by {other[0]!r})" if other else ""


# --- .tsv and .csv ----------------------------------------------------------------------------


def _open_delimited(path: Path, header: Sequence[str] = ()) -> DelimitedFile:
    """Raises StageError for a malformed header."""
    file = DelimitedFile(
        _blocks(path),
        lambda line: line.decode("utf-8", "surrogateescape"),  # found again by _problem_of_text
        lambda line: not line.strip("\r\n"),
        path.suffix.lower() != ".csv",
        tuple(header),
    )
    row = file.header
    if problem := _problem_of_text("".join(row.fields)) or row.problem:
        raise StageError(f"{path}:{row.first}: {problem}, expected the names of the columns")
    return file


def _without_blank_end(file: DelimitedFile) -> Iterator[Row]:
    """Yields the rows; empty lines at the end of the file are no rows."""
    last, blank = file.header.last, [""]
    for row in file.rows():
        if row.problem or len(row.fields) > 1 or file.text.strip("\r\n"):
            yield from (Row(number, number, blank) for number in range(last + 1, row.first))
            yield row
            last = row.last
        else:
            blank = row.fields


def _problem_of_text(text: str) -> str:
    if "\0" in text:  # left by a crash; no text has one
        return "NUL byte"
    try:
        text.encode()  # far faster than a look at each character
    except UnicodeEncodeError:
        return "not UTF-8"
    return ""


# --- .jsonl -----------------------------------------------------------------------------------


def read_objects(path: Path) -> Table[dict[str, Any]]:
    """Reads all objects of a .jsonl file.

    Raises StageError for a missing file and for more than 100,000 malformed lines.
    """
    table: Table[dict[str, Any]] = Table(path)
    for number, line in iter_lines(path):
        try:
            table.rows.append((number, parsed_line(line)))
        except ValueError as error:
            table.leave_out(number, error)
    return table


def parsed_line(line: bytes | None) -> dict[str, Any]:
    """Returns the object in a line of `iter_lines`. Raises ValueError with the problem."""
    if line is None:
        raise ValueError(TOO_LONG)
    text = line.decode("utf-8", "surrogateescape")
    if problem := _problem_of_text(text):
        raise ValueError(problem)
    row = parsed_object(text)
    if "\\u" in text:  # JSON can spell half a character, which tokenizers refuse
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return row


def _read_columns(
    objects: Table[dict[str, Any]], columns: Sequence[str], optional: Sequence[str]
) -> Table[tuple[str, ...]]:
    if not objects.malformed or objects.rows:
        keys = dict.fromkeys(key for _, row in objects.rows for key in row)
        column_positions(objects.path, list(keys), columns)
    table: Table[tuple[str, ...]] = Table(objects.path, [], objects.malformed)
    for number, row in objects.rows:
        cells = [_cell(row.get(column), column in optional) for column in columns]
        if None in cells:
            wrong = [column for column, cell in zip(columns, cells, strict=True) if cell is None]
            table.leave_out(number, f"no text or number as {', '.join(wrong)}")
        else:
            table.rows.append((number, tuple(cell or "" for cell in cells)))
    return table


def _cell(value: Any, is_optional: bool) -> str | None:
    """Returns a string, number, true or false as a cell (1.0 as `1`), None for other values.

    An optional null, or the NaN that pandas writes for a missing cell, is an empty cell.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "" if is_optional else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (str, int, float)) else None


# --- files ------------------------------------------------------------------------------------


def iter_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number from 1, line without its ending), None for a line of more than 16 MiB.

    Empty lines at the end of the file do not count.
    """
    last = 0
    for number, line in numbered_lines(_blocks(path)):
        if line is None or (line := line.removesuffix(b"\r")):
            yield from ((empty, b"") for empty in range(last + 1, number))
            yield number, line
            last = number


def _blocks(path: Path) -> Iterator[bytes]:
    """Yields the content without a byte order mark.

    Raises StageError if it cannot be read, is UTF-16, or its lines end with CR alone.
    """
    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with open(path, "rb") as file:
            head = file.read(BLOCK_BYTES)
            if problem := problem_with_encoding(head):
                raise StageError(f"{path}: {problem}")
            if has_bare_carriage_returns(head):
                raise StageError(f"{path}: lines end with CR alone, expected LF or CRLF")
            yield head.removeprefix(b"\xef\xbb\xbf")
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from error
