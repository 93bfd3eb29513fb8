"""Digests of a dataset's input files, stored between runs.

The store is a sealed record, read by planning and written by the stage.
"""

import os
import platform
from pathlib import Path

from dataset.sources.corpus_files import relative_name
from dataset.sources.registry import PYTHON_DOCS, Source, local_files
from pipeline.store.atomic_files import write_sealed
from pipeline.store.checksums import file_digest, fingerprint
from pipeline.store.record_files import read_sealed


def digest_store(root: Path) -> Path:
    return root / "tmp" / "dataset" / "digests.json"


class FileDigests:
    """Digests by absolute path, valid while a file's size and modification time stay the same.

    Each planning makes one, and lists the files of each source once.
    """

    def __init__(self, store: Path):
        self.store = store
        self.known: dict[str, list] = read_sealed(store) or {}
        self.listed: dict[Source, list[Path]] = {}
        self.changed = False

    def files_of(self, source: Source) -> list[Path]:
        if source not in self.listed:
            self.listed[source] = local_files(source)
        return self.listed[source]

    def size_of(self, path: Path) -> int:
        """Returns the size in bytes, at the time of the digest if there is one."""
        known = self.known.get(os.path.abspath(path))
        return known[0] if known else path.stat().st_size

    def of(self, path: Path) -> str:
        found = os.stat(path)
        key, state = os.path.abspath(path), [found.st_size, found.st_mtime_ns]
        if self.known.get(key, [])[:2] != state:
            self.known[key] = [*state, file_digest(path)]
            self.changed = True
        return self.known[key][2]

    def save(self) -> None:
        if self.changed:
            write_sealed(self.store, {**(read_sealed(self.store) or {}), **self.known})


def digest_of_files(files: list[Path], folder: Path, digests: FileDigests) -> str:
    """Returns a digest of the files' contents and their names relative to a folder."""
    return fingerprint({relative_name(path, folder): digests.of(path) for path in files})[:32]


def identity_of(source: Source, digests: FileDigests) -> list[str]:
    """Returns everything a source's text depends on: file contents, or names on the Hub."""
    if source.kind == "python-docs":
        return [PYTHON_DOCS, platform.python_version()]
    how = [source.column]
    if source.kind != "folder":
        how += [source.subset, source.split, "streamed" if source.streaming else "converted"]
    if source.kind == "hub":
        return [source.kind, source.name, *how]
    content = digest_of_files(digests.files_of(source), Path(source.name), digests)
    return [source.kind, content, *how]
