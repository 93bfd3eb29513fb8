"""Entries of two vocabularies that spell the same."""

import numpy as np
import pytest

from dataset.tokenizers.entries import Entry
from pretrain.transfer.matching import Matches, OldWords, match_entries
from tests.pretrain.transfer.vocabularies import BERT, byte_level, sentencepiece, wordpiece


def _pairs(new, old) -> dict[str, str | None]:
    """Returns the old entry of each new one, both as spelled."""
    rows = match_entries(new, old).rows
    spelled = new.tokenizer.id_to_token, old.tokenizer.id_to_token
    return {spelled[0](i): None if row < 0 else spelled[1](row) for i, row in enumerate(rows)}


def test_the_same_vocabulary_matches_itself(tmp_path):
    entries = ["heart", "##ed", "##,", ",", "[unused1]", "é", "##é"]
    tokenizer = wordpiece(tmp_path / "a", *entries)
    matches = match_entries(tokenizer, tokenizer)
    assert matches.rows.tolist() == list(range(len(BERT) + len(entries)))
    assert str(matches) == "12 of 12 entries are shared"


def test_wordpiece_and_byte_level(tmp_path):
    bpe = byte_level(tmp_path / "bpe", "Ġ h", "a t", "Ġh at", "Ġ ,", "Ã ©")
    pieces = wordpiece(tmp_path / "wordpiece", "hat", "h", "##at", "at", ",", "##,", "##é")
    to_bpe, to_pieces = _pairs(pieces, bpe), _pairs(bpe, pieces)
    assert to_bpe["hat"] == "Ġhat" and to_pieces["Ġhat"] == "hat"
    assert to_bpe["##at"] == "at" and to_pieces["at"] == "##at"
    assert to_bpe["at"] is None  # a word there, a part of one here
    assert to_bpe["##é"] == "Ã©" and to_pieces["Ã©"] == "##é" and to_pieces["Ã"] is None
    # A mark of punctuation is a word of its own in WordPiece, and mostly follows one elsewhere.
    assert to_bpe[","] == "," and to_pieces[","] == to_pieces["Ġ,"] == ","


def test_sentencepiece(tmp_path):
    pieces = wordpiece(tmp_path / "wordpiece", "heart", "##s", ".", "中")
    other = sentencepiece(tmp_path / "other", "▁heart", "s", ".", "▁.", "中", "▁")
    pairs = _pairs(other, pieces)
    assert [pairs[entry] for entry in ("▁heart", "s", ".", "▁.", "中", "▁")] == [
        *("heart", "##s", ".", ".", "中", None)
    ]
    assert _pairs(pieces, other)["."] == "."


def test_special_tokens_match_by_role(tmp_path):
    pairs = _pairs(byte_level(tmp_path / "bpe"), wordpiece(tmp_path / "wordpiece", "<", "s"))
    assert [pairs[token] for token in ("<pad>", "<unk>", "<s>", "</s>", "<mask>")] == BERT


def test_casing_matches_as_the_old_tokenizer_reads_it(tmp_path):
    new = wordpiece(tmp_path / "new", "Heart", "heart", "Café", "##S", "[unused3]", "ORGAN")
    old = wordpiece(tmp_path / "old", "heart", "cafe", "##s", "[unused3]", lower=True)
    pairs = _pairs(new, old)
    assert [pairs[entry] for entry in ("Heart", "heart", "Café", "##S", "ORGAN")] == [
        *("heart", "heart", "cafe", "##s", None)
    ]
    assert pairs["[unused3]"] == "[unused3]"
    assert str(match_entries(new, old)).endswith("(3 of them as the old tokenizer reads them)")


def test_lower_case_never_matches_capitals(tmp_path):
    new = wordpiece(tmp_path / "new", "paris", lower=True)
    assert _pairs(new, wordpiece(tmp_path / "old", "Paris"))["paris"] is None


@pytest.mark.parametrize(
    ("make", "entries", "word", "end"),
    [
        (wordpiece, ("heart", "##ed", "##e", "##d", "ed"), ["heart", "##ed"], ["##ed"]),
        (sentencepiece, ("▁heart", "ed", "▁", "e", "d"), ["▁heart", "ed"], ["ed"]),
        (byte_level, ("Ġ h", "e d", "a r"), ["Ġh", "e", "ar", "t", "ed"], ["ed"]),
    ],
)
def test_pieces(tmp_path, make, entries, word, end):
    old = make(tmp_path / "old", *entries)
    words = OldWords(old)

    def pieces(text, begins):
        return [old.tokenizer.id_to_token(i) for i in words.pieces(Entry(text, begins))]

    assert pieces(b"hearted", True) == word
    assert pieces(b"ed", False) == end


def test_pieces_without_unknown_ones(tmp_path):
    words = OldWords(wordpiece(tmp_path / "old", "heart", ".", lower=True))
    heart, stop = len(BERT), len(BERT) + 1
    assert words.pieces(Entry(b"HEART.", True)) == [heart, stop]
    assert words.pieces(Entry("中".encode(), False)) == []
    assert words.pieces(Entry("é".encode()[:1], False)) == []
    assert words.pieces(Entry(b".", False)) == [stop]  # within a word of the other tokenizer


def test_parts_of_characters_have_bytes_as_pieces(tmp_path):
    old = byte_level(tmp_path / "old")
    (piece,) = OldWords(old).pieces(Entry(b"\xc3", False))
    assert old.tokenizer.id_to_token(piece) == "Ã"


def test_counts():
    assert Matches(np.array([3, -1, 0]), 0).num_shared == 2
