"""Loads the tokenizer of a checkpoint, and tokenizes texts and pairs of texts."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.token_counts import COLUMNS, KEPT_WORDS, count_tokens
from pipeline.errors import StageError
from pipeline.hub.models import refusing_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 8192  # samples tokenized at once: bounds the memory of Python lists of ids


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
    return _load_tokenizer(model, file_stamps(Path(model)))


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


def file_stamps(path: Path) -> tuple:
    """Returns path, mtime and size of a file or of a folder's files; () for a name on the Hub."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
