"""Articles from Parquet files. A row is an article.

Planning checks the columns without pyarrow, whose import is slow and takes memory: it reads the
file's footer, a struct in Thrift's compact protocol
(https://parquet.apache.org/docs/file-format/metadata).
"""

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataset.sources.arrow_files import arrow_pieces, check_column, first_line
from dataset.sources.article_stream import BLOCK_BYTES, Piece, Tally
from dataset.sources.text_files import missing_column
from pipeline.errors import StageError
from pipeline.hub.repository import Repository, hub_session
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


def cut_parquet_file(path: str, name: str, column: str, slice_bytes: int) -> list[ParquetSlice]:
    """Returns the slices of a file, of whole row groups.

    Raises StageError if the file is damaged or lacks the column of text.
    """
    slices, start, first_row, rows, size = [], 0, 0, 0, 0
    with open_parquet_file(path) as file:
        with _explained(path, "damaged"):
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
    """Returns the number of rows that the footer gives for the row groups [start, end)."""
    return sum(file.metadata.row_group(group).num_rows for group in range(start, end))


def open_parquet_file(path: str) -> "pyarrow.parquet.ParquetFile":
    """Opens a file by its path or by an address known to fsspec.

    Raises StageError if it is not an intact Parquet file.
    """
    import pyarrow
    import pyarrow.parquet

    with _explained(path, "damaged or cut off"):
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
    with _explained(text_slice.path, "damaged"):
        yield from file.iter_batches(rows, groups, columns=[text_slice.column], use_threads=False)


@contextmanager
def _explained(path: str, problem: str) -> Iterator[None]:
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


# --- the footer, read without pyarrow --------------------------------------------------------

MARK = b"PAR1"
MAX_FOOTER_BYTES = 1 << 20  # the schema lies at the beginning of the footer
# Field numbers of FileMetaData and SchemaElement, and of LogicalType's member for nulls.
SCHEMA, TYPE, NAME, NUM_CHILDREN, CONVERTED_TYPE, LOGICAL_TYPE, NULL_TYPE = 2, 1, 4, 5, 6, 10, 11
KINDS = ("booleans", "int32", "int64", "int96", "float", "double", "binary", "binary")
BYTES, TEXT_KIND = 6, "text"
# Exceptions raised by reading a damaged footer.
DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    OSError,
)


def check_parquet_file(path: str, column: str) -> None:
    """Raises StageError if the footer shows that the column is missing or does not hold text.

    Other damage is reported by the stage, which reads the whole file.
    """
    try:
        columns = dict(_top_columns(_schema_of(path)))
    except DAMAGE:
        return
    if column not in columns:
        raise StageError(missing_column(path, column, columns))
    if columns[column] != TEXT_KIND:
        raise StageError(f"{path}: column `{column}` holds {columns[column]}, expected text")


def _schema_of(path: str) -> list[dict[int, Any]]:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        num_bytes, mark = int.from_bytes(file.read(4), "little"), file.read(4)
        if mark != MARK or num_bytes + 8 > size:
            raise ValueError("no footer")
        file.seek(size - 8 - num_bytes)
        footer = io.BytesIO(file.read(min(num_bytes, MAX_FOOTER_BYTES)))
    return _read_struct(footer, last=SCHEMA)[SCHEMA]


def _top_columns(elements: list[dict[int, Any]]) -> Iterator[tuple[str, str]]:
    """Yields (name, kind) of the root's children, each followed by its nested columns."""
    root, *rest = elements
    place = 0
    for _ in range(root[NUM_CHILDREN]):
        element = rest[place]
        yield element[NAME].decode(), _kind_of(element)
        left = 1
        while left:
            left += rest[place].get(NUM_CHILDREN, 0) - 1
            place += 1


def _kind_of(element: dict[int, Any]) -> str:
    if element.get(NUM_CHILDREN, 0) > 0:
        return "lists or groups"
    if NULL_TYPE in element.get(LOGICAL_TYPE, {}):
        return "null"
    if element[TYPE] == BYTES and {CONVERTED_TYPE, LOGICAL_TYPE} & element.keys():
        return TEXT_KIND
    return KINDS[element[TYPE]]


def _read_struct(raw: io.BytesIO, last: int = 1 << 15) -> dict[int, Any]:
    """Returns the values of a Thrift struct by field number, up to number `last`."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := _read_byte(raw)) and number < last:
        number = number + (head >> 4) if head >> 4 else _read_integer(raw)
        fields[number] = _read_value(raw, head & 15)
    return fields


def _read_value(raw: io.BytesIO, kind: int) -> Any:
    if kind in (1, 2):  # a truth value, held by its kind
        return kind == 1
    if kind == 3:
        return _read_byte(raw)
    if kind in (4, 5, 6):
        return _read_integer(raw)
    if kind in (7, 8):  # a float, text
        return raw.read(8 if kind == 7 else _read_varint(raw))
    if kind in (9, 10):  # a list, a set
        head = _read_byte(raw)
        size = head >> 4 if head >> 4 < 15 else _read_varint(raw)
        # In lists a truth value takes a byte.
        return [_read_value(raw, 3 if head & 15 in (1, 2) else head & 15) for _ in range(size)]
    if kind == 12:
        return _read_struct(raw)
    raise ValueError(f"unknown type {kind}")


def _read_byte(raw: io.BytesIO) -> int:
    return raw.read(1)[0]  # IndexError at the end


def _read_varint(raw: io.BytesIO) -> int:
    number = shift = 0
    while (byte := _read_byte(raw)) & 0x80:
        number |= (byte & 0x7F) << shift
        shift += 7
    return number | byte << shift


def _read_integer(raw: io.BytesIO) -> int:
    """Reads a zigzag integer."""
    number = _read_varint(raw)
    return (number >> 1) ^ -(number & 1)
