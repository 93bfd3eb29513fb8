"""Compares two readers of one tokenizer on text; a difference is an error that shows both results.

What pretraining read as a word must not be [UNK] in finetuning, or for the user of the export.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.user_files.file_checks import shown

Encode = Callable[[Sequence[str]], list[list[int]]]  # texts to the ids of each
MAX_TOKENS = 8  # in a message


@dataclass(frozen=True)
class Difference:
    """A short text, and the ids that the first and the second reader give it."""

    text: str
    ours: list[int]
    theirs: list[int]

    def described(self, names: tuple[str, str], token_of: Callable[[int], str | None]) -> str:
        """Returns one line. names: of both readers. token_of: returns an id's token."""

        def words(ids: list[int]) -> str:
            tokens = " ".join(shown(token_of(i) or "?") for i in ids[:MAX_TOKENS])
            more = " ..." if len(ids) > MAX_TOKENS else ""
            return f"{tokens}{more} ({', '.join(map(str, ids[:MAX_TOKENS]))}{more})"

        first, second = names
        return (
            f"`{shown(self.text)}` is {words(self.ours)} to {first}, but {words(self.theirs)} to "
            f"{second}"
        )


def find_difference(ours: Encode, theirs: Encode, texts: Sequence[str]) -> Difference | None:
    """Finds the first text that both encode differently, cut down to the words that matter."""
    for text, mine, other in zip(texts, ours(texts), theirs(texts), strict=True):
        if list(mine) != list(other):
            return _cut_down(ours, theirs, text)
    return None


def _cut_down(ours: Encode, theirs: Encode, text: str) -> Difference:
    """Leaves away words behind, then in front of, the place where the ids begin to differ."""

    def differs(words: Sequence[str]) -> bool:
        part = [" ".join(words)]
        return list(ours(part)[0]) != list(theirs(part)[0])

    words = text.split(" ")
    end = _first(lambda number: differs(words[:number]), len(words))
    start = end - _first(lambda number: differs(words[end - number : end]), end)
    part = " ".join(words[start:end])
    if not differs([part]):  # of words that only together are read in two ways
        part = text
    return Difference(part, list(ours([part])[0]), list(theirs([part])[0]))


def _first(holds: Callable[[int], bool], most: int) -> int:
    """Finds the least number up to `most` for which `holds`, by bisection."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
