"""Reads TSV files as GLUE means them.

Fields are what stands between tabs: quotes mean nothing (many are unbalanced). Lines end at
LF or CRLF and nowhere else (str.splitlines would cut at U+2028 too). A byte order mark at the
start is no part of the first column's name, nor are spaces around a name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import StageError

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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

    A row is malformed, and left out, if it has not as many fields as the header, is not UTF-8
    or holds a NUL byte. Raises StageError if the file or a column is missing.
    """
    lines = numbered_lines(path)
    names = list(header) or _names(path, next(lines, (1, b""))[1])
    picked = column_positions(path, names, columns)
    table = Table(path, [])
    for number, line in lines:
        try:
            fields = decoded(line).split("\t")
        except ValueError as error:
            table.malformed.append(f"{path}:{number}: {error}")
            continue
        if len(fields) != len(names):
            table.malformed.append(f"{path}:{number}: {len(fields)} fields, expected {len(names)}")
            continue
        table.rows.append((number, tuple(fields[i] for i in picked)))
    return table


def tsv_columns(path: Path) -> list[str]:
    """The names in the header line; [""] for an empty file."""
    return _names(path, next(numbered_lines(path), (1, b""))[1])


def _names(path: Path, header: bytes) -> list[str]:
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
        shown = ", ".join(names) if any(names) else "none, the file is empty"
        raise StageError(f"{path}: no column {', '.join(missing)}; it has {shown}{_hint(names)}")
    twice = [column for column in columns if list(names).count(column) > 1]
    if twice:
        raise StageError(f"{path}: column {twice[0]} stands twice in {', '.join(names)}")
    return [list(names).index(column) for column in columns]


def _hint(names: Sequence[str]) -> str:
    """A header in one piece that is no single name is separated by something else."""
    other = [mark for mark in ",;\t" if len(names) == 1 and mark in names[0]]
    expected = "commas in .csv, tabs in .tsv"
    return f" (columns are separated by {expected}, not by {other[0]!r})" if other else ""


def decoded(line: bytes) -> str:
    """The line as text. Raises ValueError with what is wrong if it is none."""
    if b"\0" in line:  # what a crash leaves of a file; no text holds one
        raise ValueError("NUL byte")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def read_bytes(path: Path) -> bytes:
    """The file without a byte order mark. StageError if it cannot be read or is UTF-16."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from error
    if content.startswith(_UTF16_MARKS):
        raise StageError(f"{path}: UTF-16, expected UTF-8")
    return content.removeprefix(b"\xef\xbb\xbf")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its ending); empty lines at the end of the file are no rows."""
    content = read_bytes(path).rstrip(b"\r\n")
    if not content:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        yield number, line.removesuffix(b"\r")
