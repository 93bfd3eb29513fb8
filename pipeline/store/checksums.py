"""Whether what was written is still what it was when it was finished.

A record, a JSON object that this program keeps for itself, is sealed by a digest of its own
content. Of files, a record lists the sizes and the digests.
"""

import functools
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SEAL, FILES = "seal", "files"  # keys of records
# Bytes of all files of a record that are read to compare them, some seconds' worth: a model of a
# billion weights, and a small dataset. Of the largest ones beyond that, the size has to do.
MOST_READ = 4 << 30


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Hex digest of JSON-able inputs, independent of the order of keys."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


# --- records ---------------------------------------------------------------------------------


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-able record with its seal, as it comes out of JSON."""
    content = json.loads(json.dumps(record))
    return {**content, SEAL: fingerprint(content)}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a record, None if it is not what was sealed.

    Older ones have no seal, and list no files.
    """
    content = {key: value for key, value in record.items() if key != SEAL}
    if SEAL not in record:
        return None if FILES in record else content
    return content if record[SEAL] == fingerprint(content) else None


# --- files -----------------------------------------------------------------------------------


def file_digest(path: Path) -> str:
    """Hex digest of a file's content; a process reads a file again only when it has changed."""
    return _digest_in_state(path, _state(path.stat()))


def states_of(folder: Path, names: Iterable[str]) -> dict[str, list | None]:
    """Name -> [bytes, digest] of files, and of all files in folders.

    names: paths from `folder`. The digest is empty beyond MOST_READ; what is not there has None.
    """
    paths = [path for name in names for path in _files_at(folder / name)]
    states: dict[str, list | None] = {os.path.relpath(path, folder): None for path in paths}
    sizes = {path: path.stat().st_size for path in paths if path.exists()}
    total = 0
    for path in sorted(sizes, key=sizes.__getitem__):
        total += sizes[path]
        digest = file_digest(path) if total <= MOST_READ else ""
        states[os.path.relpath(path, folder)] = [sizes[path], digest]
    return states


def damage_to(folder: Path, states: Mapping[str, list | None]) -> str:
    """`x is missing` or `x is damaged`, of the first file that is not as `states_of` found it.

    An empty string if there is none. A file that was not there then must be there now.
    """
    for name, state in states.items():
        try:
            found = os.stat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if state and not _is_same(folder / name, found, *state):
            return f"{name} is damaged"
    return ""


def _is_same(path: Path, found: os.stat_result, size: int, digest: str) -> bool:
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        return False
    return not digest or _digest_in_state(path, _state(found)) == digest


def _files_at(path: Path) -> Iterator[Path]:
    """The file itself, or all files in a folder."""
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.is_file())


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


@functools.cache
def _digest_in_state(path: Path, state: tuple[int, int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
