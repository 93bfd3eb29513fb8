"""How much unknown text is too much for a tokenizer, and why it may be unknown.

One unknown token hides a word of any length, so shares are those of characters.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WARNING_SHARE = 0.03  # of the characters
ERROR_SHARE = 0.9  # from which on nothing can be learned
LONG_WORD = 100  # characters that WordPiece takes of a word
CAUSE_SHARE = 0.5  # of what is unknown, that a cause must explain
NAMED = 5  # characters in a message
TRIED_WORDS = 2000


@dataclass(frozen=True)
class Cause:
    """why: completes `likely cause: `. remedy: a setting for the dataset that helps, or empty."""

    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return self.why + (f" ({self.remedy})" if self.remedy else "")


def num_characters(text: str) -> int:
    """Without white space."""
    return len("".join(text.split()))


def without_accents(text: str) -> str:
    marked = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in marked if not unicodedata.combining(letter))


TOO_LONG = Cause(
    f"words of more than {LONG_WORD} characters, which WordPiece takes for unknown",
    "a vocab.txt, or TOKENIZER.TRAIN, has them cut",
)
# Other forms of unknown words, and the cause if the vocabulary knows that form.
FORMS: tuple[tuple[Callable[[str], str], Cause], ...] = (
    (
        str,
        Cause(
            "casing or accents, which the vocabulary has and the tokenizer takes away",
            "TOKENIZER.DO_LOWER_CASE False or TOKENIZER.ACCENTS keep leaves them",
        ),
    ),
    (
        str.lower,
        Cause(
            "casing, as the vocabulary has these words in lower case",
            "TOKENIZER.DO_LOWER_CASE True",
        ),
    ),
    (str.upper, Cause("casing, as the vocabulary is in capitals")),
    (str.capitalize, Cause("casing, as the vocabulary has these words with a capital letter")),
    (
        without_accents,
        Cause("accents, as the vocabulary has these words without", "TOKENIZER.ACCENTS strip"),
    ),
    (
        lambda word: without_accents(word.lower()),
        Cause("casing and accents", "TOKENIZER.DO_LOWER_CASE True"),
    ),
    (
        lambda word: unicodedata.normalize("NFC", word),
        Cause("accents, as the vocabulary has composed characters (NFC) and the text has not"),
    ),
    (
        lambda word: unicodedata.normalize("NFD", word),
        Cause("accents, as the vocabulary has decomposed characters (NFD) and the text has not"),
    ),
    (" ".join, Cause("Chinese characters in a row, which the vocabulary has one by one")),
)


def likely_cause(tokenizer: "Tokenizer", unknown_id: int, words: Mapping[str, int]) -> Cause:
    """The first form that makes most of the unknown text known, or else what the vocabulary lacks.

    words: how often each occurs.
    """
    frequent = dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:TRIED_WORDS])
    weights = {word: num_characters(word) * count for word, count in frequent.items()}
    enough = CAUSE_SHARE * sum(weights.values())
    if sum(weight for word, weight in weights.items() if len(word) > LONG_WORD) > enough:
        return TOO_LONG
    for form, cause in FORMS:
        known = (
            weight
            for word, weight in weights.items()
            if is_known(tokenizer, unknown_id, form(word))
        )
        if sum(known) > enough:
            return cause
    alphabet = set("".join(tokenizer.get_vocab(with_added_tokens=False)))
    lacking: dict[str, int] = {}
    for word, count in frequent.items():
        for letter in word:
            if letter not in alphabet:
                lacking[letter] = lacking.get(letter, 0) + count
    if not lacking:
        return Cause("a vocabulary that was made for other text")
    most = sorted(lacking, key=lambda letter: (-lacking[letter], letter))
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
