"""Folder ownership records, and the deletion of folders."""

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
    """Returns the object of a JSON file, None if it is missing, invalid or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Returns the content of a sealed record, None if it is missing or damaged."""
    found = read_json(path)
    return None if found is None else unsealed(found)


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns a stage's record in its folder, None if it is missing or damaged."""
    found = read_sealed(path)
    if found and all(isinstance(found.get(key, {}), dict) for key in ("inputs", "results")):
        return found
    return None


def owner_of(folder: Path) -> str | None:
    """Returns the stage of a folder's record, "" if the record lacks it; None without a record.

    Other programs write a manifest.json too; a started.json is ours even if it is damaged.
    """
    for name in (MANIFEST, STARTED):
        found = read_sealed(folder / name)
        if found and len(RECORD_KEYS & found.keys()) > 1:
            return found.get("stage", "")
    is_damaged = (folder / STARTED).is_file() and read_sealed(folder / STARTED) is None
    return "" if is_damaged else None


def files_besides(folder: Path, expected: Collection[str] = ()) -> Iterator[Path]:
    """Yields the files below a folder, except `expected` names of files and folders.

    Skips hidden files, digests, logs and empty folders.
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
        elif not (
            path.name.startswith(".")
            or path.name in STRAY_NAMES
            or path.name.endswith(STRAY_SUFFIXES)
        ):
            yield path


def refusing_links(path: str, flags: int) -> int:
    """Raises OSError for a symbolic link; for open(..., opener=).

    In a folder of another user, a link could lead to any file of this one.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def delete_tree(path: Path) -> None:
    """Deletes a file, a link, or a folder with its content. Raises OSError with the whole path."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:  # it names only the entry
            raise OSError(error.errno, error.strerror, str(path)) from error


def delete_unfinished(folder: Path) -> None:
    """Deletes temporary files and folders of killed processes, at any depth of our own folder."""
    for path in [*folder.rglob(".*.tmp")]:
        delete_tree(path)


def delete_unfinished_file(path: Path) -> None:
    """Deletes the temporary files of killed writers of `path`; no other may be at work."""
    for aside in path.parent.glob(f".{path.name}.*.tmp"):
        aside.unlink(missing_ok=True)


def delete_folder(folder: Path) -> None:
    """Deletes a folder with a stage's record.

    Renames it first: after a kill, half a folder must not pass for a whole one.
    """
    delete_leftovers(folder)
    os.replace(folder, _aside(folder))
    delete_leftovers(folder)


def delete_leftovers(folder: Path) -> None:
    """Completes an interrupted `delete_folder`. The records go last: they prove ownership."""
    aside = _aside(folder)
    if owner_of(aside) is not None:
        for path in aside.iterdir():
            if path.name not in (MANIFEST, STARTED):
                delete_tree(path)
        delete_tree(aside)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.deleted")
