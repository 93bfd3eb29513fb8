"""Encodes text to token ids, several times faster than the tokenizer itself.

BERT's normalisation and word splitting do not look across white space, so the ids of a text are
those of its words, one after the other, and each distinct word is tokenized only once. The encoder
checks this property of its tokenizer. Without it, as for byte-level BPE that treats a text's first
word differently, the tokenizer encodes the running text.
"""

import json
import string
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dataset.tokenizers.formats import LONG_RUN
from dataset.tokenizers.load import CorpusTokenizer

if TYPE_CHECKING:
    import numpy as np

# Steps of `tokenizers` that treat each word by itself, if single spaces separate the words.
NORMALIZERS = {"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD"}
PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits"}
# A first step that removes spaces, which later steps would make part of a word.
WHITESPACE_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
ISOLATES_PUNCTUATION = {"BertPreTokenizer"}
MODELS = {"WordPiece", "BPE", "WordLevel"}
# Words to test the property on, in case the lists above overlook something.
PROBE = (
    "Zürich's naïve co-operation, (e.g.) cost 1,000.50€; don't! 東京タワー Ελλάδας İstanbul ﬁne "
    "e\u0301tude \u0301x of\u200bthe نص עִברִית हिन्दी 🙂👩‍🔬 "
    "x\u0007y 'tis ## ##ing a##b [MASK] [UNK]ish ..."
)
MAX_CACHE_BYTES = 56_000_000  # in each half of the cache: about 400,000 words
ENTRY_BYTES = 128  # overhead of a word in a dictionary, without its letters and ids


class WordEncoder:
    """Encodes text to ids in uint16, or in int32 for large vocabularies."""

    def __init__(self, tokenizer: CorpusTokenizer, max_cache_bytes: int = MAX_CACHE_BYTES):
        self.tokenizer = tokenizer
        self.id_code = "H" if tokenizer.vocab_size <= 1 << 16 else "i"  # uint16, int32
        independent = words_are_independent(tokenizer)
        self.words = _WordCache(self, max_cache_bytes) if independent else None

    def encode(self, texts: Sequence[bytes]) -> "list[np.ndarray]":
        """Returns the ids [n] of each text (UTF-8, a sentence per line), without special tokens.

        A line end counts as a space. Raises ValueError if a text is not UTF-8.
        """
        import numpy as np

        if self.words is not None:
            return self._encode_words(self.words, texts)
        ids = self.tokenizer.encode([text.decode().replace("\n", " ") for text in texts])
        return [np.frombuffer(self.as_bytes(some), dtype=self.id_code) for some in ids]

    def _encode_words(self, cache: "_WordCache", texts: Sequence[bytes]) -> "list[np.ndarray]":
        """Looks up each distinct word once, as Python's lookups are slow."""
        import numpy as np
        import pyarrow
        import pyarrow.compute

        words = pyarrow.compute.ascii_split_whitespace(pyarrow.array(texts, pyarrow.string()))
        coded = words.values.dictionary_encode()
        distinct = coded.dictionary.cast(pyarrow.binary()).to_pylist()
        found = list(map(cache.__getitem__, distinct))
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


class _WordCache(dict[bytes, bytes]):
    """Maps words to ids, as bytes. Evicts the words that were not used lately."""

    def __init__(self, encoder: WordEncoder, max_bytes: int):
        super().__init__()
        self.encoder = encoder
        self.max_bytes, self.num_bytes = max_bytes, 0
        self.older: dict[bytes, bytes] = {}
        pre_tokenizer = _steps(encoder.tokenizer, "pre_tokenizer")
        isolates = {step["type"] for step in pre_tokenizer} & ISOLATES_PUNCTUATION
        # An added token that matches normalised text may contain punctuation in any spelling.
        safe = not any(token.normalized for token in _added(encoder.tokenizer))
        self.isolated = string.punctuation.encode() if isolates and safe else b""
        self.atomic = [token.encode() for token in encoder.tokenizer.atomic_tokens]

    def __missing__(self, word: bytes) -> bytes:
        if not word:  # white space at the border of a text
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
        """Encodes a word without its punctuation, if that makes words of its own: more hits."""
        core = word.strip(self.isolated) if self.isolated else word
        if core in (word, b"") or any(token in word for token in self.atomic):
            library = self.encoder.tokenizer.tokenizer
            found = library.encode(word.decode(), add_special_tokens=False)
            return self.encoder.as_bytes(found.ids)
        before, after = word.split(core, 1)
        return self._punctuation(before) + self[core] + self._punctuation(after)

    def _punctuation(self, marks: bytes) -> bytes:
        return b"".join([self[marks[i : i + 1]] for i in range(len(marks))])


def words_are_independent(tokenizer: CorpusTokenizer) -> bool:
    """True if the ids of a text are those of its words, separated by single spaces."""
    normalizer, pre_tokenizer = (_steps(tokenizer, x) for x in ("normalizer", "pre_tokenizer"))
    model = json.loads(tokenizer.tokenizer.model.__getstate__())
    first = pre_tokenizer[0]["type"] if pre_tokenizer else ""
    # Does a single word get the leading space of a word in a text? Not after an added token, nor
    # where normalisation inserts a space.
    inserts_spaces = any(step["type"] in ("NFKC", "NFKD") for step in normalizer)
    same_space = first == "ByteLevel" and not inserts_spaces and not tokenizer.atomic_tokens
    by_word = (
        all(step["type"] in NORMALIZERS for step in normalizer)
        and (first in WHITESPACE_SPLITTERS or same_space)
        and all(_splits_at_spaces(step) for step in pre_tokenizer)
        and model.get("type", "BPE") in MODELS
        and not any(set(t.content) & set(string.whitespace) for t in _added(tokenizer))
    )
    if not by_word:
        return False
    words = [*PROBE.split(), *(f"({token}," for token in tokenizer.atomic_tokens)]
    together = tokenizer.encode([" ".join(words)])[0]
    return together == [token for ids in tokenizer.encode(words) for token in ids]


def _splits_at_spaces(step: Mapping[str, Any]) -> bool:
    if step["type"] == "ByteLevel":  # treats a word and its leading space as one
        return step["add_prefix_space"] and step["use_regex"]
    if step["type"] == "Split":  # cuts long runs without white space
        return step["pattern"].get("Regex") == LONG_RUN and step["behavior"] == "Isolated"
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme") == "always" and step.get("split", True)
    return step["type"] in PRE_TOKENIZERS


def _steps(tokenizer: CorpusTokenizer, name: str) -> list[dict[str, Any]]:
    """Returns the steps of the normalizer or the pre_tokenizer, as in tokenizer.json."""
    step = getattr(tokenizer.tokenizer, name)
    if step is None:
        return []
    state = json.loads(step.__getstate__())
    return state.get("normalizers") or state.get("pretokenizers") or [state]


def _added(tokenizer: CorpusTokenizer) -> list[Any]:
    return list(tokenizer.tokenizer.get_added_tokens_decoder().values())
