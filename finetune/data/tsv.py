"""Reads TSV files as GLUE means them.

Fields are what stands between tabs: quotes mean nothing (many are unbalanced). Lines end at
LF or CRLF and nowhere else (str.splitlines would cut at U+2028 too). A byte order mark at the
start is no part of the first column's name, nor are spaces around a name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StageError
from pipeline.user_files.file_checks import (
    LOOKED_AT,
    has_bare_carriage_returns,
    problem_with_encoding,
    problem_with_file,
    shown_list,
)

MAX_LINE_BYTES = 16 << 20
MAX_MALFORMED = 100_000  # rows; a file with more is not what it is taken for
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Table:
    """rows: (line number, fields in the order of the columns asked for).

    malformed: `file:line: what is wrong` for every row that was left out.
    """

    path: Path
    rows: list[tuple[int, tuple[str, ...]]]
    malformed: list[str] = field(default_factory=list)


def read_tsv(path: Path, columns: Sequence[str], header: Sequence[str] = ()) -> Table:
    """Reads some columns of a file; `header` names all columns of a file without header line.

    A row is malformed, and left out, if it has not as many fields as the header, is not UTF-8, has
    a CR within the line, holds a NUL byte or is longer than 16 MiB. Raises StageError if the file
    or a column is missing, and if there are more than 100,000 malformed rows.
    """
    lines = numbered_lines(path)
    names = list(header) or _names(path, next(lines, (1, b""))[1])
    picked = column_positions(path, names, columns)
    table = Table(path, [])
    for number, line in lines:
        try:
            fields = _one_row(line).split("\t")
        except ValueError as error:
            leave_out(table.malformed, f"{path}:{number}: {error}")
            continue
        if len(fields) != len(names):
            problem = f"{len(fields)} fields, expected {len(names)}"
            leave_out(table.malformed, f"{path}:{number}: {problem}")
            continue
        table.rows.append((number, tuple(fields[i] for i in picked)))
    return table


def tsv_columns(path: Path) -> list[str]:
    """The names in the header line; [""] for an empty file."""
    return _names(path, next(numbered_lines(path), (1, b""))[1])


def _names(path: Path, header: bytes) -> list[str]:
    if has_bare_carriage_returns(header):
        raise StageError(f"{path}: lines end with CR alone, expected LF or CRLF")
    try:
        return [name.strip() for name in decoded(header).split("\t")]
    except ValueError as error:
        raise StageError(f"{path}:1: {error}, expected the names of the columns") from error


def column_positions(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where the columns stand in the header `names`. StageError if one does not, or stands twice.

    A name that nobody asks for may stand twice.
    """
    missing = [column for column in columns if column not in names]
    if missing:
        found = shown_list(names) if any(names) else "none, the file is empty"
        raise StageError(f"{path}: no column {', '.join(missing)}; it has {found}{_hint(names)}")
    twice = [column for column in columns if list(names).count(column) > 1]
    if twice:
        raise StageError(f"{path}: column {twice[0]} stands twice in {shown_list(names)}")
    return [list(names).index(column) for column in columns]


def _hint(names: Sequence[str]) -> str:
    """A header in one piece that is no single name is separated by something else."""
    other = [mark for mark in ",;\t" if len(names) == 1 and mark in names[0]]
    expected = "commas in .csv, tabs in .tsv"
    return f" (columns are separated by {expected}, not by {other[0]!r})" if other else ""


def leave_out(malformed: list[str], problem: str) -> None:
    """Adds a row to those that are left out. StageError if there are too many."""
    malformed.append(problem)
    if len(malformed) > MAX_MALFORMED:
        raise StageError(
            f"{malformed[0]}, and {MAX_MALFORMED:,} more rows cannot be read; "
            "is this the right file?"
        )


# --- lines ------------------------------------------------------------------------------------


def decoded(line: bytes) -> str:
    """The line as text. Raises ValueError with what is wrong if it is none."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    if b"\0" in line:  # what a crash leaves of a file; no text holds one
        raise ValueError("NUL byte")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def _one_row(line: bytes) -> str:
    """A CR within a line is where a program that writes other line ends has begun a row."""
    if b"\r" in line:
        raise ValueError("CR within the line")
    return decoded(line)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its ending); empty lines at the end of the file are no rows.

    Of a line that is longer than 16 MiB just the beginning, for `decoded` to refuse, is kept.
    """
    with opened(path) as file:
        num_empty = 0
        for number, raw in enumerate(_raw_lines(file), 1):
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            if not line:
                num_empty += 1
                continue
            yield from ((empty, b"") for empty in range(number - num_empty, number))
            yield number, line
            num_empty = 0


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; of longer ones the first MAX_LINE_BYTES + 1 bytes."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, behind a byte order mark. StageError if it cannot be read, or is UTF-16."""
    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with open(path, "rb") as file:
            head = file.read(LOOKED_AT)
            if problem := problem_with_encoding(head):
                raise StageError(f"{path}: {problem}")
            file.seek(len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0)
            yield file
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from error
