"""Articles from Arrow: columns of text, and Arrow stream files. A row is an article."""

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.sources.article_stream import (
    NULL_ROWS,
    Piece,
    Tally,
    clean_text,
    in_blocks,
    raw_row_pieces,
)
from dataset.sources.saved_datasets import STATE, data_files, file_names, read_small_json
from dataset.sources.text_files import missing_column
from pipeline.errors import StageError
from pipeline.hub.requests import first_line
from pipeline.user_files.file_checks import problem_with_file, shown_list

if TYPE_CHECKING:
    import pyarrow

STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # end-of-stream marker of the Arrow IPC format
MAPPED_BYTES = 16 << 20  # of text read before the mapped pages are released


# --- columns ---------------------------------------------------------------------------------


def check_column(place: str, column: str, schema: "pyarrow.Schema") -> None:
    """Raises StageError unless a table has exactly one column of this name, of text."""
    import pyarrow.types as types

    if column not in schema.names:
        raise StageError(missing_column(place, column, schema.names))
    if schema.names.count(column) > 1:
        raise StageError(f"{place}: column `{column}` appears twice in {shown_list(schema.names)}")
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise StageError(f"{place}: column `{column}` holds {kind}, expected text")


def arrow_pieces(
    column: "pyarrow.Array", rows: Iterable[int], first_row: int, limit: int, tally: Tally
) -> Iterator[Piece]:
    """Yields the articles in some rows of a column of text, without copying long ones whole.

    rows: numbers within `column`. first_row: number of its first row in the file.
    """
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for row in rows:
        text = column[row].as_buffer()
        if text is None:
            tally.counts[NULL_ROWS] += 1
            yield first_row + row, "", True
        elif text.size <= limit:
            yield first_row + row, clean_text(text.to_pybytes(), tally), True
        else:
            blocks = in_blocks(memoryview(text))
            yield from raw_row_pieces(first_row + row, blocks, limit, tally)


# --- files -----------------------------------------------------------------------------------


def check_arrow_file(path: str, column: str) -> None:
    """Checks a file of a saved dataset by the dataset's records and the file's schema.

    Raises StageError for missing files, rows picked by another file, and a missing column of text.
    """
    import pyarrow

    folder = os.path.dirname(path)
    files = data_files(folder)
    if files is None:
        return
    if missing := [name for name in files if not os.path.isfile(os.path.join(folder, name))]:
        raise StageError(f"{folder}: {missing[0]} is missing, {STATE} names it")
    if file_names(read_small_json(Path(folder, STATE)).get("_indices_data_files")):
        raise StageError(
            f"{folder}: its rows are picked by another file (_indices_data_files in {STATE}), "
            "expected a dataset loaded and saved again by a current version of `datasets`"
        )
    with _mapped(path) as pages, pyarrow.ipc.open_stream(pyarrow.py_buffer(pages)) as stream:
        check_column(folder, column, stream.schema)


@dataclass(frozen=True, slots=True)
class ArrowSlice:
    """Rows [start, end) of an Arrow stream file; num_bytes: size of their text."""

    name: str
    path: str
    num_bytes: int
    column: str
    start: int
    end: int

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (row number in the file, text, True at the end of the article)."""
        with _mapped(self.path) as pages:
            num_read = 0
            for first_row, column in _text_batches(pages, self.column):
                rows = range(max(self.start - first_row, 0), min(self.end - first_row, len(column)))
                _check_offsets(column[rows.start : max(rows.start, rows.stop)])
                for piece in arrow_pieces(column, rows, first_row, limit, tally):
                    yield piece
                    num_read += len(piece[1])
                    if num_read > MAPPED_BYTES:
                        pages.madvise(mmap.MADV_DONTNEED)
                        num_read = 0
                if first_row + len(column) >= self.end:
                    break


def cut_arrow_file(path: str, name: str, column: str, slice_bytes: int) -> list[ArrowSlice]:
    """Returns the slices of an Arrow file, each of about `slice_bytes` of text at most.

    Raises StageError if the file is damaged or lacks the column of text.
    """
    import pyarrow

    slices = []
    with _mapped(path) as pages:
        with pyarrow.ipc.open_stream(pyarrow.py_buffer(pages)) as stream:
            check_column(path, column, stream.schema)
        for first_row, texts in _text_batches(pages, column):
            num_slices = -(-texts.nbytes // slice_bytes) or 1
            rows = -(-len(texts) // num_slices) or 1
            for start in range(0, len(texts), rows):
                part, begin = texts[start : start + rows], first_row + start
                end = begin + len(part)
                slices.append(ArrowSlice(name, path, part.nbytes, column, begin, end))
    return slices


@contextmanager
def _mapped(path: str) -> Iterator[mmap.mmap]:
    """Maps an Arrow file into memory. Raises StageError, naming it, if it is damaged."""
    import pyarrow

    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if not pages[-8:].endswith(STREAM_END):
            raise StageError(f"{path}: damaged or cut off, the Arrow stream has no end marker")
        yield pages
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise StageError(f"{path}: damaged or cut off ({first_line(error)})") from error


def _text_batches(pages: mmap.mmap, column: str) -> Iterator[tuple[int, "pyarrow.Array"]]:
    """Yields (number of the first row, text column) of each batch, without copying it."""
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(pages)) as batches:
        first_row = 0
        for batch in batches:
            yield first_row, batch.column(column)
            first_row += len(batch)


def _check_offsets(column: "pyarrow.Array") -> None:
    """Raises ArrowInvalid for damaged offsets: reading through them would crash the process.

    Text is checked as bytes: characters that are not UTF-8 are counted later, not refused.
    """
    import pyarrow

    as_bytes = {
        pyarrow.string(): pyarrow.binary(),
        pyarrow.large_string(): pyarrow.large_binary(),
        pyarrow.string_view(): pyarrow.binary_view(),
    }
    kind = as_bytes.get(column.type)
    (column.view(kind) if kind else column).validate(full=True)
