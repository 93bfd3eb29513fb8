"""Whose a folder is: the record that a stage leaves in it, and what else stands there."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.store.checksums import unsealed

STARTED = "started.json"
MANIFEST = "manifest.json"
RECORD_KEYS = {"stage", "fingerprint", "inputs"}
STRAY_NAMES = ("digests.json",)
STRAY_SUFFIXES = (".log", ".err")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds, None if it is missing, or not valid JSON, or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The content of a record that this program keeps for itself, None if missing or damaged."""
    found = read_json(path)
    return None if found is None else unsealed(found)


def read_record(path: Path) -> dict[str, Any] | None:
    """What a stage has written of itself into its folder, None if that is missing or damaged."""
    found = read_sealed(path)
    if found and all(isinstance(found.get(key, {}), dict) for key in ("inputs", "results")):
        return found
    return None


def owner_of(folder: Path) -> str | None:
    """The stage whose record a folder holds, "" if the record does not say; None without one.

    A manifest.json can be anybody's. A started.json is ours even if it is damaged.
    """
    for name in (MANIFEST, STARTED):
        found = read_sealed(folder / name)
        if found and len(RECORD_KEYS & found.keys()) > 1:
            return found.get("stage", "")
    is_damaged = (folder / STARTED).is_file() and read_sealed(folder / STARTED) is None
    return "" if is_damaged else None


def files_besides(folder: Path, expected: Collection[str] = ()) -> Iterator[Path]:
    """Yields the files below a folder, but for what is `expected` (names of files and folders).

    Hidden files, digests and logs do not count, and neither do empty folders.
    """
    if folder.is_file():
        yield folder
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in expected:
            continue
        if path.is_dir():
            yield from files_besides(path, expected)
        elif not _is_stray(path.name):
            yield path


def _is_stray(name: str) -> bool:
    return name.startswith(".") or name in STRAY_NAMES or name.endswith(STRAY_SUFFIXES)


def refusing_links(path: str, flags: int) -> int:
    """For open(..., opener=): a link in a folder from elsewhere may lead to any file of the user's.

    Raises OSError for one.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def delete_tree(path: Path) -> None:
    """Deletes a file, or a folder with all that is in it; of a link the link alone.

    Raises OSError that names the whole path.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:  # which knows just the name of what could not be deleted
            raise OSError(error.errno, error.strerror, str(path)) from error


def delete_unfinished(folder: Path) -> None:
    """Deletes, at any depth, what a process that was killed has left half-written or half-deleted.

    The folder has to be ours.
    """
    for path in [*folder.rglob(".*.tmp")]:
        delete_tree(path)


def delete_unfinished_file(path: Path) -> None:
    """Deletes what processes that were killed have left of a file that they were writing.

    Nobody may be writing it now.
    """
    for aside in path.parent.glob(f".{path.name}.*.tmp"):
        aside.unlink(missing_ok=True)


def delete_folder(folder: Path) -> None:
    """Deletes a folder that holds a stage's record.

    Renames it first: half a folder must not be taken for a whole one after a kill.
    """
    delete_leftovers(folder)
    os.replace(folder, _aside(folder))
    delete_leftovers(folder)


def delete_leftovers(folder: Path) -> None:
    """Removes what a `delete_folder` that was killed has left beside a folder.

    The records go last: by them it is known as ours.
    """
    aside = _aside(folder)
    if owner_of(aside) is not None:
        for path in aside.iterdir():
            if path.name not in (MANIFEST, STARTED):
                delete_tree(path)
        delete_tree(aside)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.deleted")
