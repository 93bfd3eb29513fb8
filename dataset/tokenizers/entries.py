"""Entries of a vocabulary without the spelling conventions of their tokenizer.

`##ing` (WordPiece), `ing` (BPE, SentencePiece), `Ġing` and `▁ing` spell the same text; they differ
in their place within a word.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dataset.tokenizers.tokenizer_files import iter_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE_LEVEL_MARKER = "Ġ"  # a space, in byte-level models
METASPACE_MARKER = "▁"  # a space, in SentencePiece models
# Spelling of a byte in SentencePiece models; smaller ones have entries of their own as characters.
BYTE = re.compile("<0x([89A-F][0-9A-F])>")
# Bytes that byte-level models spell as the character of the same number; the others follow as
# characters from 256 on (GPT-2).
SAME_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


class WordMarks(NamedTuple):
    """prefix: of entries that continue a word. marker: of entries that begin one. Or ""."""

    prefix: str
    marker: str


class Entry(NamedTuple):
    """text: UTF-8, perhaps a part of a character. begins_word: None if the entry can stand in both
    places, as punctuation does in WordPiece, or if the tokenizer has no marks."""

    text: bytes
    begins_word: bool | None


def word_marks(content: Mapping[str, Any]) -> WordMarks:
    """Returns the marks of a tokenizer.json, by its model and its pre-tokenizer."""
    markers = (
        step.get("replacement", BYTE_LEVEL_MARKER)
        for step in iter_steps(content, "pre_tokenizer")
        if step.get("type") in ("ByteLevel", "Metaspace")
    )
    return WordMarks(content["model"].get("continuing_subword_prefix") or "", next(markers, ""))


def entry_marks(tokenizer: "Tokenizer") -> WordMarks:
    """Returns the marks, also of SentencePiece models that mark words in their normalisation."""
    content = json.loads(tokenizer.to_str())
    marks = word_marks(content)
    if not any(marks) and _replaces_spaces(content):
        return WordMarks("", METASPACE_MARKER)
    return marks


def read_entries(tokenizer: "Tokenizer") -> dict[int, Entry]:
    """Returns the entry of each id, ascending, without added tokens."""
    content, marks = json.loads(tokenizer.to_str()), entry_marks(tokenizer)
    added = {token["id"] for token in content["added_tokens"]}
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    ids = sorted((i, entry) for entry, i in vocabulary.items() if i not in added)
    if marks.prefix:
        return {i: _of_wordpiece(entry, marks.prefix, tokenizer) for i, entry in ids}
    if marks.marker == BYTE_LEVEL_MARKER:
        return {i: _of_byte_level(entry) for i, entry in ids}
    if marks.marker:
        has_bytes = bool(content["model"].get("byte_fallback"))
        return {i: _of_metaspace(entry, marks.marker, has_bytes) for i, entry in ids}
    begins = True if content["model"].get("type") == "WordLevel" else None
    return {i: Entry(entry.encode(), begins) for i, entry in ids}


def _replaces_spaces(content: Mapping[str, Any]) -> bool:
    """True if the normalisation replaces spaces by marks, as Llama's and Gemma's."""
    return any(
        step.get("type") in ("Replace", "Prepend")
        and METASPACE_MARKER in (step.get("content"), step.get("prepend"))
        for step in iter_steps(content, "normalizer")
    )


def _of_wordpiece(entry: str, prefix: str, tokenizer: "Tokenizer") -> Entry:
    if entry.startswith(prefix) and entry != prefix:
        return Entry(entry.removeprefix(prefix).encode(), False)
    is_isolated = len(entry) == 1 and _is_isolated(entry, tokenizer)
    return Entry(entry.encode(), None if is_isolated else True)


def _is_isolated(character: str, tokenizer: "Tokenizer") -> bool:
    """True if a character is always a word of its own."""
    text = f"a{character}"
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    split = tokenizer.pre_tokenizer
    return split is not None and len(split.pre_tokenize_str(text)) > 1


def _of_byte_level(entry: str) -> Entry:
    begins = entry.startswith(BYTE_LEVEL_MARKER) and entry != BYTE_LEVEL_MARKER
    letters = entry.removeprefix(BYTE_LEVEL_MARKER) if begins else entry
    try:
        return Entry(bytes(BYTE_OF[letter] for letter in letters), begins)
    except KeyError:  # not an entry that the model can find in a text
        return Entry(entry.encode(), begins)


def _bytes_by_letter() -> Iterator[tuple[str, int]]:
    yield from ((chr(byte), byte) for byte in SAME_BYTES)
    others = (byte for byte in range(256) if byte not in SAME_BYTES)
    yield from ((chr(256 + number), byte) for number, byte in enumerate(others))


BYTE_OF = dict(_bytes_by_letter())
LETTER_OF = {byte: letter for letter, byte in BYTE_OF.items()}


def _of_metaspace(entry: str, marker: str, has_bytes: bool) -> Entry:
    if entry.startswith(marker) and entry != marker:
        return Entry(entry.removeprefix(marker).encode(), True)
    found = BYTE.fullmatch(entry) if has_bytes else None
    return Entry(bytes.fromhex(found[1]) if found else entry.encode(), False)


def inner_spelling(text: str, marks: WordMarks) -> str:
    """Returns a text within a word as entries of a model with these marks spell it.

    Without the prefix of WordPiece.
    """
    if marks.marker == BYTE_LEVEL_MARKER:
        return "".join(LETTER_OF[byte] for byte in text.encode())
    return text
