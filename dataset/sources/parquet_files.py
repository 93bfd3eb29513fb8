"""Articles from Parquet files. A row is an article."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset.sources.arrow_files import arrow_pieces, check_column
from dataset.sources.article_stream import BLOCK_BYTES, Piece, Tally
from pipeline.errors import StageError
from pipeline.hub.repository import Repository, hub_session
from pipeline.hub.requests import first_line
from pipeline.user_files.file_checks import problem_with_file

if TYPE_CHECKING:
    import pyarrow

HUB_ADDRESS = "hf://datasets/"  # followed by OWNER/NAME@COMMIT/PATH
BATCH_BYTES = 4 << 20  # of text decoded at once
MAX_BATCH_ROWS = 4096


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
        """Yields (row number in the file, text, True at the end of the article)."""
        row = self.first_row
        with open_parquet_file(self.path) as file:
            for batch in iter_parquet_batches(file, self):
                column = batch.column(0)
                yield from arrow_pieces(column, range(len(column)), row, limit, tally)
                row += len(column)
            if row - self.first_row != num_rows(file, self.start, self.end):
                raise StageError(f"{self.path}: damaged, rows are missing")


def check_parquet_file(path: str, column: str) -> None:
    """Raises StageError if the footer shows no such column of text.

    Damage is reported by the stage: reading more here could crash the planning process.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.OSFile(os.fsencode(path)) as file:
            schema = pyarrow.parquet.read_schema(file)
    except (OSError, ValueError, MemoryError, pyarrow.ArrowException):
        return
    check_column(path, column, schema)


def cut_parquet_file(path: str, name: str, column: str, slice_bytes: int) -> list[ParquetSlice]:
    """Returns the slices of a file, of whole row groups.

    Raises StageError if the file is damaged or lacks the column of text.
    """
    slices, start, first_row, rows, size = [], 0, 0, 0, 0
    with open_parquet_file(path) as file:
        with explained(path, "damaged"):
            schema = file.schema_arrow
        check_column(path, column, schema)
        num_groups = file.metadata.num_row_groups
        if num_rows(file, 0, num_groups) != file.metadata.num_rows:
            raise StageError(f"{path}: damaged, rows are missing")
        place = schema.names.index(column)
        for number in range(num_groups):
            group = file.metadata.row_group(number)
            rows += group.num_rows
            size += group.column(place).total_uncompressed_size
            if size >= slice_bytes or number == num_groups - 1:
                slices.append(ParquetSlice(name, path, size, column, start, number + 1, first_row))
                start, first_row, rows, size = number + 1, first_row + rows, 0, 0
    return slices


def num_rows(file: "pyarrow.parquet.ParquetFile", start: int, end: int) -> int:
    """Returns the number of rows in the row groups [start, end), by the footer."""
    return sum(file.metadata.row_group(group).num_rows for group in range(start, end))


def open_parquet_file(path: str) -> "pyarrow.parquet.ParquetFile":
    """Opens a file by its path or by an address known to fsspec.

    Raises StageError if it is not an intact Parquet file.
    """
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


def iter_parquet_batches(
    file: "pyarrow.parquet.ParquetFile", text_slice: ParquetSlice
) -> Iterator["pyarrow.RecordBatch"]:
    total = num_rows(file, text_slice.start, text_slice.end)
    rows = max(1, min(MAX_BATCH_ROWS, total * BATCH_BYTES // max(text_slice.num_bytes, 1)))
    groups = list(range(text_slice.start, text_slice.end))
    with explained(text_slice.path, "damaged"):
        yield from file.iter_batches(rows, groups, columns=[text_slice.column], use_threads=False)


@contextmanager
def explained(path: str, problem: str) -> Iterator[None]:
    """Turns errors of reading a file into a StageError: damage, or a failure of the Hub."""
    import pyarrow

    damage: tuple[type[Exception], ...] = (ValueError, MemoryError, pyarrow.ArrowException)
    session: AbstractContextManager[None] = nullcontext()
    if path.startswith(HUB_ADDRESS):  # then an OSError comes from the network
        name = path.removeprefix(HUB_ADDRESS).partition("@")[0]
        session = hub_session(Repository(name, "dataset"))
    else:
        damage += (OSError,)
    with session:
        try:
            yield
        except damage as error:
            raise StageError(f"{path}: {problem} ({first_line(error)})") from error
