"""Text to token ids, at several times the speed of the tokenizer itself.

BERT's normalisation and word splitting do not look across white space, so the ids of a text are
those of its words, one after the other, and a word need be tokenized only once. Whether that holds
is checked for the tokenizer at hand; where it does not, the running text goes through the
tokenizer: to byte-level BPE, say, the space in front of a word is part of it.
"""

import json
import string
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dataset.tokenizers.formats import LONG_RUN

if TYPE_CHECKING:
    import numpy as np

    from dataset.tokenizers.build import CorpusTokenizer

# Steps of `tokenizers` that treat every word for itself, if words are parted by single spaces.
NORMALIZERS = {"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD"}
PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits"}
# A first step that leaves no space to those behind it, to which it would be part of a word.
WHITESPACE_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
ISOLATES_PUNCTUATION = {"BertPreTokenizer"}
MODELS = {"WordPiece", "BPE", "WordLevel"}
# Words to try it out on: what the list above overlooks should show here.
PROBE = (
    "Zürich's naïve co-operation, (e.g.) cost 1,000.50€; don't! 東京タワー Ελλάδας İstanbul ﬁne "
    "e\u0301tude \u0301x of\u200bthe نص עִברִית हिन्दी 🙂👩‍🔬 "
    "x\u0007y 'tis ## ##ing a##b [MASK] [UNK]ish ..."
)
MAX_CACHE_BYTES = 56_000_000  # in each half of the cache: some 400,000 words
ENTRY_BYTES = 128  # of a word in a dictionary, besides its letters and its ids


class WordEncoder:
    """Token ids of text, as uint16 or, for large vocabularies, as int32."""

    def __init__(self, tokenizer: "CorpusTokenizer", max_cache_bytes: int = MAX_CACHE_BYTES):
        self.tokenizer = tokenizer
        self.id_code = "H" if tokenizer.vocab_size <= 1 << 16 else "i"  # uint16, int32
        independent = words_are_independent(tokenizer)
        self.words = _WordCache(self, max_cache_bytes) if independent else None

    def encode(self, texts: Sequence[bytes]) -> "list[np.ndarray]":
        """Ids [n] of each text (UTF-8, sentences on lines of their own), without special tokens.

        They are those of the running text: a line end is a space. Raises ValueError if a text is
        not UTF-8.
        """
        import numpy as np

        if self.words is not None:
            return self._encode_words(texts)
        ids = self.tokenizer.encode([text.decode().replace("\n", " ") for text in texts])
        return [np.frombuffer(self.as_bytes(some), dtype=self.id_code) for some in ids]

    def _encode_words(self, texts: Sequence[bytes]) -> "list[np.ndarray]":
        """Looks up each distinct word once: a word's way into the cache is a long one."""
        import numpy as np
        import pyarrow
        import pyarrow.compute

        words = pyarrow.compute.ascii_split_whitespace(pyarrow.array(texts, pyarrow.string()))
        coded = words.values.dictionary_encode()
        distinct = coded.dictionary.cast(pyarrow.binary()).to_pylist()
        found = list(map(self.words.__getitem__, distinct))
        distinct_ids = np.frombuffer(b"".join(found), dtype=self.id_code)
        sizes = np.fromiter(map(len, found), np.int64, len(found)) // distinct_ids.itemsize
        begins = np.cumsum(sizes) - sizes

        word = coded.indices.to_numpy()
        word_sizes = sizes[word]
        ends = np.concatenate([[0], np.cumsum(word_sizes)])
        places = np.repeat(begins[word] - ends[:-1], word_sizes) + np.arange(ends[-1])
        ids = distinct_ids[places]
        borders = ends[words.offsets.to_numpy()].tolist()
        return [ids[begin:end] for begin, end in pairwise(borders)]

    def as_bytes(self, ids: list[int]) -> bytes:
        return array(self.id_code, ids).tobytes()


class _WordCache(dict):
    """Ids, as bytes, by word. Of what was not used lately, it forgets what does not fit."""

    def __init__(self, encoder: WordEncoder, max_bytes: int):
        super().__init__()
        self.encoder = encoder
        self.max_bytes, self.num_bytes = max_bytes, 0
        self.older: dict[bytes, bytes] = {}
        pre_tokenizer = _parts(encoder.tokenizer, "pre_tokenizer")
        isolates = {step["type"] for step in pre_tokenizer} & ISOLATES_PUNCTUATION
        # Tokens that are looked for in normalised text may hold punctuation in any spelling.
        safe = not any(token.normalized for token in _added(encoder.tokenizer))
        self.isolated = string.punctuation.encode() if isolates and safe else b""
        self.atomic = [token.encode() for token in encoder.tokenizer.atomic_tokens]

    def __missing__(self, word: bytes) -> bytes:
        if not word:  # in front of white space at a text's border
            return b""
        ids = self.older.get(word) or self._encode(word)
        if self.num_bytes >= self.max_bytes:
            self.older = dict(self)
            self.clear()
            self.num_bytes = 0
        self.num_bytes += len(word) + len(ids) + ENTRY_BYTES
        self[word] = ids
        return ids

    def _encode(self, word: bytes) -> bytes:
        """Punctuation around a word is a word of its own to some: more words are known then."""
        core = word.strip(self.isolated) if self.isolated else word
        if core == word or not core or (self.atomic and self._holds_atomic(word)):
            library = self.encoder.tokenizer.tokenizer
            found = library.encode(word.decode(), add_special_tokens=False)
            return self.encoder.as_bytes(found.ids)
        begin = word.index(core)
        end = begin + len(core)
        ids = self[core]
        if begin:
            ids = self._punctuation(word[:begin]) + ids
        if end < len(word):
            ids += self._punctuation(word[end:])
        return ids

    def _holds_atomic(self, word: bytes) -> bool:
        return any(token in word for token in self.atomic)

    def _punctuation(self, marks: bytes) -> bytes:
        if len(marks) == 1:
            return self[marks]
        return b"".join([self[marks[i : i + 1]] for i in range(len(marks))])


def words_are_independent(tokenizer: "CorpusTokenizer") -> bool:
    """Whether the ids of a text are those of its words, parted by single spaces."""
    steps = {name: _parts(tokenizer, name) for name in ("normalizer", "pre_tokenizer")}
    model = json.loads(tokenizer.tokenizer.model.__getstate__())
    by_word = (
        all(step["type"] in NORMALIZERS for step in steps["normalizer"])
        and steps["pre_tokenizer"] != []
        and (_drops_spaces(steps) or _keeps_spaces_apart(tokenizer, steps))
        and all(_splits_at_spaces(step) for step in steps["pre_tokenizer"])
        and model.get("type", "BPE") in MODELS
        and not model.get("dropout")
        and not any(set(t.content) & set(string.whitespace) for t in _added(tokenizer))
    )
    if not by_word:
        return False
    words = [*PROBE.split(), *(f"({token}," for token in tokenizer.atomic_tokens)]
    together = tokenizer.encode([" ".join(words)])[0]
    return together == [token for ids in tokenizer.encode(words) for token in ids]


def _drops_spaces(steps: dict[str, list[dict[str, Any]]]) -> bool:
    return steps["pre_tokenizer"][0]["type"] in WHITESPACE_SPLITTERS


def _keeps_spaces_apart(
    tokenizer: "CorpusTokenizer", steps: dict[str, list[dict[str, Any]]]
) -> bool:
    """True if words alone have the space in front that they have in a text.

    They would have another one behind an added token, or where normalisation makes a space.
    """
    makes_spaces = any(step["type"] in ("NFKC", "NFKD") for step in steps["normalizer"])
    is_byte_level = steps["pre_tokenizer"][0]["type"] == "ByteLevel"
    return is_byte_level and not makes_spaces and not tokenizer.atomic_tokens


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":  # a word and the space in front of it are one to it
        return step["add_prefix_space"] and step["use_regex"]
    if step["type"] == "Split":  # of long runs, which hold no white space
        return step["pattern"].get("Regex") == LONG_RUN and step["behavior"] == "Isolated"
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme") == "always" and step.get("split", True)
    return step["type"] in PRE_TOKENIZERS


def _parts(tokenizer: "CorpusTokenizer", name: str) -> list[dict[str, Any]]:
    """The steps of the normalizer or the pre_tokenizer, as tokenizer.json has them."""
    step = getattr(tokenizer.tokenizer, name)
    if step is None:
        return []
    state = json.loads(step.__getstate__())
    return state.get("normalizers") or state.get("pretokenizers") or [state]


def _added(tokenizer: "CorpusTokenizer") -> list:
    return list(tokenizer.tokenizer.get_added_tokens_decoder().values())
