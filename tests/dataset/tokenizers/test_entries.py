"""Entries of vocabularies without the conventions of their tokenizers."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from dataset.tokenizers.entries import BYTE_OF, Entry, entry_marks, inner_spelling, read_entries
from dataset.tokenizers.formats import bert_pipeline, byte_level_pipeline
from tests.dataset.tokenizer_folders import BERT, metaspace_bpe


def _ids(*entries):
    return {entry: number for number, entry in enumerate(entries)}


def _unigram(*entries):
    tokenizer = Tokenizer(models.Unigram([(entry, -1.0) for entry in entries], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def test_wordpiece():
    tokenizer = bert_pipeline(_ids(*BERT, "heart", "##ed", ",", "中", "##", "€"), True)
    tokenizer.add_special_tokens(BERT)
    found = [*read_entries(tokenizer).values()]
    assert found == [
        Entry(b"heart", True),
        Entry(b"ed", False),
        Entry(b",", None),
        Entry("中".encode(), None),
        Entry(b"##", True),
        Entry("€".encode(), True),  # BERT does not split it off
    ]


def test_byte_level():
    e_acute, first = "Ã©", "Ã"  # é is two bytes, with a character each
    tokenizer = byte_level_pipeline(_ids("Ġheart", "ed", f"Ġ{e_acute}", first, "Ġ"), [], False)
    assert [*read_entries(tokenizer).values()] == [
        Entry(b"heart", True),
        Entry(b"ed", False),
        Entry("é".encode(), True),
        Entry("é".encode()[:1], False),
        Entry(b" ", False),
    ]


def test_every_byte_has_the_letter_that_the_library_gives_it():
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for character in map(chr, range(0x20, 0x250)):
        ((letters, _),) = split.pre_tokenize_str(character)
        assert bytes(BYTE_OF[letter] for letter in letters) == character.encode()
    assert sorted(BYTE_OF) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_sentencepiece():
    found = read_entries(_unigram("▁heart", "ed", "▁"))
    assert [*found.values()] == [
        Entry(b"heart", True),
        Entry(b"ed", False),
        Entry("▁".encode(), False),
    ]


def test_sentencepiece_with_bytes_and_marks_by_the_normalisation():
    tokenizer = metaspace_bpe()
    ids, entries = tokenizer.get_vocab(), read_entries(tokenizer)
    assert entries[ids["▁bo"]] == Entry(b"bo", True)
    assert entries[ids["<0xE4>"]] == Entry(b"\xe4", False)
    assert entries[ids["<0x41>"]] == Entry(b"<0x41>", False)  # "A" has an entry of its own
    assert ids["<s>"] not in entries


def test_without_marks():
    words = Tokenizer(models.WordLevel(_ids("heart"), unk_token="heart"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert read_entries(words) == {0: Entry(b"heart", True)}
    letters = Tokenizer(models.BPE(_ids("h", "he"), [], unk_token="h"))
    assert [*read_entries(letters).values()] == [Entry(b"h", None), Entry(b"he", None)]


@pytest.mark.parametrize(
    ("tokenizer", "spelling"),
    [
        (bert_pipeline(_ids("[UNK]"), True), "é"),
        (byte_level_pipeline(_ids("a"), [], True), "Ã©"),
        (_unigram("a"), "é"),
    ],
)
def test_inner_spelling(tokenizer, spelling):
    assert inner_spelling("é", entry_marks(tokenizer)) == spelling


def test_other_normalisation_is_no_mark():
    tokenizer = Tokenizer(models.BPE(_ids("a"), [], unk_token="a"))
    tokenizer.normalizer = normalizers.Replace("a", "b")
    assert not any(entry_marks(tokenizer))
