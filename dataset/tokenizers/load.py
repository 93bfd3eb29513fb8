"""Loads the tokenizer of a dataset for pretraining."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.tokenizers.entries import BYTE_LEVEL_MARKER, word_marks
from dataset.tokenizers.special_tokens import text_of
from dataset.tokenizers.tokenizer_files import (
    NAME_KEY,
    SPECIAL_TOKENS,
    entries_of,
    read_object,
    read_tokenizer_json,
    tokenizer_of,
)
from pipeline.errors import StageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNUSED_TOKEN = "[unused"  # prefix of unused entries in BERT's vocabularies
# First and last character of the East Asian scripts without spaces: each begins a word.
WORD_CHARACTERS = ("\u2e80", "\u9fff")


@dataclass(frozen=True)
class CorpusTokenizer:
    """A tokenizer with the ids that masking needs.

    special_ids: id by role (pad_token, unk_token, cls_token, sep_token, mask_token).
    banned_ids: special and unused tokens, neither predicted nor random replacements.
    atomic_tokens: added tokens that are one token wherever a text spells them.
    """

    tokenizer: "Tokenizer"
    special_ids: dict[str, int]
    banned_ids: tuple[int, ...]
    vocab_size: int
    atomic_tokens: tuple[str, ...] = ()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each sentence, without special tokens and truncation."""
        encodings = self.tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def continuing_ids(self) -> tuple[int, ...]:
        """Returns the tokens that continue a word, ascending, for whole-word masking.

        WordPiece marks them (`##`). Other models mark the beginning of a word (`Ġ`, `▁`): a token
        without the mark continues a word unless it begins with punctuation or a Chinese character.
        Empty for models without marks.
        """
        content = json.loads(self.tokenizer.to_str())
        prefix, marker = word_marks(content)
        if not prefix and not marker:
            return ()
        added = {token["id"] for token in content["added_tokens"]}
        ids = {token: i for token, i in self.tokenizer.get_vocab().items() if i not in added}
        if prefix:
            return tuple(sorted(i for token, i in ids.items() if token.startswith(prefix)))
        return tuple(sorted(i for token, i in ids.items() if _continues_word(token, marker)))


def _continues_word(token: str, marker: str) -> bool:
    from tokenizers.decoders import ByteLevel

    if token.startswith(marker):
        return False
    text = ByteLevel().decode([token]) if marker == BYTE_LEVEL_MARKER else token
    first, last = WORD_CHARACTERS
    # A part of a character, as in byte-level models, is part of a word.
    return text.startswith("\ufffd") or (text[:1].isalnum() and not first <= text[0] <= last)


def load_tokenizer(folder: Path) -> CorpusTokenizer:
    """Loads a folder written by build_tokenizer or train_tokenizer.

    The five special tokens, like `[MASK]`, are ordinary text when a text spells them. Other added
    tokens, like those of TOKENIZER.SPECIAL_TOKENS, are one token wherever they occur, as in
    finetuning. Raises StageError if one of the five is missing, or a file is damaged.
    """
    path, roles = folder / "tokenizer.json", _read_roles(folder)
    content = read_tokenizer_json(path)
    ids = entries_of(content)
    missing = [role for role, token in roles.items() if token not in ids]
    if missing:
        raise StageError(f"{NAME_KEY}: {folder} has no {', '.join(missing)}, expected BERT's")
    special_ids = {role: ids[token] for role, token in roles.items()}
    banned = _banned_ids(ids, content["added_tokens"]) | set(special_ids.values())
    atomic = [token for token in content["added_tokens"] if token["content"] not in roles.values()]
    for token in atomic:
        token["special"] = False
    tokenizer = tokenizer_of(content, path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text
    names = tuple(token["content"] for token in atomic)
    return CorpusTokenizer(
        tokenizer, special_ids, tuple(sorted(banned)), max(ids.values()) + 1, names
    )


def _read_roles(folder: Path) -> dict[str, str]:
    """Returns the special token by role, from a folder's tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    settings = read_object(path)
    roles = {role: text_of(settings.get(role) or own) for role, own in SPECIAL_TOKENS.items()}
    for role, token in roles.items():
        if token is None:
            raise StageError(f"{NAME_KEY}: {path}: {role} is not text")
    return roles


def _banned_ids(ids: Mapping[str, int], added_tokens: Sequence[Mapping[str, Any]]) -> set[int]:
    """Returns the ids of special tokens and unused entries, and ids without an entry."""
    special = {token["id"] for token in added_tokens if token["special"]}
    unused = {ids[entry] for entry in ids if entry.startswith(UNUSED_TOKEN) and entry[-1] == "]"}
    return special | unused | set(range(max(ids.values()) + 1)) - set(ids.values())
