"""Reads TSV files as GLUE means them.

Fields are what stands between tabs: quotes mean nothing (many are unbalanced). Lines end at
LF or CRLF and nowhere else (str.splitlines would cut at U+2028 too). A byte order mark at the
start is no part of the first column's name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import StageError


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

    A row is malformed, and left out, if it has not as many fields as the header or is not UTF-8.
    Raises StageError if the file or a column is missing.
    """
    lines = _lines(path)
    names = list(header) or next(lines, (0, b""))[1].decode("utf-8", "replace").split("\t")
    missing = [column for column in columns if column not in names]
    if missing:
        raise StageError(f"{path}: no column {', '.join(missing)}; it has {', '.join(names)}")
    picked = [names.index(column) for column in columns]
    table = Table(path, [])
    for number, line in lines:
        try:
            fields = line.decode("utf-8").split("\t")
        except UnicodeDecodeError:
            table.malformed.append(f"{path}:{number}: not UTF-8")
            continue
        if len(fields) != len(names):
            table.malformed.append(f"{path}:{number}: {len(fields)} fields, expected {len(names)}")
            continue
        table.rows.append((number, tuple(fields[i] for i in picked)))
    return table


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its ending); empty lines at the end of the file are no rows."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from error
    content = content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not content:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        yield number, line.removesuffix(b"\r")
