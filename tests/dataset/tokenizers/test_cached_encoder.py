"""The cache of words gives what the tokenizer gives, to the letter."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from dataset.sources.article_stream import Tally, clean_text
from dataset.tokenizers.build import build_tokenizer
from dataset.tokenizers.cached_encoder import ENTRY_BYTES, WordEncoder, words_are_independent
from dataset.tokenizers.load import load_tokenizer

ALPHABETS = (
    st.characters(codec="utf-8"),  # anything
    st.sampled_from("abzAZ019 .,-'#()[]\n\t"),
    st.sampled_from("東京漢字々仮名かな한국어𠀀"),
    st.sampled_from("éüñç\u0301\u0308\u0327\u0489ßİıſﬁ"),
    st.sampled_from(
        "\u200b\u200c\u200d\ufeff\u00ad\x00\x01\x07\x1b\x1c\x1f\x7f\x85\xa0\u2028\u3000"
    ),
    st.sampled_from("שלוםعربيहिन्दीไทย"),
    st.sampled_from("🙂👩‍🔬🏳️‍🌈§¿…—“”€"),
)
TEXT = st.lists(st.one_of(*(st.text(letters, max_size=12) for letters in ALPHABETS)), max_size=12)


def as_corpus(parts):
    """Random text as it stands in a shard: cleaned, its white space made single spaces."""
    raw = "".join(parts).encode("utf-8", "surrogatepass")
    return " ".join(clean_text(raw, Tally()).split())


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request, vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    build_tokenizer(str(vocabulary), request.param, folder)
    return load_tokenizer(folder)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(TEXT)
def test_ids_are_those_of_the_library(tokenizer, parts):
    text = as_corpus(parts)
    encoder = WordEncoder(tokenizer)
    assert encoder.words is not None
    expected = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    assert encoder.encode([text.encode()])[0].tolist() == expected
    assert encoder.encode([text.encode()])[0].tolist() == expected  # now from the cache


@settings(deadline=None, max_examples=50)
@given(TEXT, st.integers(1, 700))
def test_a_small_cache_changes_nothing(tokenizer, parts, max_cache_bytes):
    text = as_corpus(parts).encode()
    encoder = WordEncoder(tokenizer, max_cache_bytes)
    expected = WordEncoder(tokenizer).encode([text])[0].tolist()
    assert [encoder.encode([text])[0].tolist() for _ in range(2)] == [expected, expected]
    most = max_cache_bytes // ENTRY_BYTES + 2  # a word's punctuation may come on top
    assert len(encoder.words) <= most and len(encoder.words.older) <= most


def test_the_cache_is_bounded_by_the_length_of_words_too(tokenizer):
    encoder = WordEncoder(tokenizer, 10_000)
    text = b" ".join(b"%04d" % number * 100 for number in range(200))
    expected = tokenizer.encode([text.decode()])[0]
    assert encoder.encode([text])[0].tolist() == expected
    held = [*encoder.words, *encoder.words.older]
    assert sum(map(len, held)) < 2 * 11_000


def bpe(pre_tokenizer, normalizer=None, unk="[UNK]"):
    """A BPE tokenizer with one merge."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "▁"]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*specials, *letters, "th"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h")], unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def loaded(tokenizer, folder):
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


@settings(deadline=None, max_examples=100)
@given(TEXT)
def test_byte_level_bpe_is_exact_too(tmp_path_factory, parts):
    step = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = loaded(bpe(step), tmp_path_factory.mktemp("bpe") / "tokenizer")
    text = as_corpus(parts)
    encoder = WordEncoder(tokenizer)
    assert encoder.words is not None
    assert encoder.encode([text.encode()])[0].tolist() == tokenizer.encode([text])[0]


@pytest.mark.parametrize(
    "inexact",
    [
        bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
        bpe(pre_tokenizers.ByteLevel(), normalizers.Replace("a b", "c")),
        bpe(pre_tokenizers.Split(" t", "isolated")),
    ],
    ids=["no prefix space", "replaces across words", "splits in a way of its own"],
)
def test_where_words_are_not_independent_the_running_text_is_tokenized(tmp_path, inexact):
    tokenizer = loaded(inexact, tmp_path / "tokenizer")
    assert not words_are_independent(tokenizer)
    encoder = WordEncoder(tokenizer)
    lines = ["the a b", "other", "the the"]
    expected = tokenizer.encode([" ".join(lines)])[0]
    assert encoder.encode(["\n".join(lines).encode()])[0].tolist() == expected


@pytest.mark.parametrize("text", ["a [ENT] b", "([ENT]), x", "[ENT][ENT]!", "[ent] [MASK] [SEP]."])
def test_tokens_of_the_users_own_stay_whole(tokenizer, tmp_path, text):
    tokenizer.tokenizer.save(str(tmp_path / "t.json"))
    other = Tokenizer.from_file(str(tmp_path / "t.json"))
    other.add_special_tokens(["[ENT]"])
    own = loaded(other, tmp_path / "tokenizer")
    encoder = WordEncoder(own)
    assert encoder.words is not None
    assert encoder.encode([text.encode()])[0].tolist() == own.encode([text])[0]
    assert (own.tokenizer.token_to_id("[ENT]") in encoder.encode([text.encode()])[0]) == (
        "ENT" in text
    )


@pytest.mark.parametrize("text", ["c++ C++ (C++),", "u.s.a. U.S.A. the U.S.A.", "(E.G.) e.g."])
def test_added_tokens_that_are_looked_for_in_normalised_text(tokenizer, tmp_path, text):
    tokenizer.tokenizer.save(str(tmp_path / "t.json"))
    other = Tokenizer.from_file(str(tmp_path / "t.json"))
    other.add_tokens(["C++", "U.S.A.", "e.g."])
    own = loaded(other, tmp_path / "tokenizer")
    assert WordEncoder(own).encode([text.encode()])[0].tolist() == own.encode([text])[0]


def test_an_added_token_with_a_space_is_not_a_word(tokenizer, tmp_path):
    tokenizer.tokenizer.save(str(tmp_path / "t.json"))
    other = Tokenizer.from_file(str(tmp_path / "t.json"))
    other.add_tokens([AddedToken("new york")])
    assert not words_are_independent(loaded(other, tmp_path / "tokenizer"))


@pytest.mark.slow
def test_large_vocabularies_have_large_ids(tmp_path):
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(70_000))]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
    build_tokenizer(str(tmp_path / "vocab.txt"), True, tmp_path / "tokenizer")
    ids = WordEncoder(load_tokenizer(tmp_path / "tokenizer")).encode([b"w0 w69999"])[0]
    assert ids.dtype == np.int32 and ids.tolist() == [5, 70_004]


@pytest.mark.slow
def test_the_shared_corpus(shared_data, tmp_path):
    build_tokenizer(str(shared_data / "vocab/bert-uncased-vocab.txt"), True, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    encoder = WordEncoder(tokenizer)
    for path in sorted((shared_data / "corpora").rglob("*.txt"))[::7]:
        text = path.read_text(encoding="utf-8")[:60_000]
        text = re.sub(r"[\x1c-\x1f]", " ", text)
        assert encoder.encode([text.encode()])[0].tolist() == tokenizer.encode([text])[0]
