"""Tokenizes texts with words to tag, and cuts those too long for the model into windows.

Windows overlap by a quarter or more, and are spread evenly. A word belongs to one window: the one
with the most tokens around it there. Only there is it trained on and predicted, so each word counts
once, with context on both sides.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset.tokenizers.unknown_text import num_characters
from finetune.data.examples import Examples
from finetune.data.token_counts import COLUMNS, KEPT_WORDS
from finetune.data.tokens import Encoded
from pipeline.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 256  # texts tokenized at once: they can be long
OVERLAP = 4  # neighbours share a quarter of a window
# Windows begin at least 3/8 of their size apart, so a token is in three of them at most.
MOST_WINDOWS = 3
NO_PLACE = -1


@dataclass(frozen=True)
class EncodedWords(Encoded):
    """A tokenized split with words to tag. Its samples are windows; its examples keep their texts.

    labels: [T] int64, of all tokens. firsts: [W] int64, the first token of each word in the
    columns, -1 for a word without any (a zero-width space, say). texts: [N + 1] int64; text i has
    the words [texts[i], texts[i + 1]).
    """

    firsts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    texts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))


def encode_words(
    tokenizer: "PreTrainedTokenizerBase", examples: Examples, max_length: int, token_types: bool
) -> EncodedWords:
    """Returns the windows of all texts, without labels. token_types: True for `token_type_ids`.

    The texts are tokenized as running text, as in pretraining and by transformers' pipelines.
    Raises StageError for a tokenizer that does not tell the places of its tokens.
    """
    if not tokenizer.is_fast:
        raise StageError(
            f"{tokenizer.name_or_path}: its tokenizer does not tell the places of its tokens in "
            "the text, expected one with a tokenizer.json"
        )
    size = max(1, max_length - tokenizer.num_special_tokens_to_add())
    windows = _Windows(size, token_types, tokenizer.unk_token_id)
    texts = [text for (text,) in examples.texts]
    for start in range(0, len(texts), CHUNK):
        some = texts[start : start + CHUNK]
        batch = tokenizer(some, truncation=False, return_attention_mask=False, verbose=False)
        words = examples.words[start : start + CHUNK]
        for text, places, encoding in zip(some, words, batch.encodings, strict=True):
            windows.add(text, places, encoding)
    return windows.encoded(examples)


class _Windows:
    """Collects the windows of texts."""

    def __init__(self, size: int, token_types: bool, unknown: int | None):
        self.size, self.unknown = size, unknown
        self.columns = {"input_ids": [np.empty(0, np.int32)]}
        if token_types:
            self.columns["token_type_ids"] = [np.empty(0, np.uint8)]
        self.lengths, self.num_tokens = [0], 0
        self.places = [np.empty(0, np.int64)]
        self.counts: list[tuple[int, ...]] = []
        self.unknown_words: dict[str, None] = {}

    def add(self, text: str, words: np.ndarray, encoding: Any) -> None:
        """Adds a text. words: [n, 2], characters. encoding: one of `tokenizers`, untruncated."""
        is_text = np.array([number == 0 for number in encoding.sequence_ids], bool)
        before = int(is_text.argmax()) if is_text.any() else len(is_text)  # special tokens
        stop = before + int(is_text.sum())
        firsts = first_tokens(words, np.array(encoding.offsets).reshape(-1, 2)[before:stop])
        self._count(text, words[firsts < 0], encoding, slice(before, stop))
        starts = window_starts(stop - before, self.size)
        owners = owning_windows(firsts, starts, self.size, stop - before)
        places = np.full(len(words), NO_PLACE, np.int64)
        tokens = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        for number, start in enumerate(starts):
            owned = owners == number
            if len(starts) > 1 and not owned.any():  # within a long word
                continue
            end = min(start + self.size, stop - before)
            places[owned] = self.num_tokens + before + firsts[owned] - start
            kept = np.r_[:before, before + start : before + end, stop : len(is_text)]
            for name, parts in self.columns.items():
                parts.append(np.array(tokens[name], parts[0].dtype)[kept])
            self.lengths.append(len(kept))
            self.num_tokens += len(kept)
        self.places.append(places)

    def _count(self, text: str, lost: np.ndarray, encoding: Any, inner: slice) -> None:
        """Adds the COLUMNS of a text. lost: its words without tokens, unknown to the model."""
        tokens = zip(encoding.ids[inner], encoding.offsets[inner], strict=True)
        unknown = [text[start:stop] for token, (start, stop) in tokens if token == self.unknown]
        num_lost = sum(num_characters(text[start:stop]) for start, stop in lost)
        num_unknown = num_lost + sum(map(num_characters, unknown))
        num_tokens = inner.stop - inner.start
        self.counts.append((num_tokens, 0, len(unknown), num_characters(text), num_unknown))
        if len(self.unknown_words) < KEPT_WORDS:
            self.unknown_words |= dict.fromkeys(unknown)

    def encoded(self, examples: Examples) -> EncodedWords:
        return EncodedWords(
            {name: np.concatenate(parts) for name, parts in self.columns.items()},
            np.cumsum(self.lengths),
            np.empty(0, np.int64),
            examples,
            np.array(self.counts, np.int32).reshape(-1, len(COLUMNS)),
            tuple(self.unknown_words)[:KEPT_WORDS],
            np.concatenate(self.places),
            np.cumsum([0, *map(len, examples.words)]),
        )


def first_tokens(words: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Returns [n] int64: the first token of each word, -1 for none.

    words, tokens: [n, 2] and [k, 2], characters [start, stop) in the order of the text. A token
    that begins at the blank before a word is the word's.
    """
    firsts = np.full(len(words), NO_PLACE, np.int64)
    owners = np.searchsorted(words[:, 0], tokens[:, 0], side="right") - 1
    owners += (owners < 0) | (tokens[:, 0] >= words[owners, 1])
    real = np.flatnonzero(owners < len(words))[::-1]  # backwards: the first one stays
    firsts[owners[real]] = real
    return firsts


def window_starts(length: int, size: int) -> np.ndarray:
    """Returns the first token of each window over `length` tokens; one window if they fit."""
    if length <= size:
        return np.zeros(1, np.int64)
    step = size - size // OVERLAP
    number = 1 - (size - length) // step
    return np.linspace(0, length - size, number).round().astype(np.int64)


def owning_windows(firsts: np.ndarray, starts: np.ndarray, size: int, length: int) -> np.ndarray:
    """Returns [n] int64: the window of each word, -1 for a word without tokens.

    It holds the word's first token, and the most tokens on the side with fewer of them: before the
    word or after it. The text's ends do not count as a lack. Of equals, the first window counts.
    """
    there = firsts[firsts >= 0]
    stops = np.append(there[1:], length)
    last = np.searchsorted(starts, there, side="right") - 1
    best, most = last.copy(), np.full(len(there), -np.inf)
    for number in (last - back for back in reversed(range(MOST_WINDOWS))):
        start = starts[np.maximum(number, 0)]
        before = np.where(start == 0, np.inf, there - start)
        after = np.where(start + size >= length, np.inf, start + size - stops)
        context = np.minimum(before, after)
        is_better = (number >= 0) & (there < start + size) & (context > most)
        best[is_better], most[is_better] = number[is_better], context[is_better]
    owners = np.full(len(firsts), NO_PLACE, np.int64)
    owners[firsts >= 0] = best
    return owners
