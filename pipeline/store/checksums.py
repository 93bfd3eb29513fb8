"""Checksums of records and files, to detect later changes.

A record, a JSON object for this program's own use, is sealed with the digest of its content. It can
list files with their sizes and digests.
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
# Bytes read at most to check a record's files, which takes some seconds: enough for a model of a
# billion weights, or a small dataset. Of larger files only the size is checked.
MOST_READ = 4 << 30


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Returns the hex digest of JSON-able inputs, independent of the order of keys."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


# --- records ---------------------------------------------------------------------------------


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON-able record with its seal, in the types of parsed JSON."""
    content = json.loads(json.dumps(record))
    return {**content, SEAL: fingerprint(content)}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the content of a record, None if the seal does not match.

    Old records have no seal, and list no files.
    """
    content = {key: value for key, value in record.items() if key != SEAL}
    if SEAL not in record:
        return None if FILES in record else content
    return content if record[SEAL] == fingerprint(content) else None


# --- files -----------------------------------------------------------------------------------


def file_digest(path: Path) -> str:
    """Returns the hex digest of a file's content, cached until its size or time changes."""
    return _digest(path, path.stat())


def _digest(path: Path, found: os.stat_result) -> str:
    return _digest_of_version(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _digest_of_version(path: Path, size: int, modified_ns: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def states_of(folder: Path, names: Iterable[str]) -> dict[str, list | None]:
    """Returns name -> [bytes, digest] of files, and of all files in folders.

    names: paths relative to `folder`. The digest is empty beyond MOST_READ; a missing file has
    None instead of a list.
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
    """Returns `x is missing` or `x is damaged` for the first file changed since `states_of`, or "".

    A file with the state None, missing at the time, has to exist with any content.
    """
    for name, state in states.items():
        try:
            found = os.stat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if not state:
            continue
        size, digest = state
        is_same = stat.S_ISREG(found.st_mode) and found.st_size == size
        if not is_same or (digest and _digest(folder / name, found) != digest):
            return f"{name} is damaged"
    return ""


def _files_at(path: Path) -> Iterator[Path]:
    """Yields the path itself, or all files of a folder."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path
