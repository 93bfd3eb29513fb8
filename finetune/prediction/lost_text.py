"""Truncated and unknown text of the rows of a prediction."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from dataset.tokenizers.unknown_text import ERROR_SHARE, WARNING_SHARE
from finetune.data.token_counts import WARN_CUT, TokenCounts, cause_in_words, unknown_in_words
from pipeline.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_WORDS = 20
NO_COUNTS = TokenCounts(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class LostText:
    """words: some of the unknown ones."""

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
