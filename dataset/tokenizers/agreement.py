"""Compares two readers of one tokenizer on text.

A word known in pretraining must not be [UNK] in finetuning, or to a user of the exported model.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from pipeline.user_files.file_checks import shown

Encode = Callable[[Sequence[str]], list[list[int]]]  # texts to the ids of each
MAX_TOKENS = 8  # in a message


def find_difference(
    ours: tuple[str, Encode],
    theirs: tuple[str, Encode],
    texts: Sequence[str],
    token_of: Callable[[int], str | None],
) -> str:
    """Returns a line on the first text with different ids, reduced to the words that matter, or "".

    ours, theirs: (name, encode) of each reader. token_of: returns the token of an id.
    """
    (our_name, our_encode), (their_name, their_encode) = ours, theirs
    for text, mine, other in zip(texts, our_encode(texts), their_encode(texts), strict=True):
        if list(mine) != list(other):
            text = _reduced(our_encode, their_encode, text)
            first = _in_words(our_encode([text])[0], token_of)
            second = _in_words(their_encode([text])[0], token_of)
            return f"`{shown(text)}` is {first} to {our_name}, but {second} to {their_name}"
    return ""


def _in_words(ids: Sequence[int], token_of: Callable[[int], str | None]) -> str:
    tokens = " ".join(shown(token_of(i) or "?") for i in ids[:MAX_TOKENS])
    more = " ..." if len(ids) > MAX_TOKENS else ""
    return f"{tokens}{more} ({', '.join(map(str, ids[:MAX_TOKENS]))}{more})"


def _reduced(ours: Encode, theirs: Encode, text: str) -> str:
    """Drops the words after, then those before, the first difference."""

    def differs(words: Sequence[str]) -> bool:
        part = [" ".join(words)]
        return list(ours(part)[0]) != list(theirs(part)[0])

    words = text.split(" ")
    end = 1 + bisect_left(range(1, len(words)), True, key=lambda n: differs(words[:n]))
    num_words = 1 + bisect_left(range(1, end), True, key=lambda n: differs(words[end - n : end]))
    part = words[end - num_words : end]
    return " ".join(part) if differs(part) else text
