"""Sources of text: files, Hub datasets and Python's documentation, opened as slices for workers.

A slice of a file or a table has a `name`, a `path` for messages, its size `num_bytes` and
`pieces(limit, tally)` (article_stream.py). (name, position) identifies an article.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dataset.sources.arrow_files import ArrowSlice, check_arrow_file, cut_arrow_file
from dataset.sources.corpus_files import EXPECTED, format_of, list_files, relative_name, text_size
from dataset.sources.csv_files import CsvSlice, check_csv_file
from dataset.sources.hub_text import HubDataset, StreamSlice, open_dataset, present_name
from dataset.sources.parquet_files import ParquetSlice, check_parquet_file, cut_parquet_file
from dataset.sources.saved_datasets import (
    DEFAULT_SPLIT,
    data_files,
    folder_of_split,
    problem_with_split,
    splits_in,
)
from dataset.sources.text_files import TextSlice, check_text_file, cut_file
from pipeline.errors import StageError
from pipeline.hub.repository import Repository, find_commit

PYTHON_DOCS = "builtin:python-docs"
MIN_PART_BYTES = 32 << 20  # of a unit of work
MAX_PARTS = 1024  # each takes some memory of the main process
NAMED_FILES = 5  # of those passed over
ARROW_SUFFIXES = (".parquet", ".arrow", ".zst")  # of files opened by pyarrow
CHECKS = {
    "csv": check_csv_file,
    "tsv": check_csv_file,
    "arrow": check_arrow_file,
    "parquet": check_parquet_file,
}
Slice = TextSlice | CsvSlice | ParquetSlice | ArrowSlice | StreamSlice


@dataclass(frozen=True)
class Source:
    """One entry of the config.

    kind: folder (of files, or a file) | files (local, read by `datasets`) | hub | python-docs.
    name: path or Hub name. key: config key or flag, for messages. subset, split, streaming: of a
    dataset. column: of the text. commit: of a Hub dataset, empty for the latest.
    """

    kind: str
    name: str
    key: str
    subset: str = ""
    split: str = DEFAULT_SPLIT
    column: str = "text"
    streaming: bool = False
    commit: str = ""

    @property
    def label(self) -> str:
        """The name with the subset and the split, for messages."""
        split = "" if self.split == DEFAULT_SPLIT else self.split
        return " ".join(filter(None, (self.name, self.subset, split)))


# --- from the config -------------------------------------------------------------------------


def hub_source(
    name: str,
    subset: str,
    key: str,
    split: str = "",
    column: str = "text",
    streaming: bool = False,
) -> Source:
    """Returns the source of a Hub dataset, or of a local folder or file in its place.

    A folder of .txt files or of Dataset.save_to_disk is read without `datasets`.
    """
    path = Path(os.path.expanduser(name))
    split = split or DEFAULT_SPLIT
    if not path.exists():
        return Source("hub", name, key, subset, split, column, streaming)
    if splits_in(path) is not None or data_files(path) is not None:
        folder = folder_of_split(path, split)
        split = split if folder == path else DEFAULT_SPLIT  # of the folder itself
        return Source("folder", str(folder), key, split=split, column=column)
    if any(format_of(str(file)) in ("txt", "wiki") for file in list_files(path)[0]):
        return Source("folder", str(path), key, column=column)
    return Source("files", str(path), key, subset, split, column, streaming)


def customized_source(name: str, key: str, text_column: str = "text") -> Source:
    if name == PYTHON_DOCS:
        return Source("python-docs", name, key)
    folder = folder_of_split(Path(os.path.expanduser(name)), DEFAULT_SPLIT)
    return Source("folder", str(folder), key, column=text_column)


def configured_sources(
    hub_entries: Sequence[Sequence[str]],
    customized: Iterable[str],
    text_column: str = "text",
    streaming: bool = False,
) -> list[Source]:
    """Returns the sources of DATASET.HUGGINGFACE_DATASETS and DATASET.CUSTOMIZED_DATASETS.

    hub_entries: [name, subset], [name, subset, split] or [name, subset, split, text column].
    """
    sources = []
    for entry in hub_entries:
        name, subset, split, column = (*entry, "", "", "")[:4]
        key = "DATASET.HUGGINGFACE_DATASETS"
        sources.append(hub_source(name, subset, key, split, column or text_column, streaming))
    key = "DATASET.CUSTOMIZED_DATASETS"
    return sources + [customized_source(name, key, text_column) for name in customized]


def local_files(source: Source) -> list[Path]:
    """Returns the files of a local source; none for the Hub and the builtin text."""
    path = Path(source.name)
    if source.kind == "folder":
        return list_files(path)[0]
    if source.kind == "files":
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        return [file for file in files if file.is_file()]
    return []


def problem_with(source: Source, files_of: Callable[[Source], list[Path]] = local_files) -> str:
    """Returns the first problem with a source, or an empty string. files_of: lists its files."""
    path = Path(source.name)
    if source.kind in ("python-docs", "hub"):
        if source.name.startswith((".", "/", "~")):
            return f"{source.key}: {source.name} does not exist, expected a folder or a Hub name"
        return ""
    if not path.exists():
        return (
            f"{source.key}: folder {source.name} does not exist, "
            "expected a folder or a file of text"
        )
    if source.kind == "folder" and (problem := problem_with_split(path, source.split)):
        return f"{source.key}: {problem}"
    if not files_of(source):
        return f"{source.key}: {source.name} holds no text, expected {EXPECTED}"
    return ""


def slug(sources: Sequence[Source]) -> str:
    """Returns a short folder name for a list of sources."""
    words = [Path(source.name.removeprefix("builtin:")).name for source in sources]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:40].strip("-") or "text"


def hub_repository(source: Source) -> Repository:
    """Returns the current repository of a source of kind `hub`."""
    return Repository(present_name(source.name, source.subset)[0], "dataset")


def pinned(sources: Sequence[Source], commits: Mapping[str, str]) -> list[Source]:
    """Returns the sources, those of the Hub with a commit: the known one or else the latest.

    commits: known ones by repository. Raises StageError, naming the key, for an unknown repository.
    """
    commits = dict(commits)
    found = []
    for source in sources:
        if source.kind == "hub":
            repository = hub_repository(source)
            try:
                if repository.name not in commits:
                    commits[repository.name] = find_commit(repository)
            except StageError as error:
                raise StageError(f"{source.key}: {error.cause}") from error
            source = replace(source, commit=commits[repository.name])
        found.append(source)
    return found


# --- opening ---------------------------------------------------------------------------------

Job = tuple[Source, str, Path, int]


def open_sources(
    sources: Sequence[Source], work_dir: Path, say: Callable[[str], None]
) -> list[Slice]:
    """Returns all slices of all sources, in order; downloads and converts datasets.

    work_dir: for converted text. Raises StageError, naming the file, if one is unusable, and if
    there is no text at all.
    """
    files = [str(file) for source in sources for file in local_files(source)]
    slice_bytes = part_bytes(sum(map(text_size, files)))
    jobs = [
        (source, str(number), work_dir / str(number), slice_bytes)
        for number, source in enumerate(sources)
    ]
    # Keeps `datasets` and pyarrow, and their memory, out of this process.
    needs_subprocess = any(source.kind in ("files", "hub") for source in sources) or any(
        file.lower().endswith(ARROW_SUFFIXES) for file in files
    )
    slices: list[Slice] = []
    for found, messages in open_in_subprocess(jobs) if needs_subprocess else map(open_source, jobs):
        slices += found
        for message in messages:
            say(message)
    if not slices:
        raise StageError("the sources hold no text")
    return slices


def open_in_subprocess(jobs: Sequence[Job]) -> list[tuple[Sequence[Slice], list[str]]]:
    """Runs `open_source` on each job in one child process.

    Raises StageError, naming the source, if the process dies, as some damaged Parquet files crash
    pyarrow.
    """
    from pipeline.runtime.executor import local_pool, run_unordered

    opened = []
    with local_pool(1) as pool:
        for job in jobs:
            try:
                opened += [result for _, result in run_unordered(pool, open_source, [job])]
            except StageError as error:
                if not isinstance(error.__cause__, BrokenExecutor):
                    raise
                raise StageError(
                    f"{job[0].name}: while it was opened, {error.cause}, or look for a damaged file"
                ) from error
    return opened


def open_source(job: Job) -> tuple[Sequence[Slice], list[str]]:
    """Returns (slices of a source, messages).

    job: source, prefix of the slices' names, folder for converted text, size of a slice.
    """
    source, prefix, work_dir, slice_bytes = job
    messages: list[str] = []
    if source.kind == "python-docs":
        from dataset.sources.builtin_text import write_python_docs

        source = Source("folder", str(write_python_docs(work_dir)), source.key)
    if source.kind == "folder":
        return open_folder(source, prefix, slice_bytes, messages.append), messages
    path = Path(source.name)
    name = str(path.absolute()) if path.exists() else source.name
    dataset = HubDataset(
        name, source.subset, source.split, source.column, str(work_dir), source.commit
    )
    try:
        slices = open_dataset(dataset, prefix, source.streaming, slice_bytes, messages.append)
    except StageError as error:
        raise StageError(f"{source.key}: {error.cause}") from error
    return slices, messages


def open_folder(
    source: Source, prefix: str, slice_bytes: int, say: Callable[[str], None]
) -> list[Slice]:
    folder = Path(source.name).absolute()
    files, others = list_files(folder)
    empty = [file for file in files if file.stat().st_size == 0]
    for what, found in (("other files are passed over", others), ("empty files", empty)):
        if found:
            names = ", ".join(relative_name(file, folder) for file in found[:NAMED_FILES])
            more = ", ..." if len(found) > NAMED_FILES else ""
            say(f"{source.name}: {len(found):,} {what} ({names}{more})")
    slices: list[Slice] = []
    for file in files:
        name = f"{prefix}/{relative_name(file, folder)}"
        slices += open_file(file, name, source.column, slice_bytes)
    return slices


def open_file(path: Path, name: str, column: str, slice_bytes: int) -> Sequence[Slice]:
    """Returns the slices of a file. Raises StageError if it is unusable."""
    if path.stat().st_size == 0:
        return []
    file_format = format_of(str(path))
    check_file(path, column)
    if file_format == "parquet":
        return cut_parquet_file(str(path), name, column, slice_bytes)
    if file_format == "arrow":
        return cut_arrow_file(str(path), name, column, slice_bytes)
    if file_format in ("csv", "tsv"):
        return [CsvSlice(name, str(path), text_size(str(path)), column)]
    return cut_file(path, name, column, slice_bytes)


def check_file(path: Path, column: str) -> None:
    """Raises StageError if the beginning of a file, which is not empty, shows it is unusable."""
    CHECKS.get(format_of(str(path)), check_text_file)(str(path), column)


# --- parts -----------------------------------------------------------------------------------


def part_bytes(num_bytes: int) -> int:
    """Returns the size of a unit of work for a corpus of `num_bytes`."""
    return max(MIN_PART_BYTES, num_bytes // MAX_PARTS)


def number_of_source(text_slice: Slice) -> int:
    """Returns the number of a slice's source, among those given to `open_sources`."""
    return int(text_slice.name.partition("/")[0])


def group_slices(slices: Sequence[Slice], by_source: bool = False) -> list[tuple[Slice, ...]]:
    """Groups consecutive slices into parts of about `part_bytes`.

    by_source: slices of different sources are in different parts.
    """
    limit = part_bytes(sum(one.num_bytes for one in slices))
    parts: list[tuple[Slice, ...]] = []
    part: list[Slice] = []
    size = 0
    for one in slices:
        is_other = by_source and part and number_of_source(one) != number_of_source(part[-1])
        if part and (is_other or size + one.num_bytes > limit):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(one)
        size += one.num_bytes
    return [*parts, tuple(part)] if part else parts
