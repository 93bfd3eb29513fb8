"""Space on disk: what the stages are going to write, whether it fits, and how a full disk shows."""

import errno
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# Estimates are rough: only with less than this share of one there is too little for sure.
CERTAIN_SHARE = 0.8


@dataclass(frozen=True)
class DiskNeed:
    """About how many bytes `folder` will hold at most, with what it holds already.

    what: in words. lower: the config key that makes it less, if there is one.
    """

    folder: Path
    num_bytes: float
    what: str
    lower: str = ""

    @property
    def bytes_left(self) -> float:
        """Those that are not there yet."""
        return max(0.0, self.num_bytes - size_of(self.folder))


def is_full(error: BaseException) -> bool:
    """Whether a disk, or a user's part of it, was full.

    safetensors, whose errors are no OSError, has the number in its text.
    """
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"os error {number})" in str(error) for number in FULL)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if there is none. What vanishes counts as 0."""
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
    """A line for each file system that clearly has too little space; quotas cannot be seen."""
    return [
        f"SYSTEM.OUTPUT_ROOT: too little space on the disk of {place}, "
        f"got {size_in_words(free)} free, expected about {size_in_words(left)}, for "
        f"{', '.join(need.what for need in found)}; "
        f"{_advice([need.lower for need in found if need.lower])}"
        for place, found, left, free in _by_disk(needs)
        if free < CERTAIN_SHARE * left
    ]


def space_in_words(needs: Iterable[DiskNeed]) -> list[str]:
    """For the plan: what will be written where, and how much space there is."""
    return [
        f"disk: about {size_in_words(left)} to write, {size_in_words(free)} free ({place})"
        for place, _, left, free in _by_disk(needs)
    ]


def size_in_words(num_bytes: float) -> str:
    """`0.4 MB`, `12 MB`, `3.1 GB`."""
    size = num_bytes / 1e6
    if size >= 1000:
        return f"{size / 1000:,.1f} GB"
    return f"{size:.1f} MB" if size < 10 else f"{math.ceil(size):,} MB"


def _by_disk(needs: Iterable[DiskNeed]) -> Iterator[tuple[Path, list[DiskNeed], float, int]]:
    """(a folder on it, needs, bytes still to be written, bytes free) for each file system."""
    by_device: dict[int, list[DiskNeed]] = defaultdict(list)
    for need in needs:
        by_device[_existing(need.folder).stat().st_dev].append(need)
    for found in by_device.values():
        place = _existing(found[0].folder)
        left = sum(need.bytes_left for need in found)
        yield place, found, left, shutil.disk_usage(place).free


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def _advice(keys: list[str]) -> str:
    unique = ", ".join(dict.fromkeys(keys))
    lower = f"a smaller {unique} needs less; " if unique else ""
    return f"{lower}SYSTEM.OUTPUT_ROOT or --output-root may name another disk"
