"""Articles from Hub datasets, and from local folders in their place. A row is an article.

Parquet files (nearly all Hub datasets) are downloaded or streamed, and read within bounded memory
(parquet_files.py). Other formats are converted to Arrow files (arrow_files.py) or streamed by
`datasets`. The files of a Hub dataset are looked up in pipeline/hub/dataset_files.py.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.sources.arrow_files import ArrowSlice, arrow_pieces, check_column, cut_arrow_file
from dataset.sources.article_stream import Piece, Tally
from dataset.sources.corpus_files import list_files, text_size
from dataset.sources.parquet_files import ParquetSlice, cut_parquet_file, open_parquet_file
from pipeline.errors import StageError
from pipeline.hub.dataset_files import HubTables, check_split, is_parquet, library, look_up
from pipeline.hub.repository import SHOWN_COMMIT
from pipeline.hub.requests import bound_requests, first_line, is_offline
from pipeline.store.disk import size_in_words

STREAM_BYTES = 256 << 20  # assumed for a streamed shard of unknown size
STREAM_ROWS = 64  # fetched at once


@dataclass(frozen=True)
class HubDataset:
    """A split of a dataset.

    name, subset: as configured. column: of the text. cache: folder for converted files. commit: of
    a Hub dataset, "" for the latest.
    """

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
        """Returns the arguments for finding it with `datasets`."""
        name, subset = self.home
        return {
            "path": name,
            "name": None if subset in ("", "default") else subset,
            "cache_dir": self.cache if self.is_local else None,
            "revision": self.commit or None,
        }

    @property
    def label(self) -> str:
        return f"dataset [{', '.join((*self.home, self.split))}]"


def present_name(name: str, subset: str) -> tuple[str, str]:
    """Returns the current (name, subset); the classic datasets moved to homes without scripts."""
    if name == "wikipedia":
        language = subset.rpartition(".")[2] or "en"
        return "wikimedia/wikipedia", f"20231101.{language}"
    if name in ("bookcorpusopen", "bookcorpus"):
        return "lucadiliello/bookcorpusopen", ""
    return name, subset


def load(dataset: HubDataset, streaming: bool) -> Any:
    """Loads a split with `datasets`. Raises StageError, with the reason in a line, on failure."""
    datasets = library()
    datasets.config.TORCH_AVAILABLE = False  # otherwise streams import torch: seconds and 200 MB
    bound_requests()
    with readable(dataset):
        return datasets.load_dataset(**dataset.place(), split=dataset.split, streaming=streaming)


def local_parquet_paths(dataset: HubDataset) -> list[str]:
    """Returns the paths of a local split if all of them are Parquet files; else none."""
    with readable(dataset):
        builder = library().load_dataset_builder(**dataset.place())
        check_places(dataset, builder.config.data_files or {})
        if not is_parquet(builder) or dataset.split not in builder.config.data_files:
            return []
        return list(map(str, builder.config.data_files[dataset.split]))


def check_places(dataset: HubDataset, files_by_split: Mapping[str, Iterable[str]]) -> None:
    """Raises StageError if a local folder's README.md names files outside the folder.

    A downloaded README.md could otherwise read private files or fetch an address.
    """
    folder = os.path.realpath(dataset.name)
    for file in (str(file) for files in files_by_split.values() for file in files):
        if "://" in file or not Path(os.path.abspath(file)).is_relative_to(folder):
            raise StageError(f"{dataset.label} names {file}, expected files of that folder")


@contextmanager
def readable(dataset: HubDataset) -> Iterator[None]:
    """Turns any error of `datasets` into a StageError; its readers raise many kinds."""
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
    """Keeps the last line logged by `datasets`: it names the unreadable file."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().strip().split("\n")[0]
        self.text = re.sub(r" with error (<class '[^']*'>|\w+): ", ": ", line)


def reason_of(error: BaseException) -> str:
    """Returns the first line of the message; for a failed conversion that of its first cause."""
    if isinstance(error, library().exceptions.DatasetGenerationError):
        while error.__cause__:  # it names the row
            error = error.__cause__
    return first_line(error)


def open_dataset(
    dataset: HubDataset, prefix: str, streaming: bool, slice_bytes: int, say: Callable[[str], None]
) -> "Sequence[ParquetSlice | ArrowSlice | StreamSlice]":
    """Returns all slices of a dataset; their names begin with `prefix`.

    Raises StageError if it cannot be loaded or lacks the split or the column of text.
    """
    if dataset.home != (dataset.name, dataset.subset):
        given, home = (f"[{', '.join(x)}]" for x in ((dataset.name, dataset.subset), dataset.home))
        say(f"{given} is read from its present home {home}")
    tables = None if dataset.is_local else find_tables(dataset)
    streaming = streaming and (dataset.is_local or not is_offline())
    if tables:
        dataset = replace(dataset, commit=tables.commit)
        size = ""
        if files := tables.files.get(dataset.split):
            size = f", {len(files):,} files, {size_in_words(tables.num_bytes(dataset.split))}"
        say(f"{dataset.label}: commit {tables.commit[:SHOWN_COMMIT]}{size}")
    paths = parquet_paths(dataset, tables, streaming)
    cut: Callable[..., Sequence[ParquetSlice | ArrowSlice]] = cut_parquet_file
    if streaming and not paths:
        return stream_slices(dataset, load(dataset, streaming), prefix)
    if not paths:
        loaded = only_rows_of_split(dataset, load_converted(dataset, tables))
        check_column(dataset.label, dataset.column, loaded.features.arrow_schema)
        paths, cut = [file["filename"] for file in loaded.cache_files], cut_arrow_file
    return [
        text_slice
        for number, path in enumerate(paths)
        for text_slice in cut(path, f"{prefix}/{number}", dataset.column, slice_bytes)
    ]


def find_tables(dataset: HubDataset) -> HubTables:
    """Looks a dataset's files up. Raises StageError if it lacks the subset or the split."""
    name, subset = dataset.home
    subset = "" if subset == "default" else subset
    tables = look_up(name, subset, Path(dataset.cache), dataset.commit)
    check_split(dataset.label, dataset.split, tables.files)
    return tables


def load_converted(dataset: HubDataset, tables: HubTables | None) -> Any:
    """Converts a split to Arrow files. tables: of a Hub dataset."""
    if not tables:
        return load(dataset, streaming=False)
    with readable(dataset):
        return tables.load(dataset.split)


def only_rows_of_split(dataset: HubDataset, loaded: Any) -> Any:
    """Copies the rows of a part like `train[:10%]`: the cached files hold the whole split."""
    if "[" not in dataset.split:
        return loaded
    folder = Path(dataset.cache) / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    loaded.save_to_disk(folder)
    return library().load_from_disk(folder)


def parquet_paths(dataset: HubDataset, tables: HubTables | None, streaming: bool) -> list[str]:
    """Returns paths, or addresses to stream, of a split of whole Parquet files; else none."""
    if not tables:
        return local_parquet_paths(dataset) if dataset.is_local else []
    if not tables.is_parquet or dataset.split not in tables.files:
        return []
    addresses = tables.addresses(dataset.split)
    if streaming:
        return addresses
    if not (is_offline() or tables.has(tables.files[dataset.split][0])):
        with open_parquet_file(addresses[0]) as file:  # before a large download
            check_column(dataset.label, dataset.column, file.schema_arrow)
    return tables.fetch([dataset.split])


# --- streamed --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """Shard `index` of a streamed dataset with `num_shards` shards."""

    name: str
    dataset: HubDataset
    num_bytes: int
    index: int
    num_shards: int

    @property
    def path(self) -> str:
        return self.dataset.label

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (row number in the shard, text, True at the end of the article)."""
        stream = load(self.dataset, streaming=True)
        first_row = 0
        with readable(self.dataset):
            shard = stream.shard(self.num_shards, self.index).select_columns([self.dataset.column])
            for table in shard.with_format("arrow").iter(STREAM_ROWS):
                column = table.column(0).combine_chunks()
                yield from arrow_pieces(column, range(len(column)), first_row, limit, tally)
                first_row += len(column)


def stream_slices(dataset: HubDataset, stream: Any, prefix: str) -> list[StreamSlice]:
    """Returns the shards of a stream. Raises StageError if it lacks the column of text."""
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
    """Returns the bytes of text, estimated if unknown."""
    path = Path(dataset.name)
    if path.exists():
        return sum(text_size(str(file)) for file in list_files(path)[0])
    split_info = (stream.info.splits or {}).get(dataset.split)
    return (split_info and split_info.num_bytes) or STREAM_BYTES * stream.num_shards
