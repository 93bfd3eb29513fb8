"""Articles out of tables: Parquet files, and columns of Arrow. A row is an article."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset.sources.article_stream import (
    BLOCK_BYTES,
    NULL_ROWS,
    Piece,
    Tally,
    clean_text,
    in_blocks,
    raw_row_pieces,
)
from dataset.sources.text_files import missing_column
from pipeline.errors import StageError
from pipeline.hub.repository import Repository, hub_session
from pipeline.user_files.file_checks import problem_with_file, shown_list

if TYPE_CHECKING:
    import pyarrow

HUB_ADDRESS = "hf://datasets/"
BATCH_BYTES = 4 << 20  # of text that is decoded at once
MAX_BATCH_ROWS = 4096


# --- Parquet ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParquetSlice:
    """Row groups [start, end) of a file."""

    name: str
    path: str
    num_bytes: int
    column: str
    start: int
    end: int
    first_row: int

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (number of the row in the file, text, whether the article ends)."""
        row = self.first_row
        with open_parquet_file(self.path) as file:
            for batch in iter_parquet_batches(file, self):
                column = batch.column(0)
                yield from arrow_pieces(column, range(len(column)), row, limit, tally)
                row += len(column)
            if row - self.first_row != num_rows(file, self.start, self.end):
                raise StageError(f"{self.path}: damaged, rows are missing")


def num_rows(file: "pyarrow.parquet.ParquetFile", start: int, end: int) -> int:
    """Rows of the row groups [start, end), as the file says."""
    return sum(file.metadata.row_group(group).num_rows for group in range(start, end))


def open_parquet_file(path: str) -> "pyarrow.parquet.ParquetFile":
    """path: or an address that fsspec knows. Raises StageError if it is no whole Parquet file."""
    import pyarrow
    import pyarrow.parquet

    with explained(path, "damaged or cut off"):
        if "://" in path:
            import fsspec

            source = fsspec.open(path).open()
        elif problem := problem_with_file(path):
            raise StageError(f"{path}: {problem}")
        else:  # pyarrow takes names that are not UTF-8 only as bytes
            source = pyarrow.OSFile(os.fsencode(path))
        return pyarrow.parquet.ParquetFile(
            source, pre_buffer=False, buffer_size=BLOCK_BYTES, page_checksum_verification=True
        )


def is_streamed(path: str) -> bool:
    return path.startswith(HUB_ADDRESS)


@contextmanager
def explained(path: str, problem: str) -> Iterator[None]:
    """What reading a file fails with becomes a StageError: it is damaged, or the Hub does not
    answer."""
    import pyarrow

    damage: tuple = (ValueError, MemoryError, pyarrow.ArrowException)
    around = nullcontext()
    if is_streamed(path):  # then an OSError is one of the network
        around = hub_session(streamed_repository(path))
    else:
        damage += (OSError,)
    with around:
        try:
            yield
        except damage as error:
            raise StageError(f"{path}: {problem} ({first_line(error)})") from error


def streamed_repository(address: str) -> Repository:
    """Of hf://datasets/OWNER/NAME@COMMIT/PATH."""
    return Repository(address.removeprefix(HUB_ADDRESS).partition("@")[0], "dataset")


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def iter_parquet_batches(
    file: "pyarrow.parquet.ParquetFile", piece: ParquetSlice
) -> Iterator["pyarrow.RecordBatch"]:
    total = num_rows(file, piece.start, piece.end)
    rows = max(1, min(MAX_BATCH_ROWS, total * BATCH_BYTES // max(piece.num_bytes, 1)))
    groups = list(range(piece.start, piece.end))
    with explained(piece.path, "damaged"):
        yield from file.iter_batches(rows, groups, columns=[piece.column], use_threads=False)


def cut_parquet_file(path: str, name: str, column: str, slice_bytes: int) -> list[ParquetSlice]:
    """A file as slices of row groups. Raises StageError if it has no such column of text."""
    import pyarrow

    slices, start, first_row, rows, size = [], 0, 0, 0, 0
    with open_parquet_file(path) as file:
        try:
            schema = file.schema_arrow
        except (ValueError, pyarrow.ArrowException) as error:
            raise StageError(f"{path}: damaged ({first_line(error)})") from error
        check_column(path, column, schema)
        if num_rows(file, 0, file.metadata.num_row_groups) != file.metadata.num_rows:
            raise StageError(f"{path}: damaged, rows are missing")
        place = schema.names.index(column)
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            rows += group.num_rows
            size += group.column(place).total_uncompressed_size
            if size >= slice_bytes or number == file.metadata.num_row_groups - 1:
                slices.append(ParquetSlice(name, path, size, column, start, number + 1, first_row))
                start, first_row, size = number + 1, first_row + rows, 0
                rows = 0
    return slices


# --- Arrow -----------------------------------------------------------------------------------


def check_column(place: str, column: str, schema: "pyarrow.Schema") -> None:
    """Raises StageError unless a table has a column of text of this name."""
    import pyarrow.types as types

    if column not in schema.names:
        raise StageError(missing_column(place, column, schema.names))
    if schema.names.count(column) > 1:
        raise StageError(f"{place}: column `{column}` stands twice in {shown_list(schema.names)}")
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise StageError(f"{place}: column `{column}` holds {kind}, expected text")


def arrow_pieces(
    column: "pyarrow.Array", rows: Iterable[int], first_row: int, limit: int, tally: Tally
) -> Iterator[Piece]:
    """Articles out of rows of a column of text; long ones are not copied as a whole."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for row in rows:
        text = column[row].as_buffer()
        if text is None:
            tally.counts[NULL_ROWS] += 1
        if text is None or text.size <= limit:
            raw = text.to_pybytes() if text else b""
            yield first_row + row, clean_text(raw, tally), True
        else:
            blocks = in_blocks(memoryview(text))
            yield from raw_row_pieces(first_row + row, blocks, limit, tally)
