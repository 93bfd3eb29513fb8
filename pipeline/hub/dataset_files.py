"""Datasets of the Hub: finds the files of a subset and downloads them.

`datasets` derives subsets and splits from the README.md and the names of all files. It gets an
outline, a folder of empty files with those names: only needed files are downloaded, all from one
commit, and the Hub's cache is enough without the Hub.
"""

import difflib
import os
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import print_line
from pipeline.errors import StageError
from pipeline.hub.repository import Repository, download, find_commit, list_files, not_cached
from pipeline.hub.requests import is_offline
from pipeline.store.disk import size_in_words
from pipeline.user_files.file_checks import shown_list

METADATA = ("README.md", ".huggingface.yaml", "dataset_infos.json")
ANNOUNCED_BYTES = 100 << 20  # size of the smallest download announced on the console
# `train`, `train[:10%]`, `train+test`
SPLIT_NAMES = re.compile(r"([^\[\]+]+)(?:\[[^\]]*\])?")


@dataclass(frozen=True)
class HubTables:
    """A subset of a dataset at a commit.

    is_parquet: True if its files are Parquet. files: paths in the repository, by split. sizes:
    bytes of all files of the repository, by path. folder: the commit's, in the Hub's cache.
    outline: the folder of empty files.
    """

    repository: Repository
    commit: str
    subset: str
    is_parquet: bool
    files: dict[str, list[str]]
    sizes: dict[str, int]
    folder: Path
    outline: Path

    def fetch(self, splits: Iterable[str]) -> list[str]:
        """Downloads some splits; returns the paths of their files in the Hub's cache, in order."""
        paths = [path for split in splits for path in self.files[split]]
        missing = [path for path in paths if not self.has(path)]
        size = sum(self.sizes[path] for path in missing)
        if size > ANNOUNCED_BYTES and not is_offline():
            shown = f"{len(missing):,} files, {size_in_words(size)}"
            print_line(f"the Hub: fetching {shown}, of {self.repository}")
        download(self.repository, self.commit, paths)
        if not all(map(self.has, paths)):
            raise StageError(not_cached(self.repository))
        return [str(self.folder / path) for path in paths]

    def has(self, path: str) -> bool:
        """True if the cache has the file."""
        return (self.folder / path).is_file()

    def addresses(self, split: str) -> list[str]:
        """Returns the addresses to stream the files of a split from."""
        place = f"hf://datasets/{self.repository.name}@{self.commit}"
        return [f"{place}/{path}" for path in self.files[split]]

    def num_bytes(self, split: str) -> int:
        return sum(self.sizes.get(path, 0) for path in self.files[split])

    def load(self, split: str) -> Any:
        """Returns a split as `datasets` reads it, converted to Arrow files beside the outline."""
        for local, path in zip(
            self.fetch(self.files),
            (path for paths in self.files.values() for path in paths),
            strict=True,
        ):
            link(self.outline / path, local)
        return library().load_dataset(
            str(self.outline),
            self.subset or None,
            split=split,
            cache_dir=str(self.outline.parent / "converted"),
        )


def look_up(name: str, subset: str, folder: Path, commit: str = "") -> HubTables:
    """Returns a subset of a dataset, "" for the only one, at a commit, "" for the present one.

    folder: gets the outline. Raises StageError if the dataset or the subset does not exist, or if
    the Hub is unavailable and the cache has no list of the files.
    """
    repository = Repository(name, "dataset")
    commit = commit or find_commit(repository)
    sizes = list_files(repository, commit)
    if sizes is None:
        raise StageError(not_cached(repository))
    present = [path for path in METADATA if path in sizes]
    metadata = download(repository, commit, present)
    outline = folder / "outline"
    shutil.rmtree(outline, ignore_errors=True)  # a killed run's, perhaps of another commit
    for path in sizes:
        if os.path.normpath(path) != path or path.startswith(("/", "..")):
            raise StageError(f"{repository} has a file called {path}, expected one of its folder")
        link(outline / path, str(metadata / path) if path in present else os.devnull)
    builder = _builder(repository, outline, subset)
    return HubTables(
        repository,
        commit,
        subset,
        is_parquet(builder),
        {
            str(split): [_relative(repository, str(file), outline) for file in files]
            for split, files in (builder.config.data_files or {}).items()
        },
        sizes,
        metadata,
        outline,
    )


def is_parquet(builder: Any) -> bool:
    """True if a builder of `datasets` reads Parquet files.

    A README.md gives it a class of its own, derived from the reader's.
    """
    from datasets.packaged_modules.parquet.parquet import Parquet

    return isinstance(builder, Parquet)


def library() -> Any:
    """Imports `datasets`, without progress bars and without requests to other servers."""
    import datasets
    from tqdm import tqdm

    # tqdm's default lock is a semaphore and leaks if the process is killed.
    tqdm.set_lock(threading.RLock())
    datasets.disable_progress_bars()
    datasets.config.USE_PARQUET_EXPORT = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    return datasets


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if target == os.devnull:
        path.touch()
    else:
        path.symlink_to(target)


def _builder(repository: Repository, outline: Path, subset: str) -> Any:
    try:
        return library().load_dataset_builder(
            str(outline), subset or None, cache_dir=str(outline.parent / "converted")
        )
    except Exception as error:  # many readers, each with errors of its own
        raise StageError(_reading_problem(error, repository, outline, subset)) from error


def _reading_problem(error: Exception, repository: Repository, outline: Path, subset: str) -> str:
    found = re.search(r"(?:Available: |configs: )\[(.*)\]", str(error))
    if not found:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        plain = line.replace(f"{outline}/", "").replace(str(outline), "it")
        return f"{repository} cannot be read: {plain}"
    names = re.findall(r"'([^']*)'", found[1])
    if not subset:
        return f"{repository}: name one of its subsets, {shown_list(names)}"
    close = difflib.get_close_matches(subset, names, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{repository} has no subset {subset}{hint}, it has {shown_list(names)}"


def _relative(repository: Repository, file: str, outline: Path) -> str:
    """Returns a file's path in the repository.

    Raises StageError for a file elsewhere: a README.md could name the user's own files.
    """
    absolute = os.path.abspath(file)
    if "://" in file or not Path(absolute).is_relative_to(outline.absolute()):
        raise StageError(f"{repository} names {file}, expected files of its own")
    return os.path.relpath(absolute, outline.absolute())


def check_split(label: str, split: str, existing: Iterable[str]) -> None:
    """Raises StageError if a split, or one of a sum or slice, is unknown."""
    names = list(map(str, existing))
    missing = [name for name in SPLIT_NAMES.findall(split) if name.strip() not in names]
    if missing and names:
        raise StageError(f"{label} has no split {', '.join(missing)}, it has {shown_list(names)}")
