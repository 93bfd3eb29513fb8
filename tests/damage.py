"""What a bad disk does to a file."""

import os
from pathlib import Path


def flip_byte(path: Path, place: int = -1) -> None:
    """Another byte, in a file of the same size; its time changes, however coarse the clock is."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
