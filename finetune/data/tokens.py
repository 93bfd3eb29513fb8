"""Tokenized samples, flat in memory, and their padding to batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.examples import Examples
from finetune.data.token_counts import COLUMNS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """Tokenized samples without padding.

    columns: `input_ids` (int32) and maybe `token_type_ids` (uint8), the samples one after the
    other; sample i is [offsets[i], offsets[i + 1]).
    """

    columns: dict[str, np.ndarray]
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def places(self, samples: np.ndarray) -> np.ndarray:
        """Returns the positions of the tokens of some samples in the columns."""
        ranges = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in samples]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)


@dataclass(frozen=True)
class Encoded(Tokens):
    """A tokenized split.

    labels: as the task's type makes them, empty for a split without labels. examples: the source
    without its texts, which would take most of the memory. counts, unknown_words: see
    `count_tokens`.
    """

    labels: np.ndarray
    examples: Examples
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, len(COLUMNS)), np.int32))
    unknown_words: tuple[str, ...] = ()


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Concatenates one or more parts."""
    names = parts[0].columns
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in names}
    lengths = np.concatenate([part.lengths for part in parts])
    return Tokens(columns, np.concatenate([[0], np.cumsum(lengths)]))


@dataclass(frozen=True)
class Padding:
    """Pads samples to equal length.

    values: padding by column. multiple: lengths are rounded up to a multiple of it.
    """

    values: dict[str, int]
    on_the_left: bool = False
    multiple: int = 1

    def batch(self, tokens: Tokens, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns samples as [n, length] int64 arrays by column, with an `attention_mask` if any
        is padded."""
        starts = tokens.offsets[indices]
        lengths = tokens.offsets[indices + 1] - starts
        length = -(-max(1, int(lengths.max())) // self.multiple) * self.multiple
        before = length - lengths if self.on_the_left else np.zeros_like(lengths)
        positions = np.arange(length) - before[:, None]
        is_real = (positions >= 0) & (positions < lengths[:, None])
        places = np.where(is_real, starts[:, None] + positions, 0)
        batch = {
            name: np.where(is_real, flat[places], self.values[name]).astype(np.int64)
            for name, flat in tokens.columns.items()
        }
        return batch if is_real.all() else batch | {"attention_mask": is_real.astype(np.int64)}


def padding_of(tokenizer: "PreTrainedTokenizerBase", multiple: int = 1) -> Padding:
    values = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": tokenizer.pad_token_type_id,
    }
    return Padding(values, tokenizer.padding_side == "left", multiple)
