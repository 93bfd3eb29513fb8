"""A sentence of a file of tagged text."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Sentence:
    """tokens: n words, at least one. tags: n tags, or None if the file has none. They are in IOB2
    from `read_tagged`, else in the file's scheme.

    line: of the first token, from 1; in Parquet a row. lines_per_token: 0 if all are in one line.
    document: of the sentences before a -DOCSTART-, of a file, or of a text; from 0. offsets: of a
    text with spans, the characters [start, stop) of each token. num_widened: spans of this text
    that ended within a word.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None
    path: Path
    line: int
    lines_per_token: int = 0
    document: int = 0
    offsets: tuple[tuple[int, int], ...] = ()
    num_widened: int = 0

    def place(self, token: int = 0) -> str:
        """Returns the `file:line` of a token."""
        return place_in(self.path, self.line + token * self.lines_per_token)

    def running_text(self) -> tuple[str, np.ndarray]:
        """Returns the sentence as text, and the characters [start, stop) of each token, [n, 2].

        A blank is between tokens, except where a text with offsets has none.
        """
        is_apart = [False, *[True] * (len(self.tokens) - 1)]
        if self.offsets:
            pairs = pairwise(self.offsets)
            is_apart[1:] = [before[1] < after[0] for before, after in pairs]
        parts = [" " * apart + token for apart, token in zip(is_apart, self.tokens, strict=True)]
        stops = np.cumsum([len(part) for part in parts])
        starts = stops - [len(token) for token in self.tokens]
        return "".join(parts), np.stack([starts, stops], axis=1).astype(np.int32)


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def place_in(path: Path, line: int) -> str:
    """Returns `file:line`, or `file, row number` in Parquet."""
    return f"{path}, row {line}" if is_parquet(path) else f"{path}:{line}"
