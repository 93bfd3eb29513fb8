"""Tables out of .tsv files (as GLUE's: no quoting), .csv (quoted as spreadsheets do, or with
backslashes before quotes) and .jsonl (an object per line).
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.data.jsonl import first_keys, read_objects
from finetune.data.tsv import Table, column_positions, leave_out, opened, read_tsv, tsv_columns
from pipeline.errors import StageError
from pipeline.user_files.csv_escapes import BACKSLASH, escapes_by_backslash, with_backslashes_kept

# Longest line and field of a CSV file, in characters; Python's own limit is shorter than articles.
MAX_CSV_FIELD = 16 << 20
HEAD_BYTES = 1 << 20  # that tell how quotes are escaped
# What csv says when a row has no end, or none before a field of that length.
_UNCLOSED = ("end of data", "field limit")


def table_columns(path: Path, wanted: Sequence[str]) -> list[str]:
    """Names of the columns; for .jsonl those of the first objects, until all wanted ones are found.

    An object may lack what others have: it is a row without a label, or one that is left out.
    """
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return first_keys(path, wanted)
    if kind == ".csv":
        return _csv_header(path, _csv_reader(path))
    return tsv_columns(path)


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Some columns of a .tsv, .csv or .jsonl file; see `read_tsv`.

    optional: those that an object of a .jsonl may lack, as a cell of the others may be empty.
    """
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _read_jsonl(path, columns, optional)
    return _read_csv(path, columns) if kind == ".csv" else read_tsv(path, columns)


def _read_csv(path: Path, columns: Sequence[str]) -> Table:
    """A row may have line breaks within quotes; its number is that of its first line.

    Raises StageError for a quote that is never closed: all rows behind it would be lost.
    """
    reader = _csv_reader(path)
    names = _csv_header(path, reader)
    picked = column_positions(path, names, columns)
    table = Table(path, [])
    for first, last, fields, problem in _csv_rows(path, reader):
        if problem := problem or _csv_problem(fields, len(names)):
            lines = f" in lines {first} to {last}" if last > first else ""
            leave_out(table.malformed, f"{path}:{first}: {problem}{lines}")
        else:
            table.rows.append((first, tuple(fields[i] for i in picked)))
    return table


def _csv_rows(path: Path, reader) -> Iterator[tuple[int, int, list[str], str]]:
    """(first line, last line, fields, what is wrong with its quotes) of each row.

    Empty lines at the end of the file are no rows.
    """
    num_empty = 0
    while True:
        first, fields, problem = reader.line_num + 1, [], ""
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if any(words in str(error) for words in _UNCLOSED):
                raise StageError(f"{path}:{first}: a quote that is never closed") from error
            problem = _in_words(error)
        if not fields and not problem:
            num_empty += 1
            continue
        yield from ((line, line, [], "") for line in range(first - num_empty, first))
        yield first, reader.line_num, fields, problem
        num_empty = 0


def _csv_reader(path: Path):
    csv.field_size_limit(MAX_CSV_FIELD)
    with opened(path) as file:
        escapes = escapes_by_backslash(file.read(HEAD_BYTES))
    if not escapes:
        return csv.reader(_csv_lines(path), strict=True)
    lines = map(with_backslashes_kept, _csv_lines(path))
    return csv.reader(lines, strict=True, escapechar=BACKSLASH)


def _csv_lines(path: Path) -> Iterator[str]:
    """Bytes that are no UTF-8 become half surrogate pairs, which tell them in their row."""
    with (
        opened(path) as file,
        # A CR alone ends no line: the second half of one that has it would be taken for a row.
        io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="\n") as lines,
    ):
        number = 1
        while line := lines.readline(MAX_CSV_FIELD):
            if len(line) == MAX_CSV_FIELD:
                raise StageError(f"{path}:{number}: longer than {MAX_CSV_FIELD:,} characters")
            yield line
            number += 1


def _csv_header(path: Path, reader) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise StageError(f"{path}:1: {_in_words(error)}") from error
    if problem := _problem_of_text("".join(names)):
        raise StageError(f"{path}:1: {problem}, expected the names of the columns")
    return names


def _in_words(error: csv.Error) -> str:
    return "CR within the line" if "new-line character" in str(error) else str(error)


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


def _read_jsonl(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Table:
    """Texts and labels may be strings, numbers, true or false (`true`, `false` as labels)."""
    objects = read_objects(path)
    table = Table(path, [], objects.malformed)
    for number, row in objects.rows:
        values = [_without_nan(row.get(column)) for column in columns]
        wrong = [
            column
            for column, value in zip(columns, values, strict=True)
            if not isinstance(value, (str, int, float))
            and not (value is None and column in optional)
        ]
        if wrong:
            problem = f"no text or number as {', '.join(wrong)}"
            leave_out(table.malformed, f"{path}:{number}: {problem}")
        else:
            table.rows.append((number, tuple(map(_word, values))))
    return table


def _without_nan(value: Any) -> Any:
    """NaN is what pandas writes where a table has nothing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _word(value: str | int | float | bool | None) -> str:
    """JSON's 1 and 1.0 are the same number; null is an empty cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
