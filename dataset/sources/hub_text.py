"""Articles out of Hub datasets, and out of local folders that stand in their place.

Parquet files, which nearly all Hub datasets consist of, are downloaded, or left where they are to
be streamed, and read by tables.ParquetSlice within bounded memory. `datasets` converts anything
else to Arrow files, which workers then map into memory, or streams it. A row is an article. What a
Hub dataset consists of, and of which commit, is looked up in pipeline/hub/hub_datasets.py.
"""

import logging
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.sources.article_stream import Piece, Tally
from dataset.sources.corpus_files import list_files, text_size
from dataset.sources.parquet_files import (
    ParquetSlice,
    arrow_pieces,
    check_column,
    cut_parquet_file,
    first_line,
    open_parquet_file,
)
from pipeline.errors import StageError
from pipeline.hub.dataset_files import HubTables, check_split, is_parquet, library, look_up
from pipeline.hub.repository import SHOWN_COMMIT, Repository, not_cached
from pipeline.hub.requests import bound_requests, is_offline
from pipeline.store.disk import size_in_words
from pipeline.user_files.file_checks import problem_with_file

STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow
STREAM_BYTES = 256 << 20  # taken for the text of a streamed shard whose size is not known
STREAM_ROWS = 64  # fetched at once
MAPPED_BYTES = 16 << 20  # of text, after which mapped pages are given back


@dataclass(frozen=True)
class HubDataset:
    """name, subset: as configured. split and column: of the text. cache: where it is converted.
    commit: of a Hub dataset, "" for the present one."""

    name: str
    subset: str
    split: str
    column: str
    cache: str
    commit: str = ""

    @property
    def is_local(self) -> bool:
        return Path(self.name).exists()

    @property
    def home(self) -> tuple[str, str]:
        if self.is_local:
            return self.name, self.subset
        return present_name(self.name, self.subset)

    def place(self) -> dict[str, str | None]:
        """What `datasets` finds it by."""
        name, subset = self.home
        return {
            "path": name,
            "name": None if subset in ("", "default") else subset,
            "cache_dir": self.cache if self.is_local else None,
            "revision": self.commit or None,
        }

    @property
    def label(self) -> str:
        """As the user finds it on the Hub."""
        return f"dataset [{', '.join((*self.home, self.split))}]"


def present_name(name: str, subset: str) -> tuple[str, str]:
    """The present home of the classic datasets, whose loading scripts `datasets` refuses."""
    if name == "wikipedia":
        language = subset.rpartition(".")[2] or "en"
        return "wikimedia/wikipedia", f"20231101.{language}"
    if name in ("bookcorpusopen", "bookcorpus"):
        return "lucadiliello/bookcorpusopen", ""
    return name, subset


def load(dataset: HubDataset, streaming: bool) -> Any:
    """Raises StageError, with the first line of the reason, if it cannot be loaded."""
    datasets = library()
    datasets.config.TORCH_AVAILABLE = False  # or streams import torch: seconds, and 200 MB
    bound_requests()
    with readable(dataset):
        return datasets.load_dataset(**dataset.place(), split=dataset.split, streaming=streaming)


def parquet_files(dataset: HubDataset) -> list[str]:
    """Paths if the split of a local folder is whole Parquet files; else none."""
    with readable(dataset):
        builder = library().load_dataset_builder(**dataset.place())
        check_places(dataset, builder.config.data_files or {})
        if not is_parquet(builder) or dataset.split not in builder.config.data_files:
            return []
        return list(map(str, builder.config.data_files[dataset.split]))


def check_places(dataset: HubDataset, files_by_split: Mapping[str, Iterable[str]]) -> None:
    """Raises StageError if a local folder's README.md names files that lie outside the folder.

    Who has written it may have meant the reader's own files, or an address.
    """
    folder = os.path.realpath(dataset.name)
    for file in (str(file) for files in files_by_split.values() for file in files):
        if "://" in file or not Path(os.path.abspath(file)).is_relative_to(folder):
            raise StageError(f"{dataset.label} names {file}, expected files of that folder")


@contextmanager
def readable(dataset: HubDataset) -> Iterator[None]:
    """Turns what can go wrong with a dataset into a StageError with its first line.

    `datasets` has many readers, each with errors of its own: a KeyError is one for what it reads.
    """
    logger, last = logging.getLogger("datasets"), LastError()
    logger.addHandler(last)
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        reason = last.text or reason_of(error)
        raise StageError(f"{dataset.label} could not be loaded: {reason}") from error
    finally:
        logger.removeHandler(last)


class LastError(logging.Handler):
    """The line in which `datasets` names the file that it cannot read: its exceptions do not."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().strip().split("\n")[0]
        self.text = re.sub(r" with error (<class '[^']*'>|\w+): ", ": ", line)


def reason_of(error: BaseException) -> str:
    """First line of the message; of a failed conversion that of its cause, which names the row."""
    import datasets

    if isinstance(error, datasets.exceptions.DatasetGenerationError):
        while error.__cause__:
            error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else f"no reason given ({type(error).__name__})"


def open_dataset(
    dataset: HubDataset, prefix: str, streaming: bool, slice_bytes: int, say: Callable[[str], None]
) -> list["ParquetSlice | ArrowSlice | StreamSlice"]:
    """All slices of a dataset. prefix: begins their names.

    Raises StageError if it cannot be loaded or has no such split or column of text.
    """
    if dataset.home != (dataset.name, dataset.subset):
        given, home = (f"[{', '.join(x)}]" for x in ((dataset.name, dataset.subset), dataset.home))
        say(f"{given} is read from its present home {home}")
    tables = None if dataset.is_local else find_tables(dataset)
    streaming = streaming and (dataset.is_local or not is_offline())
    if tables:
        dataset = replace(dataset, commit=tables.commit)
        say(f"{dataset.label}: {described(tables, dataset.split)}")
    if files := hub_files(dataset, tables, streaming):
        return [
            piece
            for number, file in enumerate(files)
            for piece in cut_parquet_file(file, f"{prefix}/{number}", dataset.column, slice_bytes)
        ]
    if streaming:
        return stream_slices(dataset, load(dataset, streaming), prefix)
    loaded = only_rows_of_split(dataset, load_converted(dataset, tables))
    check_column(dataset.label, dataset.column, loaded.features.arrow_schema)
    return [
        piece
        for number, file in enumerate(loaded.cache_files)
        for piece in cut_arrow_file(
            file["filename"], f"{prefix}/{number}", dataset.column, slice_bytes
        )
    ]


def find_tables(dataset: HubDataset) -> HubTables | None:
    """What a Hub dataset consists of. Raises StageError if it has no such subset or split."""
    name, subset = dataset.home
    subset = "" if subset == "default" else subset
    tables = look_up(name, subset, Path(dataset.cache), dataset.commit)
    if tables:
        check_split(dataset.label, dataset.split, tables.files)
    return tables


def load_converted(dataset: HubDataset, tables: HubTables | None) -> Any:
    """A split as Arrow files. Without `tables`, `datasets` may have it from an earlier time."""
    if tables:
        with readable(dataset):
            return tables.load(dataset.split)
    try:
        return load(dataset, streaming=False)
    except StageError as error:
        if dataset.is_local:
            raise
        raise StageError(not_cached(Repository(dataset.home[0], "dataset"))) from error


def only_rows_of_split(dataset: HubDataset, loaded: Any) -> Any:
    """Of `train[:10%]`, files with those rows alone: what it was taken from is a file of all."""
    if "[" not in dataset.split:
        return loaded
    folder = Path(dataset.cache) / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    loaded.save_to_disk(folder)
    return library().load_from_disk(folder)


def hub_files(dataset: HubDataset, tables: HubTables | None, streaming: bool) -> list[str]:
    """Paths, or addresses to stream from, if the split is whole Parquet files; else none."""
    if not tables:
        return parquet_files(dataset) if dataset.is_local else []
    if not tables.is_parquet or dataset.split not in tables.files:
        return []
    addresses = tables.addresses(dataset.split)
    if streaming:
        return addresses
    if not (is_offline() or tables.has(tables.files[dataset.split][0])):
        with open_parquet_file(addresses[0]) as file:  # before gigabytes are fetched
            check_column(dataset.label, dataset.column, file.schema_arrow)
    return tables.fetch([dataset.split])


def described(tables: HubTables, split: str) -> str:
    files = tables.files.get(split, [])
    size = f", {len(files):,} files, {size_in_words(tables.num_bytes(split))}" if files else ""
    return f"commit {tables.commit[:SHOWN_COMMIT]}{size}"


# --- converted -------------------------------------------------------------------------------


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
        """Yields (number of the row in its file, text, whether the article ends)."""
        with mapped(self.path) as pages:
            taken = 0
            for first_row, column in iter_text_batches(pages, self.column):
                rows = range(max(self.start - first_row, 0), min(self.end - first_row, len(column)))
                check_offsets(column[rows.start : max(rows.start, rows.stop)])
                for piece in arrow_pieces(column, rows, first_row, limit, tally):
                    yield piece
                    taken += len(piece[1])
                    if taken > MAPPED_BYTES:
                        pages.madvise(mmap.MADV_DONTNEED)
                        taken = 0
                if first_row + len(column) >= self.end:
                    break


def check_offsets(column: Any) -> None:
    """Raises ArrowInvalid for offsets of a damaged file: to follow them would end the process.

    Bytes that are not UTF-8 are left to be counted.
    """
    import pyarrow

    plain = {
        pyarrow.string(): pyarrow.binary(),
        pyarrow.large_string(): pyarrow.large_binary(),
        pyarrow.string_view(): pyarrow.binary_view(),
    }
    kind = plain.get(column.type)
    (column.view(kind) if kind else column).validate(full=True)


@contextmanager
def mapped(path: str) -> Iterator[mmap.mmap]:
    """An Arrow file in memory. Raises StageError, naming it, if it is damaged or cut off."""
    import pyarrow

    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if not pages[-8:].endswith(STREAM_END):
            raise StageError(f"{path}: damaged or cut off, an Arrow stream ends otherwise")
        yield pages
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise StageError(f"{path}: damaged or cut off ({first_line(error)})") from error


def iter_text_batches(pages: mmap.mmap, column: str) -> Iterator[tuple[int, Any]]:
    """Yields (number of the first row, text column) of each batch, without copying it."""
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(pages)) as batches:
        first_row = 0
        for batch in batches:
            yield first_row, batch.column(column)
            first_row += len(batch)


def cut_arrow_file(path: str, name: str, column: str, slice_bytes: int) -> list[ArrowSlice]:
    """An Arrow file as slices of at most about `slice_bytes` of text.

    Raises StageError if it is damaged or has no such column of text.
    """
    import pyarrow

    slices = []
    with mapped(path) as pages:
        with pyarrow.ipc.open_stream(pyarrow.py_buffer(pages)) as stream:
            check_column(path, column, stream.schema)
        for first_row, texts in iter_text_batches(pages, column):
            parts = -(-texts.nbytes // slice_bytes) or 1
            rows = -(-len(texts) // parts) or 1
            for start in range(0, len(texts), rows):
                part, begin = texts[start : start + rows], first_row + start
                end = begin + len(part)
                slices.append(ArrowSlice(name, path, part.nbytes, column, begin, end))
    return slices


# --- streamed --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """Shard `index` of the `num_shards` of a streamed dataset."""

    name: str
    dataset: HubDataset
    num_bytes: int
    index: int
    num_shards: int

    @property
    def path(self) -> str:
        return self.dataset.label

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (number of the row in the shard, text, whether the article ends)."""
        stream = load(self.dataset, streaming=True)
        first_row = 0
        with readable(self.dataset):
            shard = stream.shard(self.num_shards, self.index).select_columns([self.dataset.column])
            for table in shard.with_format("arrow").iter(STREAM_ROWS):
                column = table.column(0).combine_chunks()
                yield from arrow_pieces(column, range(len(column)), first_row, limit, tally)
                first_row += len(column)


def stream_slices(dataset: HubDataset, stream: Any, prefix: str) -> list[StreamSlice]:
    """The shards of a stream. Raises StageError if it has no such column of text."""
    with readable(dataset):
        first = next(stream.with_format("arrow").iter(1), None)
    if first is None:
        return []
    check_column(dataset.label, dataset.column, first.schema)
    num_shards = stream.num_shards
    size = stream_size(dataset, stream) // num_shards
    return [
        StreamSlice(f"{prefix}/{index}", dataset, size, index, num_shards)
        for index in range(num_shards)
    ]


def stream_size(dataset: HubDataset, stream: Any) -> int:
    """Bytes of text, as far as known beforehand."""
    path = Path(dataset.name)
    if path.exists():
        return sum(text_size(str(file)) for file in list_files(path)[0])
    described = (stream.info.splits or {}).get(dataset.split)
    return (described and described.num_bytes) or STREAM_BYTES * stream.num_shards
