"""How much unknown text is too much, and why it may be unknown."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.text_files import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shares of characters behind unknown tokens: above the first there is a warning, above the second
# nothing can be learned.
WARN_SHARE = 0.03
ERROR_SHARE = 0.90
SHOWN_WORDS = 3
LONG_WORD = 100  # characters that WordPiece takes of a word


def _without_accents(word: str) -> str:
    letters = unicodedata.normalize("NFD", word)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


# What would make the words known, and what that says about the tokenizer.
_REMEDIES: tuple[tuple[Callable[[str], str], str], ...] = (
    (
        str.lower,
        "casing (they are known in lower case, which this tokenizer does not make of them)",
    ),
    (str.upper, "casing (they are known in capitals only)"),
    (str.capitalize, "casing (they are known with a capital letter)"),
    (_without_accents, "accents (they are known without)"),
    (lambda word: _without_accents(word.lower()), "casing and accents"),
    (lambda word: unicodedata.normalize("NFC", word), "accents (they are known in Unicode's NFC)"),
    (lambda word: unicodedata.normalize("NFD", word), "accents (they are known in Unicode's NFD)"),
)
_ANY = "casing, accents, or another language than the vocabulary's"


def likely_cause(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> str:
    """Why most of the text of these words is unknown, as far as they tell."""
    if not words:
        return ""
    enough = sum(map(len, words)) / 2
    if sum(len(word) for word in words if len(word) > LONG_WORD) > enough:
        return f"words of more than {LONG_WORD} characters"
    if not tokenizer.is_fast:
        return _ANY
    model = tokenizer.backend_tokenizer.model

    def is_known(word: str) -> bool:  # with what the tokenizer does to a text left aside
        tokens = model.tokenize(word)
        return bool(tokens) and all(token.id != tokenizer.unk_token_id for token in tokens)

    for remedy, cause in _REMEDIES:
        if sum(len(word) for word in words if is_known(remedy(word))) > enough:
            return cause
    return _script_of(tokenizer, words) or _ANY


def _script_of(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> str:
    """Of words whose letters the vocabulary mostly lacks."""
    known = set("".join(tokenizer.get_vocab()))
    letters = [letter for word in words for letter in word if letter.isalpha()]
    lacking = [letter for letter in letters if letter not in known]
    if len(lacking) <= len(letters) / 2:
        return ""
    script = Counter(map(_script, lacking)).most_common(1)[0][0]
    if any(_script(letter) == script for letter in known if letter.isalpha()):
        return ""
    return f"another script than the vocabulary's (it lacks their {script} letters)"


def _script(letter: str) -> str:
    """`latin`, `cyrillic`, `cjk`: with that the name of each letter begins."""
    return unicodedata.name(letter, "").partition(" ")[0].lower()


def unknown_in_words(share: float, where: str, words: Sequence[str], cause: str) -> str:
    """share: of the characters. where: what text it is of."""
    like = ", ".join(repr(shown(word)) for word in list(dict.fromkeys(words))[:SHOWN_WORDS])
    examples = f", like {like}" if like else ""
    return (
        f"{100 * share:.1f} % of the characters of {where} are unknown to the model's tokenizer"
        f"{examples}; likely cause: {cause or _ANY}"
    )
