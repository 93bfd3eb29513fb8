"""Matches the entries of a new vocabulary with those of the model's old one.

Entries match if they spell the same text at the same place within a word, whatever the conventions
of the two tokenizers (dataset.tokenizers.entries). Special tokens match by their role, and other
added tokens by their text. An entry without a match gets a second chance in the form in which the
old tokenizer reads it: `Heart` matches `heart` if the old tokenizer lower-cases. An old entry in
capitals never matches a new one in lower case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dataset.tokenizers.entries import Entry, entry_marks, inner_spelling, read_entries
from dataset.tokenizers.load import CorpusTokenizer

if TYPE_CHECKING:
    import numpy as np

NO_ROW = -1


@dataclass(frozen=True)
class Matches:
    """rows: the old id of each new id, int64 [new size], NO_ROW without a match. num_normalised:
    how many match only in the form that the old tokenizer reads."""

    rows: "np.ndarray"
    num_normalised: int

    @property
    def is_shared(self) -> "np.ndarray":
        """Bool [new size]."""
        return self.rows != NO_ROW

    @property
    def num_shared(self) -> int:
        return int(self.is_shared.sum())

    def __str__(self) -> str:
        text = f"{self.num_shared:,} of {len(self.rows):,} entries are shared"
        if self.num_normalised:
            text += f" ({self.num_normalised:,} of them as the old tokenizer reads them)"
        return text


def match_entries(new: CorpusTokenizer, old: CorpusTokenizer) -> Matches:
    """Returns the old row of each new entry."""
    import numpy as np

    old_words = OldWords(old)
    rows = np.full(new.vocab_size, NO_ROW, np.int64)
    num_normalised = 0
    is_same_kind = entry_marks(new.tokenizer) == old_words.marks
    for number, entry in read_entries(new.tokenizer).items():
        row = old_words.find(entry, is_same_kind)
        if row is None:
            row = old_words.find_normalised(entry, is_same_kind)
            num_normalised += row is not None
        if row is not None:
            rows[number] = row
    for number, row in _added_tokens(new, old):
        rows[number] = row
    return Matches(rows, num_normalised)


def _added_tokens(new: CorpusTokenizer, old: CorpusTokenizer) -> Iterator[tuple[int, int]]:
    """Yields (new id, old id) of special tokens of the same role, and of other added tokens."""
    old_ids = old.tokenizer.get_vocab()
    old_roles = set(old.special_ids.values())
    for number, token in new.tokenizer.get_added_tokens_decoder().items():
        row = old_ids.get(token.content)
        if row is not None and row not in old_roles:
            yield number, row
    for role, number in new.special_ids.items():
        yield number, old.special_ids[role]


class OldWords:
    """The old vocabulary, to look up entries and to spell texts."""

    def __init__(self, old: CorpusTokenizer):
        self.old = old
        roles = set(old.special_ids.values())
        entries = read_entries(old.tokenizer)
        self.rows: dict[Entry, int] = {}
        for number, entry in entries.items():
            if number not in roles:
                self.rows.setdefault(entry, number)
        self.marks = entry_marks(old.tokenizer)

    def find(self, entry: Entry, is_same_kind: bool) -> int | None:
        """Returns the row of an entry; None without one.

        is_same_kind: True if both tokenizers mark words alike. Otherwise a punctuation mark within
        the running text of one is a word of its own in the other.
        """
        either = Entry(entry.text, None)
        forms = [entry, either] if is_same_kind else [either, entry]
        if entry.begins_word is None:
            forms += [Entry(entry.text, place) for place in _likely_places(entry)]
        return next((self.rows[form] for form in forms if form in self.rows), None)

    def find_normalised(self, entry: Entry, is_same_kind: bool) -> int | None:
        """Returns the row of an entry as the old tokenizer normalises it; None without one."""
        text = self._normalised(entry)
        if text is None or text == entry.text.decode():
            return None
        return self.find(Entry(text.encode(), entry.begins_word), is_same_kind)

    def _normalised(self, entry: Entry) -> str | None:
        """Returns the text without the marks of words that some normalizers add."""
        normalizer = self.old.tokenizer.normalizer
        try:
            text = entry.text.decode()
        except UnicodeDecodeError:  # a part of a character
            return None
        if normalizer is not None:
            text = normalizer.normalize_str(text).replace("▁", " ").strip()
        return text if text.split() == [text] else None

    def pieces(self, entry: Entry) -> list[int]:
        """Returns the rows with which the old tokenizer spells an entry, without unknown ones."""
        tokenizer, unknown = self.old.tokenizer, self.old.special_ids["unk_token"]
        try:
            text = entry.text.decode()
        except UnicodeDecodeError:
            ids = [self.rows.get(Entry(bytes([byte]), False), unknown) for byte in entry.text]
            return [number for number in ids if number != unknown]
        ids = self._inner_pieces(text) if entry.begins_word is False else []
        known = [number for number in ids if number != unknown]
        if not known:
            ids = tokenizer.encode(self._space + text, add_special_tokens=False).ids
        return known or [number for number in ids if number != unknown]

    def _inner_pieces(self, text: str) -> list[int]:
        """Returns the rows of a text within a word."""
        normalised = self._normalised(Entry(text.encode(), False))
        if not normalised:
            return []
        spelled = inner_spelling(normalised, self.marks)
        return [token.id for token in self._inner_model.tokenize(spelled)]

    @cached_property
    def _space(self) -> str:
        """The space before a text that begins a word, unless the tokenizer marks its first word."""
        first = self.old.tokenizer.encode("a", add_special_tokens=False).tokens
        return "" if first and first[0].startswith(self.marks.marker) else " "

    @cached_property
    def _inner_model(self):
        """The model of a tokenizer; one of WordPiece reads every text as the end of a word."""
        from tokenizers import models

        tokenizer, prefix = self.old.tokenizer, self.marks.prefix
        if not prefix:
            return tokenizer.model
        unknown = tokenizer.id_to_token(self.old.special_ids["unk_token"])
        inner = {
            entry: number
            for entry, number in tokenizer.get_vocab().items()
            if entry.startswith(prefix) and entry != prefix
        }
        bare = {entry.removeprefix(prefix): number for entry, number in inner.items()}
        ids = {**bare, **inner, unknown: self.old.special_ids["unk_token"]}
        return models.WordPiece(ids, unk_token=unknown, continuing_subword_prefix=prefix)


def _likely_places(entry: Entry) -> tuple[bool, bool]:
    """Returns the places in a word to look for an entry that can stand in both.

    Most punctuation follows a word without a space.
    """
    is_word = entry.text.decode(errors="replace").isalnum()
    return (True, False) if is_word else (False, True)
