"""Disk space: estimates of the stages' output against the free space, and full-disk errors."""

import errno
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# Estimates are rough: a run is refused only with less than this share of one.
CERTAIN_SHARE = 0.8


@dataclass(frozen=True)
class DiskNeed:
    """An estimate of the most bytes that `folder` will hold, its present content included.

    what: in words. lower: the config key to reduce it with, if any.
    """

    folder: Path
    num_bytes: float
    what: str
    lower: str = ""


def is_full(error: BaseException) -> bool:
    """True if an error means a full disk or an exhausted quota.

    Errors of safetensors are no OSError; their text has the number.
    """
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"os error {number})" in str(error) for number in FULL)


def size_of(folder: Path) -> int:
    """Returns the bytes of all files below a folder; files deleted meanwhile count as 0."""
    total, folders = 0, [folder]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return total


def shortages(needs: Iterable[DiskNeed]) -> list[str]:
    """Returns a line for each file system with clearly too little space; quotas are unknown."""
    lines = []
    for place, found, left, free in _by_disk(needs):
        if free >= CERTAIN_SHARE * left:
            continue
        keys = ", ".join(dict.fromkeys(need.lower for need in found if need.lower))
        lines.append(
            f"SYSTEM.OUTPUT_ROOT: too little space on the disk of {place}, got "
            f"{size_in_words(free)} free, expected about {size_in_words(left)}, for "
            f"{', '.join(need.what for need in found)}; "
            f"{f'a smaller {keys} needs less; ' if keys else ''}"
            "SYSTEM.OUTPUT_ROOT or --output-root may name another disk"
        )
    return lines


def space_in_words(needs: Iterable[DiskNeed]) -> list[str]:
    """Returns a line of the plan for each file system: bytes to write and bytes free."""
    return [
        f"disk: about {size_in_words(left)} to write, {size_in_words(free)} free ({place})"
        for place, _, left, free in _by_disk(needs)
    ]


def size_in_words(num_bytes: float) -> str:
    """Returns `0.4 MB`, `12 MB`, `3.1 GB`."""
    size = num_bytes / 1e6
    if size >= 1000:
        return f"{size / 1000:,.1f} GB"
    return f"{size:.1f} MB" if size < 10 else f"{math.ceil(size):,} MB"


def _by_disk(needs: Iterable[DiskNeed]) -> Iterator[tuple[Path, list[DiskNeed], float, int]]:
    """Yields (a folder on it, needs, bytes still to write, bytes free) for each file system."""
    by_device: dict[int, list[DiskNeed]] = defaultdict(list)
    for need in needs:
        by_device[_existing(need.folder).stat().st_dev].append(need)
    for found in by_device.values():
        place = _existing(found[0].folder)
        left = sum(max(0.0, need.num_bytes - size_of(need.folder)) for need in found)
        yield place, found, left, shutil.disk_usage(place).free


def _existing(folder: Path) -> Path:
    """Returns the folder, or its nearest existing parent."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
