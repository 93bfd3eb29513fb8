"""Thresholds for unknown text, and its likely causes.

One unknown token hides a word of any length, so shares are shares of the characters.
"""

import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dataset.tokenizers.formats import LONG_WORD
from dataset.tokenizers.tokenizer_files import lower_cases

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WARNING_SHARE = 0.03  # of the characters
ERROR_SHARE = 0.9  # nothing can be learned above it
CAUSE_SHARE = 0.5  # of the unknown text, explained by a cause
NAMED = 5  # characters in a message
TRIED_WORDS = 2000


class Cause(NamedTuple):
    """A cause of unknown text.

    why: completes `likely cause: `. setting: helps with a vocab.txt or TOKENIZER.TRAIN; other
    tokenizers have no such settings.
    """

    why: str
    setting: str = ""

    def __str__(self) -> str:
        advice = f" (with a vocab.txt or TOKENIZER.TRAIN, set {self.setting})"
        return self.why + (advice if self.setting else "")


def num_characters(text: str) -> int:
    """Counts characters, without white space."""
    return len("".join(text.split()))


def without_accents(text: str) -> str:
    marked = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in marked if not unicodedata.combining(letter))


TOO_LONG = Cause(f"words of more than {LONG_WORD} characters, which are unknown to WordPiece")
CASE_TAKEN = Cause(
    "casing, as the vocabulary has these words with capital letters",
    "TOKENIZER.DO_LOWER_CASE False",
)
MARKS_TAKEN = Cause(
    "accents and other marks, which the tokenizer removes but the vocabulary has",
    "TOKENIZER.ACCENTS keep, or TOKENIZER.MODEL bpe",
)
HAS = "as the vocabulary has these words"
# Forms of an unknown word, and the cause if the vocabulary has that form.
FORMS: tuple[tuple[Callable[[str], str], Cause], ...] = (
    (str.lower, Cause(f"casing, {HAS} in lower case", "TOKENIZER.DO_LOWER_CASE True")),
    (str.upper, Cause(f"casing, {HAS} in capitals")),
    (str.capitalize, Cause(f"casing, {HAS} with a capital letter")),
    (without_accents, Cause(f"accents, {HAS} without them", "TOKENIZER.ACCENTS strip")),
    (lambda word: without_accents(word.lower()), Cause("casing and accents")),
    (partial(unicodedata.normalize, "NFC"), Cause(f"accents, {HAS} in composed characters (NFC)")),
    (partial(unicodedata.normalize, "NFD"), Cause(f"accents, {HAS} in decomposed ones (NFD)")),
)


def likely_cause(tokenizer: "Tokenizer", unknown_id: int, words: Mapping[str, int]) -> Cause:
    """Returns the cause for most of the unknown text, or the characters the vocabulary lacks.

    words: how often each unknown word occurs.
    """
    frequent = dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:TRIED_WORDS])
    weights = {word: num_characters(word) * count for word, count in frequent.items()}
    enough = CAUSE_SHARE * sum(weights.values())

    def helps(*forms: Callable[[str], str]) -> bool:
        known = 0
        for word, weight in weights.items():
            for form in forms:
                word = form(word)
            known += weight if _is_known(tokenizer, unknown_id, word) else 0
        return known > enough

    if sum(weight for word, weight in weights.items() if len(word) > LONG_WORD) > enough:
        return TOO_LONG
    lowered = [str.lower] if lower_cases(tokenizer.normalizer) else []
    if lowered and helps(*lowered):
        return MARKS_TAKEN
    if helps():
        return CASE_TAKEN if lowered else MARKS_TAKEN
    for form, cause in FORMS:
        if helps(*lowered, form):
            return cause
    return _missing_characters(tokenizer, frequent)


def _is_known(tokenizer: "Tokenizer", unknown_id: int, word: str) -> bool:
    """True if the vocabulary can spell a word without normalisation."""
    split = tokenizer.pre_tokenizer
    parts = [part for part, _ in split.pre_tokenize_str(word)] if split else [word]
    try:
        tokens = [token for part in parts for token in tokenizer.model.tokenize(part)]
    except Exception:  # from a model without an unknown token
        return False
    return bool(tokens) and all(token.id != unknown_id for token in tokens)


def _missing_characters(tokenizer: "Tokenizer", words: Mapping[str, int]) -> Cause:
    """Names characters of the normalised words that are in no entry of the vocabulary."""
    normalizer = tokenizer.normalizer
    alphabet = set("".join(tokenizer.get_vocab(with_added_tokens=False)))
    counts: dict[str, int] = {}
    for word, count in words.items():
        for letter in normalizer.normalize_str(word) if normalizer else word:
            if letter not in alphabet and not letter.isspace():
                counts[letter] = counts.get(letter, 0) + count
    if not counts:
        return Cause("a vocabulary that was made for other text")
    return Cause(f"characters that the vocabulary lacks ({most_frequent(counts)})")


def most_frequent(counts: Mapping[str, int]) -> str:
    """Names the most frequent letters: `U+0062 LATIN SMALL LETTER B, ...`."""
    frequent = sorted(counts, key=lambda letter: (-counts[letter], letter))[:NAMED]
    return ", ".join(f"U+{ord(x):04X} {unicodedata.name(x, '')}".strip() for x in frequent)
