"""Which files a dataset of the Hub consists of, and the files themselves.

`datasets` finds subsets and splits by the README.md and the names of all files. It looks at a
folder of empty files with those names, so that only what is needed is downloaded, from one commit,
and the Hub's cache does as well as the Hub.
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
from pipeline.hub.repository import (
    Repository,
    download,
    find_commit,
    is_offline,
    list_files,
    not_cached,
)
from pipeline.store.disk import size_in_words
from pipeline.user_files.file_checks import shown_list

METADATA = ("README.md", ".huggingface.yaml", "dataset_infos.json")
ANNOUNCED_BYTES = 100 << 20  # of a download that takes a while
# `train`, `train[:10%]`, `train+test`
SPLIT_NAMES = re.compile(r"([^\[\]+]+)(?:\[[^\]]*\])?")


@dataclass(frozen=True)
class HubTables:
    """A subset of a dataset at a commit.

    is_parquet: whether its files are. files: paths in the repository, by split. sizes: of all files
    of the repository, in bytes. folder: of the commit in the Hub's cache. outline: the folder of
    empty files.
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
        """Paths in the Hub's cache of all files of some splits, in order."""
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
        """Whether the cache has a file."""
        return (self.folder / path).is_file()

    def addresses(self, split: str) -> list[str]:
        """Where to stream the files of a split from."""
        place = f"hf://datasets/{self.repository.name}@{self.commit}"
        return [f"{place}/{path}" for path in self.files[split]]

    def num_bytes(self, split: str) -> int:
        return sum(self.sizes.get(path, 0) for path in self.files[split])

    def load(self, split: str) -> Any:
        """A split as `datasets` reads it, converted to Arrow files beside the outline."""
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


def look_up(name: str, subset: str, folder: Path, commit: str = "") -> HubTables | None:
    """A subset of a dataset, "" for the only one, at a commit, "" for the present one.

    folder: where an outline of the repository is made. Returns None if only `datasets` itself can
    tell: when offline, from what it has converted before. Raises StageError if the dataset or the
    subset is not there.
    """
    repository = Repository(name, "dataset")
    commit = commit or find_commit(repository)
    sizes = list_files(repository, commit)
    if sizes is None:
        return None
    present = [path for path in METADATA if path in sizes]
    metadata = download(repository, commit, present)
    outline = folder / "outline"
    shutil.rmtree(outline, ignore_errors=True)  # of a run that was killed, maybe of another commit
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
    """Whether a builder of `datasets` reads Parquet files; those with a README.md are of classes
    of their own, which are made of the reader's."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    return isinstance(builder, Parquet)


def library() -> Any:
    """`datasets`, without bars, and without questions to servers other than the Hub itself."""
    import datasets
    from tqdm import tqdm

    # Else it makes one of semaphores, which a process that is ended leaves behind.
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
        lines = str(error).strip().splitlines() or [type(error).__name__]
        there = re.search(r"(?:Available: |configs: )\[(.*)\]", str(error))
        if not there:
            raise StageError(f"{repository} cannot be read: {_plain(lines[0], outline)}") from error
        names = re.findall(r"'([^']*)'", there[1])
        if not subset:
            raise StageError(
                f"{repository}: name one of its subsets, {shown_list(names)}"
            ) from error
        close = difflib.get_close_matches(subset, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise StageError(
            f"{repository} has no subset {subset}{hint}, it has {shown_list(names)}"
        ) from error


def _relative(repository: Repository, file: str, outline: Path) -> str:
    """Raises StageError for a file elsewhere: who wrote the README.md may have meant the reader's
    own files."""
    absolute = os.path.abspath(file)
    if "://" in file or not Path(absolute).is_relative_to(outline.absolute()):
        raise StageError(f"{repository} names {file}, expected files of its own")
    return os.path.relpath(absolute, outline.absolute())


def _plain(line: str, outline: Path) -> str:
    return line.replace(f"{outline}/", "").replace(str(outline), "it")


def check_split(label: str, split: str, there: Iterable[str]) -> None:
    """Raises StageError if a split, which may be a part or a sum of some, is not there."""
    there = list(map(str, there))
    missing = [name for name in SPLIT_NAMES.findall(split) if name.strip() not in there]
    if missing and there:
        raise StageError(f"{label} has no split {', '.join(missing)}, it has {shown_list(there)}")
