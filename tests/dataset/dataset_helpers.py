"""What several tests of this folder use."""

from pathlib import Path


def files_of(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Content by relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }
