"""What somebody might put into a file or a folder so that it runs when it is read."""

import pickle
from pathlib import Path


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


def malicious_pickle(marker: Path) -> bytes:
    """Bytes that make the file `marker` as soon as they are unpickled."""
    return pickle.dumps({"weight": _Bomb(marker)}, protocol=2)  # torch.load's


def malicious_module(marker: Path) -> str:
    """Python code that makes the file `marker` as soon as it is imported."""
    return f"open({str(marker)!r}, 'w')\n"
