"""Tokenized splits, kept flat in memory and shared by all jobs of a worker process."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.examples import Examples, load_examples
from finetune.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Samples that are tokenized at once: bounds the memory that Python lists of ids take.
CHUNK = 8192
# Splits that a process keeps: all those of the tasks that it is likely to come back to.
CACHED_SPLITS = 32


@dataclass(frozen=True)
class Encoded:
    """A tokenized split without padding; a map-style dataset of what a data collator takes.

    columns: `input_ids` (int32) and maybe `token_type_ids` (uint8), the samples one after the
    other; sample i is [offsets[i], offsets[i + 1]). labels: [N] int64 classes or float32 scores,
    or empty. examples: what was tokenized.
    """

    columns: dict[str, np.ndarray]
    offsets: np.ndarray
    labels: np.ndarray
    examples: Examples

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict:
        span = slice(self.offsets[index], self.offsets[index + 1])
        sample = {name: flat[span].tolist() for name, flat in self.columns.items()}
        if len(self.labels):
            sample["labels"] = self.labels[index].item()
        return sample

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[tuple[str, ...]],
    max_length: int,
    token_types: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns and offsets of an `Encoded`; the longer sentence of a pair is truncated first."""
    dtypes = {"input_ids": np.int32} | ({"token_type_ids": np.uint8} if token_types else {})
    parts = {name: [np.empty(0, dtype)] for name, dtype in dtypes.items()}
    lengths = [0]
    for start in range(0, len(texts), CHUNK):
        columns = [list(column) for column in zip(*texts[start : start + CHUNK], strict=True)]
        batch = tokenizer(
            *columns,
            truncation=True,
            max_length=max_length,
            return_token_type_ids=token_types,
            return_attention_mask=False,
        )
        lengths += [len(ids) for ids in batch["input_ids"]]
        for name, dtype in dtypes.items():
            parts[name].append(np.array([i for ids in batch[name] for i in ids], dtype))
    flat = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return flat, np.cumsum(lengths)


@functools.lru_cache(maxsize=2)
def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@functools.lru_cache(maxsize=CACHED_SPLITS)
def load_encoded(
    task: Task, split_name: str, data_dir: str, model: str, max_length: int, token_types: bool
) -> Encoded:
    """A split of a task as the model's tokenizer sees it; token_types: with `token_type_ids`."""
    split = next(split for split in task.splits if split.name == split_name)
    examples = load_examples(task, split, data_dir)
    columns, offsets = encode(load_tokenizer(model), examples.texts, max_length, token_types)
    labels = np.array(examples.labels, np.float32 if task.is_regression else np.int64)
    return Encoded(columns, offsets, labels, examples)
