"""Whose a folder is: the record that a stage leaves in it, and what else stands there."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

STARTED = "started.json"
MANIFEST = "manifest.json"
STRAY_NAMES = ("digests.json",)
STRAY_SUFFIXES = (".log", ".err")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None if it is missing or not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def owner_of(folder: Path) -> str | None:
    """The stage whose record a folder holds, "" if the record does not say; None without one."""
    present = [folder / name for name in (MANIFEST, STARTED) if (folder / name).exists()]
    if not present:
        return None
    records = [record for path in present if isinstance(record := read_json(path), dict)]
    return next((record["stage"] for record in records if record.get("stage")), "")


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


def delete_folder(folder: Path) -> None:
    """Renames it first: half a folder must not be taken for a whole one after a kill."""
    delete_leftovers(folder)
    os.replace(folder, _aside(folder))
    delete_leftovers(folder)


def delete_leftovers(folder: Path) -> None:
    """Removes what a `delete_folder` that was killed has left beside a folder."""
    if _aside(folder).exists():
        shutil.rmtree(_aside(folder))


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.deleted")
