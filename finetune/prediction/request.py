"""The arguments of a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """The arguments of the command; folder: of the unfinished prediction, which may be there."""

    folder: Path
    model: str
    file: Path
    output: Path
    text_columns: Sequence[str] = ()
    columns: Sequence[str] = ()
    prefix: str = ""
    tag_column: int = 0
    windows: bool = False

    @property
    def ending(self) -> str:
        """The format of the output."""
        return self.output.suffix.lower()
