"""Tasks of the user's own: classification or regression of one text or a pair of texts.

Their files are .tsv (as GLUE's: no quoting), .csv (quoted as spreadsheets do) or .jsonl (an
object per line).
"""

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from finetune.jsonl import first_keys, read_objects
from finetune.tasks import Split, Task
from finetune.tsv import Table, column_positions, read_bytes, read_tsv, tsv_columns
from pipeline.errors import ConfigError, StageError

# Longest field of a CSV file, in characters; Python's own limit is shorter than long articles.
MAX_CSV_FIELD = 1 << 27


def custom_task(
    name: str,
    *,
    train: str,
    dev: str,
    text_columns: Sequence[str],
    test: str = "",
    label_column: str = "label",
    labels: Sequence[str] = (),
    score_range: Sequence[float] = (),
    metrics: Sequence[str] = (),
) -> Task:
    """FINETUNE.CUSTOM_TASKS.<name> as a task; its data_dir is the working directory.

    The classes of a classification are `labels`, or the distinct labels of `train`, sorted.
    Raises ConfigError for a file without the columns and for labels that are no two classes.
    """
    _check_columns(name, {"TRAIN": train, "DEV": dev}, (*text_columns, label_column))
    _check_columns(name, {"TEST": test} if test else {}, text_columns)
    words = [] if score_range else list(labels) or _labels_of_train(name, train, label_column)
    return Task(
        name=name,
        text_columns=tuple(text_columns),
        label_column=label_column,
        metrics=_metrics(name, metrics, words),
        num_train_rows=0,
        train=Split("train", (train,)),
        dev=(Split("dev", (dev,)),),
        test=(Split("test", (test,)),) if test else (),
        labels={word: word for word in words},
        score_range=tuple(score_range) or (0.0, 0.0),
        benchmark="",
    )


def _metrics(name: str, metrics: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The given ones, or the usual ones. words: the classes, none for a regression."""
    if "f1" in metrics and len(words) != 2:
        raise ConfigError(
            [
                f"FINETUNE.CUSTOM_TASKS.{name}.METRICS: f1 is that of the second of two labels, "
                f"got {len(words)} labels, expected f1_macro"
            ]
        )
    return tuple(metrics) or (("accuracy",) if words else ("pearson", "spearman"))


def _check_columns(name: str, files: dict[str, str], columns: Sequence[str]) -> None:
    for key, file in files.items():
        try:
            column_positions(Path(file), table_columns(Path(file)), columns)
        except StageError as error:
            raise ConfigError([f"FINETUNE.CUSTOM_TASKS.{name}.{key}: {error.cause}"]) from error


def _labels_of_train(name: str, train: str, column: str) -> list[str]:
    state = Path(train).stat()
    words = _distinct_words(train, column, state.st_size, state.st_mtime_ns)
    if len(words) < 2:
        raise ConfigError(
            [
                f"FINETUNE.CUSTOM_TASKS.{name}.LABELS: got none and {train} has "
                f"{' '.join(words) or 'none'} in column {column}, expected at least two"
            ]
        )
    return list(words)


@functools.cache
def _distinct_words(path: str, column: str, size: int, mtime_ns: int) -> tuple[str, ...]:
    """A process reads a file again only when it has changed."""
    rows = read_table(Path(path), (column,)).rows
    return tuple(sorted({label.strip() for _, (label,) in rows} - {""}))


def table_columns(path: Path) -> list[str]:
    """Names of the columns; for .jsonl those of the first object."""
    if path.suffix == ".jsonl":
        return first_keys(path)
    if path.suffix == ".csv":
        return _csv_header(path, csv.reader(_csv_lines(path), strict=True))
    return tsv_columns(path)


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Some columns of a .tsv, .csv or .jsonl file; see `read_tsv`."""
    if path.suffix == ".jsonl":
        return _read_jsonl(path, columns)
    return _read_csv(path, columns) if path.suffix == ".csv" else read_tsv(path, columns)


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
        return [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise StageError(f"{path}:1: {error}") from error


def _csv_problem(fields: list[str], expected: int) -> str:
    if len(fields) != expected:
        return f"{len(fields)} fields, expected {expected}"
    whole = "".join(fields)
    if "\0" in whole:
        return "NUL byte"
    return "not UTF-8" if any("\udc80" <= char <= "\udcff" for char in whole) else ""


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
    return str(value).lower() if isinstance(value, bool) else str(value)
