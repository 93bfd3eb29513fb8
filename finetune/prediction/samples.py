"""Tokenizes rows of texts for prediction: one truncated sample per row, or windows of its text."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataset.tokenizers.unknown_text import ERROR_SHARE, WARNING_SHARE
from finetune.data.encoding import encode
from finetune.data.token_counts import (
    WARN_CUT,
    TokenCounts,
    cause_in_words,
    count_tokens,
    unknown_in_words,
)
from finetune.data.tokens import Tokens, joined
from pipeline.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetune.prediction.finished_classifiers import FinishedClassifier

Texts = tuple[str, ...]  # of a row, one or two
PIECE_CHARACTERS = 2 << 20  # tokenized at once; a tokenizer needs far more memory than the text
OVERLAP = 4  # neighbouring windows share a fourth of their tokens
KEPT_WORDS = 20
NO_COUNTS = TokenCounts(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class LostText:
    """Truncated and unknown text of rows. words: some of the unknown ones."""

    counts: TokenCounts = NO_COUNTS
    words: tuple[str, ...] = ()

    def __add__(self, other: "LostText") -> "LostText":
        sums = map(sum, zip(astuple(self.counts), astuple(other.counts), strict=True))
        words = tuple(dict.fromkeys((*self.words, *other.words)))[:KEPT_WORDS]
        return LostText(TokenCounts(*sums), words)

    def check(self, where: str, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises StageError if nearly all is unknown: the answers would mean nothing."""
        if self._unknown_share > ERROR_SHARE:
            raise StageError(
                f"{self._unknown(where, tokenizer)}; expected texts that the tokenizer knows, or "
                "another model"
            )

    def warnings(
        self, where: str, tokenizer: "PreTrainedTokenizerBase", max_length: int, way_out: str
    ) -> Iterator[str]:
        """way_out: how less text is truncated."""
        shares = self.counts.shares
        if max(shares["truncated_share"], shares["cut_share"]) > WARN_CUT:
            yield (
                f"{100 * shares['truncated_share']:.1f} % of the rows are truncated to "
                f"{max_length} tokens, which drops {100 * shares['cut_share']:.1f} % of the text; "
                f"{way_out}"
            )
        if self._unknown_share > WARNING_SHARE:
            yield self._unknown(where, tokenizer)

    @property
    def _unknown_share(self) -> float:
        return self.counts.shares["unknown_character_share"]

    def _unknown(self, where: str, tokenizer: "PreTrainedTokenizerBase") -> str:
        cause = cause_in_words(tokenizer, self.words)
        return unknown_in_words(self._unknown_share, where, self.words, cause)


@dataclass(frozen=True)
class Samples:
    """num_windows: [rows] int, the number of each row's samples, which are in order."""

    tokens: Tokens
    num_windows: np.ndarray
    lost: LostText


def samples_of(
    classifier: "FinishedClassifier", rows: Sequence[Texts], has_windows: bool
) -> Samples:
    """Tokenizes one or more rows, piece by piece."""
    tokenize = _windows if has_windows else _truncated
    parts = [tokenize(classifier, piece) for piece in _pieces(rows)]
    return Samples(
        joined([part.tokens for part in parts]),
        np.concatenate([part.num_windows for part in parts]),
        sum((part.lost for part in parts), LostText()),
    )


def _pieces(rows: Sequence[Texts]) -> Iterator[list[Texts]]:
    piece: list[Texts] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += sum(map(len, row))
        if size >= PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _truncated(classifier: "FinishedClassifier", rows: list[Texts]) -> Samples:
    columns, offsets, counts, words = encode(
        classifier.tokenizer, rows, classifier.max_length, classifier.token_types
    )
    lost = LostText(TokenCounts.of(counts), words[:KEPT_WORDS])
    return Samples(Tokens(columns, offsets), np.ones(len(rows), np.int64), lost)


def _windows(classifier: "FinishedClassifier", rows: list[Texts]) -> Samples:
    """Returns overlapping windows of single texts."""
    length, names = classifier.max_length, ["input_ids"]
    if classifier.token_types:
        names.append("token_type_ids")
    batch = classifier.tokenizer(
        [text for (text,) in rows],
        truncation=True,
        max_length=length,
        stride=length // OVERLAP,
        return_overflowing_tokens=True,
        return_token_type_ids=classifier.token_types,
        return_attention_mask=False,
    )
    of_row = np.array(batch["overflow_to_sample_mapping"])
    num_windows = np.bincount(of_row, minlength=len(rows))
    firsts = np.cumsum(num_windows) - num_windows
    counts, words = count_tokens(
        classifier.tokenizer, rows, [batch["input_ids"][i] for i in firsts], length
    )
    counts[:, 1] = 0  # the other windows have the rest
    lengths = [0, *map(len, batch["input_ids"])]
    columns = {name: np.array([i for ids in batch[name] for i in ids], np.int32) for name in names}
    lost = LostText(TokenCounts.of(counts), tuple(words)[:KEPT_WORDS])
    return Samples(Tokens(columns, np.cumsum(lengths)), num_windows, lost)
