"""Counts truncated and unknown tokens of a task's texts."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset.tokenizers.unknown_text import ERROR_SHARE, WARNING_SHARE, likely_cause, num_characters
from finetune.search.job_folder import ASKED_LENGTH
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WARN_CUT = 0.05  # warns above this share of truncated samples or tokens of a split
# Of each sample before truncation: tokens without special ones, characters without spaces.
COLUMNS = ("tokens", "cut", "unknown", "characters", "unknown_characters")
WHOLE_CHUNK = 64  # samples tokenized at once without truncation; they can be long
KEPT_WORDS = 200  # distinct unknown words of a split, kept to find the cause
SHOWN_WORDS = 3
OTHER_TEXT = "casing, accents, or another language than the vocabulary's"


@dataclass(frozen=True)
class TokenCounts:
    """Sums of `COLUMNS` over a split's samples; num_truncated: samples with tokens cut.

    num_unknown_characters: one unknown token can hide a long word.
    """

    num_samples: int
    num_truncated: int
    num_tokens: int
    num_tokens_cut: int
    num_unknown_tokens: int
    num_characters: int
    num_unknown_characters: int

    @classmethod
    def of(cls, counts: np.ndarray) -> "TokenCounts":
        """counts: [N, len(COLUMNS)]."""
        tokens, cut, *rest = map(int, counts.sum(axis=0, dtype=np.int64))
        truncated = int((counts[:, COLUMNS.index("cut")] > 0).sum())
        return cls(len(counts), truncated, tokens, cut, *rest)

    @property
    def shares(self) -> dict[str, float]:
        return {
            "truncated_share": _share(self.num_truncated, self.num_samples),
            "cut_share": _share(self.num_tokens_cut, self.num_tokens),
            "unknown_share": _share(self.num_unknown_tokens, self.num_tokens),
            "unknown_character_share": _share(self.num_unknown_characters, self.num_characters),
        }


def _share(part: int, whole: int) -> float:
    return min(1.0, part / whole) if whole else 0.0


@dataclass(frozen=True)
class Tokenization:
    """Token counts of a task's splits.

    max_seq_length: tokens per sample, with special ones. asked: the config's length. positions: the
    model's limit, 0 if it has none. splits: counts by split. unknown_words: a selection. cause: the
    likely reason why they are unknown.
    """

    task: str
    max_seq_length: int
    asked: int
    positions: int
    splits: Mapping[str, TokenCounts]
    unknown_words: tuple[str, ...] = ()
    cause: str = ""

    def check(self) -> None:
        """Raises StageError if nearly all of a split is unknown: nothing can be learned then."""
        split, share = self._most_unknown()
        if share > ERROR_SHARE:
            raise StageError(
                f"{self.task}: {unknown_in_words(share, split, self.unknown_words, self.cause)}; "
                "expected texts that the tokenizer knows, or another model"
            )

    def as_json(self) -> dict[str, Any]:
        """Returns a run's record; the asked length only if it differs from the used one."""
        asked = {ASKED_LENGTH: self.asked} if self.asked != self.max_seq_length else {}
        splits = {name: asdict(counts) | counts.shares for name, counts in self.splits.items()}
        return {"max_seq_length": self.max_seq_length, **asked, "tokenization": splits}

    def __str__(self) -> str:
        """Returns `mine: at most 64 tokens per sample; truncated: train 12.0 % of samples (3.0 % of
        tokens); unknown: 0.0 % of tokens (0.0 % of characters)`."""
        truncated = [
            f"{name} {100 * counts.shares['truncated_share']:.1f} % of samples "
            f"({100 * counts.shares['cut_share']:.1f} % of tokens)"
            for name, counts in self.splits.items()
            if counts.num_truncated
        ]
        columns = zip(*map(astuple, self.splits.values()), strict=True)
        total = TokenCounts(*map(sum, columns)).shares
        return (
            f"{self.task}: at most {self.max_seq_length} tokens per sample; "
            f"truncated: {', '.join(truncated) or 'none'}; "
            f"unknown: {100 * total['unknown_share']:.1f} % of tokens "
            f"({100 * total['unknown_character_share']:.1f} % of characters)"
        )

    def warnings(self, key: str) -> Iterator[str]:
        """key: the config key, or the flag, of the length."""
        shares = [counts.shares for counts in self.splits.values()]
        if any(max(found["truncated_share"], found["cut_share"]) > WARN_CUT for found in shares):
            most = max(shares, key=lambda found: found["cut_share"])
            yield (
                f"{self.task}: {100 * most['truncated_share']:.1f} % of samples are "
                f"truncated to {self.max_seq_length} tokens, which drops "
                f"{100 * most['cut_share']:.1f} % of the text; {self._way_out(key)}"
            )
        split, share = self._most_unknown()
        if share > WARNING_SHARE:
            yield f"{self.task}: {unknown_in_words(share, split, self.unknown_words, self.cause)}"

    def _most_unknown(self) -> tuple[str, float]:
        """Returns the split in words, and its share of unknown characters."""
        shares = {
            name: found.shares["unknown_character_share"] for name, found in self.splits.items()
        }
        name = max(shares, key=shares.__getitem__)
        return f"its {name.replace('_', ' ')} set", shares[name]

    def _way_out(self, key: str) -> str:
        if self.positions and self.positions <= self.max_seq_length:
            asked = f", {key} is {self.asked}" if self.asked > self.positions else ""
            return (
                f"the model has only {self.positions} positions{asked}: shorter texts or a model "
                "with more positions would lose less"
            )
        most = f" (the model has {self.positions} positions)" if self.positions else ""
        return f"a larger {key} loses less{most}"


def unknown_in_words(share: float, where: str, words: Sequence[str], cause: str) -> str:
    """share: of the characters. where: names the text."""
    like = ", ".join(repr(shown(word)) for word in list(dict.fromkeys(words))[:SHOWN_WORDS])
    examples = f", like {like}" if like else ""
    return (
        f"{100 * share:.1f} % of the characters of {where} are unknown to the model's tokenizer"
        f"{examples}; likely cause: {cause or OTHER_TEXT}"
    )


def cause_in_words(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> str:
    """Returns the likely cause why these words are unknown, or an empty string."""
    if not words or not tokenizer.is_fast:
        return ""
    found = likely_cause(tokenizer.backend_tokenizer, tokenizer.unk_token_id, Counter(words))
    return found.why


# --- counting ---------------------------------------------------------------------------------


def count_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[tuple[str, ...]],
    ids: Sequence[Sequence[int]],
    max_length: int,
) -> tuple[np.ndarray, list[str]]:
    """Returns COLUMNS of the rows, [N, len(COLUMNS)] int32, and some of their unknown words.

    ids: the rows' tokens, truncated to max_length. Tokenizes only rows again that may be truncated
    or have unknown tokens.
    """
    num_special = tokenizer.num_special_tokens_to_add(pair=len(rows[0]) == 2)
    counts = np.zeros((len(rows), len(COLUMNS)), np.int32)
    counts[:, 0] = [max(0, len(row) - num_special) for row in ids]
    counts[:, 3] = [sum(map(num_characters, row)) for row in rows]
    unknown = tokenizer.unk_token_id
    odd = [i for i, row in enumerate(ids) if len(row) >= max_length or unknown in row]
    words: dict[str, None] = {}
    for start in range(0, len(odd), WHOLE_CHUNK):
        places = odd[start : start + WHOLE_CHUNK]
        columns = [list(column) for column in zip(*(rows[i] for i in places), strict=True)]
        whole = tokenizer(*columns, truncation=False, return_attention_mask=False, verbose=False)
        for number, (place, row) in enumerate(zip(places, whole["input_ids"], strict=True)):
            counts[place, 0] = len(row) - num_special
            counts[place, 1] = len(row) - len(ids[place])
            counts[place, 2] = num_unknown = row.count(unknown)
            if num_unknown and whole.encodings:
                found = _unknown_words(whole.encodings[number], rows[place], unknown)
                counts[place, 4] = sum(map(num_characters, found))
                words |= dict.fromkeys(found) if len(words) < KEPT_WORDS else {}
            elif num_unknown:  # slow tokenizers give no offsets
                counts[place, 4] = round(counts[place, 3] * num_unknown / counts[place, 0])
    lost = counts[:, 0] == 0  # without an unknown token to say so
    counts[lost, 4] = counts[lost, 3]
    return counts, list(words)


def _unknown_words(encoding, row: tuple[str, ...], unknown: int) -> list[str]:
    """Returns the text at the unknown tokens."""
    tokens = zip(encoding.ids, encoding.offsets, encoding.sequence_ids, strict=True)
    return [
        row[text][start:end]
        for token, (start, end), text in tokens
        if token == unknown and text is not None
    ]
