"""Names and kinds of a Parquet file's columns, without the library that reads the rest.

Planning needs no more, and must not load it. The footer is a struct in Thrift's compact protocol:
https://parquet.apache.org/docs/file-format/metadata
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from dataset.sources.text_files import missing_column
from pipeline.errors import StageError

MARK = b"PAR1"
MAX_FOOTER_BYTES = 1 << 20  # of which the schema is the beginning
# Numbers in Thrift's definition of the format.
SCHEMA, TYPE, NAME, NUM_CHILDREN, CONVERTED_TYPE, LOGICAL_TYPE, NULL_TYPE = 2, 1, 4, 5, 6, 10, 11
NUM_ROWS, ROW_GROUPS, COLUMNS, META_DATA, PATH, STATISTICS, NULL_COUNT = 3, 4, 1, 3, 3, 12, 3
KINDS = ("booleans", "int32", "int64", "int96", "float", "double", "binary", "binary")
BYTES, TEXT_KIND = 6, "text"
MAX_COUNTED_BYTES = 16 << 10  # of a footer in which the nulls are counted
FEW_ROWS = 10  # a file of fewer nulls is no problem
# What reading a damaged footer may end in.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError)


def check_parquet_file(path: str, column: str) -> None:
    """Raises StageError if the file has no such column, or one that is surely none of text, or of
    nulls alone.

    What else may be wrong with it is told where it is read.
    """
    with open(path, "rb") as file:
        try:
            columns = dict(_top_columns(_schema_in(file)))
        except DAMAGED:
            return
    if column not in columns:
        raise StageError(missing_column(path, column, columns))
    if columns[column] != TEXT_KIND:
        raise StageError(f"{path}: column `{column}` holds {columns[column]}, expected text")
    if nulls := _num_nulls(path, column):
        raise StageError(f"{path}: column `{column}` holds null in all {nulls:,} rows")


def _num_nulls(path: str, column: str) -> int:
    """Rows of a file of nothing but nulls; 0 of others, and where the footer does not tell."""
    with open(path, "rb") as file:
        try:
            footer = _footer_in(file)
            content = footer.struct(last=ROW_GROUPS) if footer.size <= MAX_COUNTED_BYTES else {}
            counts = list(_null_counts(content.get(ROW_GROUPS, ()), column.encode()))
            num_rows = content.get(NUM_ROWS, 0)
        except DAMAGED:
            return 0
    return num_rows if sum(counts) == num_rows >= FEW_ROWS else 0


def _null_counts(groups: Iterable[dict[int, Any]], column: bytes) -> Iterator[int]:
    for group in groups:
        for chunk in group[COLUMNS]:
            described = chunk[META_DATA]
            if described[PATH] == [column]:
                yield described.get(STATISTICS, {}).get(NULL_COUNT, 0)


def _schema_in(file: BinaryIO) -> list[dict[int, Any]]:
    return _footer_in(file).struct(last=SCHEMA)[SCHEMA]


def _footer_in(file: BinaryIO) -> "_Thrift":
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    num_bytes, mark = int.from_bytes(file.read(4), "little"), file.read(4)
    if mark != MARK or num_bytes + 8 > size:
        raise ValueError("no footer")
    file.seek(size - 8 - num_bytes)
    return _Thrift(file.read(min(num_bytes, MAX_FOOTER_BYTES)))


def _top_columns(elements: list[dict[int, Any]]) -> Iterator[tuple[str, str]]:
    """(name, kind) of the root's children; those of a group follow it, and theirs."""
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


class _Thrift:
    """Reads values one after the other. Raises IndexError at the end."""

    def __init__(self, raw: bytes):
        self.raw, self.place = raw, 0
        self.size = len(raw)

    def struct(self, last: int = 1 << 15) -> dict[int, Any]:
        """Values by the numbers of the fields, up to number `last`."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self.byte()) and number < last:
            number = number + (head >> 4) if head >> 4 else self.integer()
            fields[number] = self.value(head & 15)
        return fields

    def value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.integer()
        if kind == 7:
            return self.taken(8)
        if kind == 8:
            return self.taken(self.varint())
        if kind in (9, 10):
            head = self.byte()
            size = head >> 4 if head >> 4 < 15 else self.varint()
            # In lists a truth value takes a byte.
            return [self.value(3 if head & 15 in (1, 2) else head & 15) for _ in range(size)]
        if kind == 12:
            return self.struct()
        raise ValueError(f"type {kind}")

    def byte(self) -> int:
        self.place += 1
        return self.raw[self.place - 1]

    def taken(self, size: int) -> bytes:
        self.place += size
        if self.place > len(self.raw):
            raise IndexError
        return self.raw[self.place - size : self.place]

    def varint(self) -> int:
        number = shift = 0
        while (byte := self.byte()) & 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
        return number | byte << shift

    def integer(self) -> int:
        number = self.varint()
        return (number >> 1) ^ -(number & 1)
