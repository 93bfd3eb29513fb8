"""Thresholds for unknown text, and likely causes of it.

One unknown token hides a word of any length, so shares are those of characters.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset.tokenizers.library import habits_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WARNING_SHARE = 0.03  # of the characters
ERROR_SHARE = 0.9  # from which on nothing can be learned
LONG_WORD = 100  # characters that WordPiece takes of a word
CAUSE_SHARE = 0.5  # of what is unknown, that a cause must explain
NAMED = 5  # characters in a message
TRIED_WORDS = 2000
OWN = "a vocab.txt, or TOKENIZER.TRAIN,"  # which take settings, as other tokenizers do not


@dataclass(frozen=True)
class Cause:
    """why: completes `likely cause: `. remedy: a setting for the dataset that helps, or empty."""

    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return self.why + (f" ({self.remedy})" if self.remedy else "")


def num_characters(text: str) -> int:
    """Counts characters, without white space."""
    return len("".join(text.split()))


def without_accents(text: str) -> str:
    marked = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in marked if not unicodedata.combining(letter))


TOO_LONG = Cause(
    f"words of more than {LONG_WORD} characters, which WordPiece takes for unknown",
    "a vocab.txt, or TOKENIZER.TRAIN, has them cut",
)
CASE_TAKEN = Cause(
    "casing, as the vocabulary has these words with their capitals",
    f"{OWN} takes TOKENIZER.DO_LOWER_CASE False",
)
MARKS_TAKEN = Cause(
    "accents and other marks that the tokenizer takes away and the vocabulary has",
    f"{OWN} takes TOKENIZER.ACCENTS keep, or TOKENIZER.MODEL bpe",
)
# Other forms of unknown words, and the cause if the vocabulary knows that form.
FORMS: tuple[tuple[Callable[[str], str], Cause], ...] = (
    (
        str.lower,
        Cause(
            "casing, as the vocabulary has these words in lower case",
            f"{OWN} takes TOKENIZER.DO_LOWER_CASE True",
        ),
    ),
    (str.upper, Cause("casing, as the vocabulary is in capitals")),
    (str.capitalize, Cause("casing, as the vocabulary has these words with a capital letter")),
    (
        without_accents,
        Cause(
            "accents, as the vocabulary has these words without",
            f"{OWN} takes TOKENIZER.ACCENTS strip",
        ),
    ),
    (lambda word: without_accents(word.lower()), Cause("casing and accents")),
    (
        lambda word: unicodedata.normalize("NFC", word),
        Cause("accents, as the vocabulary has composed characters (NFC) and the text has not"),
    ),
    (
        lambda word: unicodedata.normalize("NFD", word),
        Cause("accents, as the vocabulary has decomposed characters (NFD) and the text has not"),
    ),
    (" ".join, Cause("characters in a row that the vocabulary has one by one")),
)


def likely_cause(tokenizer: "Tokenizer", unknown_id: int, words: Mapping[str, int]) -> Cause:
    """Names the first form that makes most of the unknown text known, or what the vocabulary lacks.

    words: how often each occurs.
    """
    frequent = dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:TRIED_WORDS])
    weights = {word: num_characters(word) * count for word, count in frequent.items()}
    enough = CAUSE_SHARE * sum(weights.values())

    def helps(form: Callable[[str], str]) -> bool:
        known = (
            weight
            for word, weight in weights.items()
            if is_known(tokenizer, unknown_id, form(word))
        )
        return sum(known) > enough

    if sum(weight for word, weight in weights.items() if len(word) > LONG_WORD) > enough:
        return TOO_LONG
    normalizer = tokenizer.normalizer
    lowers, _ = habits_of(normalizer)
    if lowers and helps(str.lower):
        return MARKS_TAKEN
    if helps(str):
        return CASE_TAKEN if lowers else MARKS_TAKEN
    for form, cause in FORMS:
        if helps(lambda word, form=form: form(word.lower() if lowers else word)):
            return cause
    return _lacking(tokenizer, frequent)


def _lacking(tokenizer: "Tokenizer", words: Mapping[str, int]) -> Cause:
    """Names characters of the normalised words that no entry of the vocabulary has."""
    normalizer = tokenizer.normalizer
    alphabet = set("".join(tokenizer.get_vocab(with_added_tokens=False)))
    counts: dict[str, int] = {}
    for word, count in words.items():
        for letter in normalizer.normalize_str(word) if normalizer else word:
            if letter not in alphabet and not letter.isspace():
                counts[letter] = counts.get(letter, 0) + count
    if not counts:
        return Cause("a vocabulary that was made for other text")
    most = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return Cause(f"characters that the vocabulary lacks ({', '.join(map(name_of, most[:NAMED]))})")


def is_known(tokenizer: "Tokenizer", unknown_id: int, word: str) -> bool:
    """True if the vocabulary spells a word as it stands, without any normalisation."""
    split = tokenizer.pre_tokenizer
    parts = [part for part, _ in split.pre_tokenize_str(word)] if split else [word]
    try:
        tokens = [token for part in parts for token in tokenizer.model.tokenize(part)]
    except Exception:  # of a model that has nothing for unknown text
        return False
    return bool(tokens) and all(token.id != unknown_id for token in tokens)


def name_of(letter: str) -> str:
    return f"U+{ord(letter):04X} {unicodedata.name(letter, '')}".strip()
