"""Reads tables of tasks: .tsv (quotes are text, as in GLUE), .csv, .jsonl (objects in lines), and
.parquet or a folder of such files.

Lines end at LF or CRLF only; str.splitlines would cut at U+2028, too.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from finetune.data.files.cells import cell_of, column_positions, list_of, problem_of_text
from finetune.data.files.parquet_tables import is_parquet, parquet_columns, parquet_values
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
)
from pipeline.user_files.json_lines import parsed_object

BLOCK_BYTES = 1 << 20
MAX_MALFORMED = 100_000  # rows; with more, it is probably the wrong file
MAX_KEYS = 1000  # of objects, remembered to be named if a column is missing
Cells = TypeVar("Cells")


@dataclass(frozen=True)
class Table(Generic[Cells]):
    """rows: (number as in `TableRow`, cells). malformed: `file:line: problem` of each row left
    out."""

    path: Path
    rows: list[tuple[int, Cells]] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    def leave_out(self, number: int, problem: object) -> None:
        """Adds a malformed row. Raises StageError if there are more than 100,000."""
        self.malformed.append(f"{place(self.path, number)}: {problem}")
        if len(self.malformed) > MAX_MALFORMED:
            raise StageError(
                f"{self.malformed[0]}, and {MAX_MALFORMED:,} more rows are malformed; "
                "is this the right file?"
            )


def place(path: Path, number: int) -> str:
    """Returns a row's place in words; number: as in `TableRow`."""
    return f"{path}, row {number}" if is_parquet(path) else f"{path}:{number}"


def table_columns(path: Path) -> list[str]:
    """Returns the columns of any file but .jsonl. Raises StageError for a malformed header."""
    if is_parquet(path):
        return parquet_columns(path)
    return _open_delimited(path).header.fields


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), header: Sequence[str] = ()
) -> Table[tuple[str, ...]]:
    """Reads some columns of a file into memory, without its malformed rows; see `iter_table`.

    Raises StageError for more than 100,000 malformed rows, too.
    """
    found = collected(path, iter_table(path, columns, optional, header))
    return Table(path, [(number, row.cells) for number, row in found.rows], found.malformed)


class TableRow(NamedTuple):
    """A row of a file.

    number: of its first line, from 1; in Parquet of the row, from 0. cells: one per column. lists:
    one per column of lists, None if the row has none. problem: the reason why the row is malformed,
    without cells and lists then.
    """

    number: int
    cells: tuple[str, ...] = ()
    lists: tuple[tuple[str, ...] | None, ...] = ()
    problem: str = ""


def collected(path: Path, rows: Iterable[TableRow]) -> Table[TableRow]:
    """Returns the rows of a file without the malformed ones.

    Raises StageError for more than 100,000 malformed rows.
    """
    table: Table[TableRow] = Table(path)
    for row in rows:
        if row.problem:
            table.leave_out(row.number, row.problem)
        else:
            table.rows.append((row.number, row))
    return table


def iter_table(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    header: Sequence[str] = (),
    *,
    lists: Sequence[str] = (),
    separator: str = ",",
    start: int = 0,
) -> Iterator[TableRow]:
    """Yields all rows in the file's order, in constant memory.

    optional: columns that objects may lack; their cells are empty then. header: all columns of a
    .tsv or .csv file without a header line. lists: more columns, of lists: those of JSON and
    Parquet, or text with the parts between `separator`. start: number of rows to skip, malformed
    ones included.

    Malformed are rows with another number of fields than the header, misplaced quotes, other bytes
    than UTF-8, a NUL, a CR within a line or more than 16 MiB. Raises StageError for a missing file
    or column (of objects, after the last one), a quote that is never closed, and damaged Parquet.
    """
    names = [*columns, *lists]
    if is_parquet(path):
        rows = parquet_values(path, names, lists, start)
    elif path.suffix.lower() == ".jsonl":
        rows = _object_values(path, names, start)
    else:
        rows = _delimited_values(path, names, header, start)
    for number, values in rows:
        if isinstance(values, str):
            yield TableRow(number, problem=values)
        else:
            yield _row(number, names, values, optional, lists, separator)


def _row(
    number: int,
    names: Sequence[str],
    values: Sequence[Any],
    optional: Sequence[str],
    lists: Sequence[str],
    separator: str,
) -> TableRow:
    num_cells = len(names) - len(lists)
    pairs = list(zip(names, values, strict=True))
    cells = [cell_of(value, name in optional) for name, value in pairs[:num_cells]]
    if None in cells:
        wrong = [name for name, cell in zip(names, cells, strict=False) if cell is None]
        return TableRow(number, problem=f"no text or number as {', '.join(wrong)}")
    parts = []
    for name, value in pairs[num_cells:]:
        try:
            parts.append(list_of(value, separator))
        except ValueError as error:
            return TableRow(number, problem=f"{error} as {name}")
    return TableRow(number, tuple(cell or "" for cell in cells), tuple(parts))


# --- .tsv and .csv ----------------------------------------------------------------------------


def _delimited_values(
    path: Path, names: Sequence[str], header: Sequence[str], start: int
) -> Iterator[tuple[int, Sequence[Any] | str]]:
    file = _open_delimited(path, header)
    width = len(file.header.fields)
    picked = column_positions(path, file.header.fields, names)
    for row in islice(_without_blank_end(file), start, None):
        if row.problem == UNCLOSED:
            raise StageError(f"{path}:{row.first}: {UNCLOSED}")
        problem = row.problem or problem_of_text("".join(row.fields))
        if not problem and len(row.fields) != width:
            problem = f"{len(row.fields)} fields, expected {width}"
        cells = [] if problem else [row.fields[i] for i in picked]
        if header and not start and row.first == 1 and _are_names(cells, names):
            raise StageError(f"{path}:1: the names of the columns, expected a file without them")
        lines = f" in lines {row.first} to {row.last}" if row.last > row.first else ""
        yield row.first, f"{problem}{lines}" if problem else cells


def _are_names(cells: Sequence[str], names: Sequence[str]) -> bool:
    return [cell.strip().casefold() for cell in cells] == [name.casefold() for name in names]


def _open_delimited(path: Path, header: Sequence[str] = ()) -> DelimitedFile:
    """Raises StageError for a malformed header."""
    file = DelimitedFile(
        _blocks(path),
        lambda line: line.decode("utf-8", "surrogateescape"),  # found again by problem_of_text
        lambda line: not line.strip("\r\n"),
        path.suffix.lower() != ".csv",
        tuple(header),
    )
    row = file.header
    if problem := problem_of_text("".join(row.fields)) or row.problem:
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


# --- .jsonl -----------------------------------------------------------------------------------


def read_objects(path: Path) -> Table[dict[str, Any]]:
    """Reads all objects of a .jsonl file.

    Raises StageError for a missing file and for more than 100,000 malformed lines.
    """
    table: Table[dict[str, Any]] = Table(path)
    for number, row in iter_objects(path):
        if isinstance(row, str):
            table.leave_out(number, row)
        else:
            table.rows.append((number, row))
    return table


def iter_objects(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields each line's number and object, or the problem of the line."""
    for number, line in islice(iter_lines(path), start, None):
        row: dict[str, Any] | str
        try:
            row = parsed_line(line)
        except ValueError as error:
            row = str(error)
        yield number, row


def _object_values(
    path: Path, names: Sequence[str], start: int
) -> Iterator[tuple[int, Sequence[Any] | str]]:
    missing, keys = set(names), dict[str, None]()
    are_all_malformed = is_empty = True
    for number, row in iter_objects(path, start):
        is_empty = False
        if isinstance(row, str):
            yield number, row
            continue
        are_all_malformed = False
        if missing:
            missing -= row.keys()
            keys |= dict.fromkeys(row) if len(keys) < MAX_KEYS else {}
        yield number, [row.get(name) for name in names]
    if not start and missing and (is_empty or not are_all_malformed):
        column_positions(path, list(keys), [name for name in names if name in missing])


def parsed_line(line: bytes | None) -> dict[str, Any]:
    """Returns the object in a line of `iter_lines`. Raises ValueError with the problem."""
    if line is None:
        raise ValueError(TOO_LONG)
    text = line.decode("utf-8", "surrogateescape")
    if problem := problem_of_text(text):
        raise ValueError(problem)
    row = parsed_object(text)
    if "\\u" in text:  # JSON can spell half a character, which tokenizers refuse
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return row


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
