"""The base of all predictions: rows of a file, their answers, and the file with both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from finetune.data.tokens import Tokens
from finetune.prediction.finished_classifiers import FinishedClassifier
from finetune.prediction.lost_text import LostText
from finetune.prediction.request import Request

Texts = tuple[str, ...]  # of a row, one or two
Facts = Mapping[str, Any]  # on the file: at least its number of `rows`


@dataclass(frozen=True)
class Samples:
    """The tokenized rows of a piece. about: whatever the job needs for their answers."""

    tokens: Tokens
    lost: LostText
    about: Any = None


class Job(ABC):
    """piece_characters: ends a piece of rows early, for rows of long texts; bounds the memory."""

    piece_characters: ClassVar[int] = 32 << 20

    def __init__(self, request: Request, classifier: FinishedClassifier):
        """Raises ConfigError for arguments that do not fit the file or the model."""
        self.request, self.classifier = request, classifier

    @property
    def where(self) -> str:
        return str(self.request.file)

    # --- the file ---

    @abstractmethod
    def state(self) -> list[Any]:
        """Returns sizes and times of the file, to notice changes."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Returns the options that the answers depend on, by flag."""

    @abstractmethod
    def check(self) -> Facts:
        """Reads all rows; returns facts for `write`. Raises StageError for any malformed row."""

    @abstractmethod
    def check_output(self, facts: Facts) -> None:
        """Raises StageError if the output cannot hold the rows and their answers."""

    @abstractmethod
    def rows(self, start: int) -> Iterator[Any]:
        """Yields the rows from row `start` on."""

    # --- answers, JSON-able ---

    @abstractmethod
    def texts(self, row: Any) -> Texts: ...

    @abstractmethod
    def tokenized(self, rows: Sequence[Any]) -> Samples: ...

    @abstractmethod
    def answers(self, samples: Samples, outputs: np.ndarray) -> list[Any]:
        """Returns an answer per row. outputs: the model's, as `DeviceModel.predict` gives them."""

    # --- the output ---

    @abstractmethod
    def write(self, facts: Facts, answers: Iterator[Any], advance: Callable[[int], None]) -> None:
        """Writes the output at once, complete. advance: told the number of further rows."""

    @abstractmethod
    def summary(self) -> str:
        """Returns the labels' numbers in one line, after `write`."""

    def way_out(self) -> str:
        """Returns how less text is truncated."""
        return "shorter texts lose less"


def pieces(
    rows: Iterable[Any], texts: Callable[[Any], Texts], most_rows: int, most_characters: int
) -> Iterator[list[Any]]:
    """Yields pieces of so many rows, or of fewer long ones. texts: gives those of a row."""
    piece: list[Any] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += sum(map(len, texts(row)))
        if len(piece) == most_rows or size >= most_characters:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
