"""Tokenizes splits and caches them, flat in memory, for all jobs of a worker process."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.examples import Examples, find_file, load_examples
from finetune.data.model_tokenizer import check_agreement
from finetune.data.tasks import Split, Task
from finetune.data.token_counts import COLUMNS, KEPT_WORDS, count_tokens
from pipeline.errors import StageError
from pipeline.hub.models import refusing_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 8192  # samples tokenized at once: bounds the memory of Python lists of ids
CACHED_SPLITS = 32  # in a process: those of all tasks that it is likely to need again


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


@dataclass(frozen=True)
class Encoded(Tokens):
    """A tokenized split.

    labels: [N] int64 classes or float32 scores, or empty. examples: the source without its texts,
    which would take most of the memory. counts, unknown_words: see `count_tokens`.
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


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[tuple[str, ...]],
    max_length: int,
    token_types: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns columns, offsets, counts and unknown words of an `Encoded`.

    The longer sentence of a pair is truncated first.
    """
    dtypes = {"input_ids": np.int32} | ({"token_type_ids": np.uint8} if token_types else {})
    parts = {name: [np.empty(0, dtype)] for name, dtype in dtypes.items()}
    lengths, counts = [0], [np.empty((0, len(COLUMNS)), np.int32)]
    words: dict[str, None] = {}
    for start in range(0, len(texts), CHUNK):
        rows = texts[start : start + CHUNK]
        columns = [list(column) for column in zip(*rows, strict=True)]
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
        counted, unknown = count_tokens(tokenizer, rows, batch["input_ids"], max_length)
        counts.append(counted)
        words |= dict.fromkeys(unknown)
    flat = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return flat, np.cumsum(lengths), np.concatenate(counts), tuple(words)[:KEPT_WORDS]


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of a checkpoint; without a padding token it pads with its end of text.

    Raises StageError if it has neither, if it has only special tokens, or if it needs code.
    """
    return _load_tokenizer(model, _stamps(Path(model)))


@functools.lru_cache(maxsize=2)
def _load_tokenizer(model: str, _stamps: tuple) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    with refusing_code(model):
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one up
        raise StageError(f"{model}: no tokenizer, expected tokenizer.json or a vocabulary there")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise StageError(
            f"{model}: its tokenizer has no pad_token and no eos_token, expected one to pad with"
        )
    return tokenizer


def load_encoded(
    task: Task, split_name: str, data_dir: str, model: str, max_length: int, token_types: bool
) -> Encoded:
    """Returns a tokenized split. token_types: True for `token_type_ids`.

    Caches it until its file or the tokenizer changes: workers outlive searches.
    """
    split = next(split for split in task.splits if split.name == split_name)
    path = find_file(split, Path(data_dir)) if data_dir else None
    stamps = _stamps(Path(model)), _stamps(path) if path else ()
    return _load_encoded(task, split, data_dir, model, max_length, token_types, stamps)


@functools.lru_cache(maxsize=CACHED_SPLITS)
def _load_encoded(
    task: Task,
    split: Split,
    data_dir: str,
    model: str,
    max_length: int,
    token_types: bool,
    _stamps: tuple,
) -> Encoded:
    examples, tokenizer = load_examples(task, split, data_dir), load_tokenizer(model)
    check_agreement(model, tokenizer, examples.texts)
    columns, offsets, counts, words = encode(tokenizer, examples.texts, max_length, token_types)
    labels = np.array(examples.labels, np.float32 if task.is_regression else np.int64)
    return Encoded(columns, offsets, labels, replace(examples, texts=[]), counts, words)


def _stamps(path: Path) -> tuple:
    """Returns path, mtime and size of a file or of a folder's files; () for a name on the Hub."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
