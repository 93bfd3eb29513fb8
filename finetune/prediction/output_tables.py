"""Writes a table with the columns of its answers, in any of the formats that tasks read."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.files.cells import cell_of
from finetune.data.files.parquet_tables import METADATA
from finetune.prediction.answers import DIGITS, Answer
from finetune.prediction.input_tables import InputTable
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

if TYPE_CHECKING:
    import pyarrow

PIECE_ROWS, PIECE_CHARACTERS = 4096, 1 << 20  # written at once; a row group of Parquet
TSV, OBJECTS, PARQUET = ".tsv", ".jsonl", ".parquet"
Row = dict[str, Any]
Answers = Sequence[Sequence[Answer]]
Write = Callable[[Any, Answers], None]  # some rows and their answers


@dataclass(frozen=True)
class Layout:
    """columns: of the table. added: the names of the answers' columns."""

    columns: Sequence[str]
    added: Sequence[str]

    @property
    def names(self) -> list[str]:
        return [*self.columns, *self.added]

    def texts(self, row: Row, answer: Sequence[Answer]) -> list[str]:
        """Returns the cells of a row."""
        cells = [cell_text(row.get(name)) for name in self.columns]
        return cells + [
            value if isinstance(value, str) else f"{value:.{DIGITS}f}" for value in answer
        ]

    def check(self, table: InputTable, ending: str) -> None:
        """Raises StageError for a new column's name that the table has, and for text that .tsv
        cannot hold."""
        for name in self.added:
            if name in self.columns:
                raise StageError(
                    f"{table.path}: has a column {shown(name)} itself; with --prefix predicted_ "
                    f"the new one is predicted_{shown(name)}"
                )
        if ending == TSV:
            header = {name: name for name in self.names}
            for number, row in enumerate(chain([header], table.rows())):
                _check_tabs(table, number, row)


def cell_text(value: Any) -> str:
    """Returns any value as text; lists and objects as JSON."""
    if value is None:
        return ""
    cell = cell_of(value)
    return json.dumps(value, ensure_ascii=False, default=str) if cell is None else cell


def _check_tabs(table: InputTable, number: int, row: Row) -> None:
    for name, value in row.items():
        if any(mark in cell_text(value) for mark in "\t\r\n"):
            raise StageError(
                f"{table.path}: row {number} has a TAB or a line break as {shown(name)}, which "
                ".tsv cannot hold; expected --output with another ending"
            )


def write_table(
    path: Path,
    ending: str,
    table: InputTable,
    layout: Layout,
    answers: Iterator[Sequence[Answer]],
    advance: Callable[[int], None],
) -> None:
    """Writes the rows of a table with their answers, in constant memory.

    advance: told the number of rows of each piece. Raises StageError if the table has not as many
    rows as there are answers.
    """
    has_batches = ending == PARQUET and table.is_parquet
    with _writer(path, ending, layout, has_batches) as write:
        for piece in table.batches() if has_batches else _pieces(table.rows()):
            some = list(islice(answers, len(piece)))
            if len(some) < len(piece):
                raise StageError(f"{table.path}: has more rows than before")
            write(piece, some)
            advance(len(piece))
    if next(answers, None) is not None:
        raise StageError(f"{table.path}: has fewer rows than before")


def _pieces(rows: Iterator[Row]) -> Iterator[list[Row]]:
    piece: list[Row] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(piece) == PIECE_ROWS or size >= PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _writer(
    path: Path, ending: str, layout: Layout, has_batches: bool
) -> AbstractContextManager[Write]:
    if ending == PARQUET:
        return _parquet_writer(path, layout, has_batches)
    if ending == OBJECTS:
        return _object_writer(path, layout)
    return _cell_writer(path, layout, ending)


@contextmanager
def _cell_writer(path: Path, layout: Layout, ending: str) -> Iterator[Write]:
    tabs: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}  # quotes are text
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n", **(tabs if ending == TSV else {}))
        lines.writerow(layout.names)
        yield lambda rows, answers: lines.writerows(map(layout.texts, rows, answers))


@contextmanager
def _object_writer(path: Path, layout: Layout) -> Iterator[Write]:
    def lines(rows: Iterable[Row], answers: Answers) -> Iterator[str]:
        for row, answer in zip(rows, answers, strict=True):
            whole = row | dict(zip(layout.added, answer, strict=True))
            yield json.dumps(whole, ensure_ascii=False, default=str) + "\n"

    with open(path, "w", encoding="utf-8", newline="") as file:
        yield lambda rows, answers: file.writelines(lines(rows, answers))


# --- Parquet ----------------------------------------------------------------------------------


@contextmanager
def _parquet_writer(path: Path, layout: Layout, has_batches: bool) -> Iterator[Write]:
    """has_batches: the rows are those of Parquet, and keep their types; others are texts."""
    import pyarrow
    import pyarrow.parquet

    writer: pyarrow.parquet.ParquetWriter | None = None

    def write(rows: Any, answers: Answers) -> None:
        nonlocal writer
        batch = rows if has_batches else _texts_in_columns(rows, layout.columns)
        for name, values in zip(layout.added, zip(*answers, strict=True), strict=True):
            batch = batch.append_column(name, pyarrow.array(values))
        if writer is None:
            schema = batch.schema.with_metadata(_metadata(batch.schema, layout.added))
            writer = pyarrow.parquet.ParquetWriter(str(path), schema)
        writer.write_batch(batch.replace_schema_metadata(writer.schema.metadata))

    try:
        yield write
        if writer is None:  # no rows
            empty = {name: pyarrow.array([], pyarrow.string()) for name in layout.names}
            pyarrow.parquet.write_table(pyarrow.table(empty), str(path))
    finally:
        if writer is not None:
            writer.close()


def _texts_in_columns(rows: Sequence[Row], columns: Sequence[str]) -> "pyarrow.RecordBatch":
    import pyarrow

    arrays = [
        pyarrow.array([cell_text(row.get(name)) for row in rows], pyarrow.string())
        for name in columns
    ]
    return pyarrow.record_batch(arrays, list(columns))


def _metadata(schema: "pyarrow.Schema", added: Sequence[str]) -> dict[bytes, bytes] | None:
    """Returns the metadata with the new columns; `datasets` refuses a column without any."""
    from pyarrow import types

    if METADATA not in (schema.metadata or {}):
        return schema.metadata
    record = json.loads(schema.metadata[METADATA])
    for name in added:
        is_text = types.is_string(schema.field(name).type)
        feature = {"dtype": "string" if is_text else "float64", "_type": "Value"}
        record["info"]["features"][name] = feature
    return {**schema.metadata, METADATA: json.dumps(record).encode()}
