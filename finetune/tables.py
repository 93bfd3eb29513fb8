"""Tables out of .tsv files (as GLUE's: no quoting), .csv (quoted as spreadsheets do) and .jsonl
(an object per line).
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from finetune.jsonl import first_keys, read_objects
from finetune.tsv import Table, column_positions, read_bytes, read_tsv, tsv_columns
from pipeline.errors import StageError

# Longest field of a CSV file, in characters; Python's own limit is shorter than long articles.
MAX_CSV_FIELD = 1 << 27


def table_columns(path: Path) -> list[str]:
    """Names of the columns; for .jsonl those of the first object."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return first_keys(path)
    if kind == ".csv":
        return _csv_header(path, csv.reader(_csv_lines(path), strict=True))
    return tsv_columns(path)


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Some columns of a .tsv, .csv or .jsonl file; see `read_tsv`."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _read_jsonl(path, columns)
    return _read_csv(path, columns) if kind == ".csv" else read_tsv(path, columns)


def _read_csv(path: Path, columns: Sequence[str]) -> Table:
    """A row may have line breaks within quotes; its number is that of its first line.

    Raises StageError for a quote that is never closed: all rows behind it would be lost.
    """
    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.reader(_csv_lines(path), strict=True)
    names = _csv_header(path, reader)
    picked = column_positions(path, names, columns)
    table = Table(path, [])
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "end of data" in str(error):
                raise StageError(f"{path}:{number}: a quote that is never closed") from error
            table.malformed.append(f"{path}:{number}: {error}")
            continue
        if fields is None:
            return table
        problem = _csv_problem(fields, len(names))
        if problem:
            lines = f" in lines {number} to {reader.line_num}" if reader.line_num > number else ""
            table.malformed.append(f"{path}:{number}: {problem}{lines}")
        else:
            table.rows.append((number, tuple(fields[i] for i in picked)))


def _csv_lines(path: Path) -> io.StringIO:
    """Bytes that are no UTF-8 become half surrogate pairs, which tell them in their row."""
    content = read_bytes(path).rstrip(b"\r\n")
    return io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")


def _csv_header(path: Path, reader) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise StageError(f"{path}:1: {error}") from error
    if problem := _problem_of_text("".join(names)):
        raise StageError(f"{path}:1: {problem}, expected the names of the columns")
    return names


def _csv_problem(fields: list[str], expected: int) -> str:
    if len(fields) != expected:
        return f"{len(fields)} fields, expected {expected}"
    return _problem_of_text("".join(fields))


def _problem_of_text(text: str) -> str:
    if "\0" in text:
        return "NUL byte"
    try:
        text.encode()  # far faster than a look at each character
    except UnicodeEncodeError:
        return "not UTF-8"
    return ""


def _read_jsonl(path: Path, columns: Sequence[str]) -> Table:
    """Texts and labels may be strings, numbers, true or false (`true`, `false` as labels)."""
    objects = read_objects(path)
    table = Table(path, [], objects.malformed)
    for number, row in objects.rows:
        missing = [
            column for column in columns if not isinstance(row.get(column), (str, int, float))
        ]
        if missing:
            table.malformed.append(f"{path}:{number}: no text or number as {', '.join(missing)}")
        else:
            table.rows.append((number, tuple(_word(row[column]) for column in columns)))
    return table


def _word(value: str | int | float | bool) -> str:
    """JSON's 1 and 1.0 are the same number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
