"""Loaded tokenizers: the ids of special, unused and continuing tokens."""

from dataset.tokenizers.build import build_tokenizer
from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.tokenizer_files import read_vocabulary
from tests.dataset.tokenizer_folders import BERT


def test_continuing_ids(vocabulary, tmp_path):
    build_tokenizer(str(vocabulary), True, tmp_path / "tokenizer")
    entries = read_vocabulary(vocabulary)
    expected = [i for i, entry in enumerate(entries) if entry.startswith("##")]
    assert load_tokenizer(tmp_path / "tokenizer").continuing_ids() == tuple(expected)


def test_continuing_ids_of_a_sentencepiece_model(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    entries = [*BERT, "▁run", "ning", "▁", ",", "7", "中", "é"]
    tokenizer = Tokenizer(models.Unigram([(entry, -1.0) for entry in entries], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(BERT)
    (tmp_path / "source").mkdir()
    tokenizer.save(str(tmp_path / "source/tokenizer.json"))
    build_tokenizer(str(tmp_path / "source"), False, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert [entries[i] for i in loaded.continuing_ids()] == ["ning", "7", "é"]
    assert loaded.vocab_size == len(entries)


def test_a_text_that_spells_a_special_token_is_text(tmp_path):
    entries = [*BERT, "[", "]"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries))
    build_tokenizer(str(tmp_path / "vocab.txt"), False, tmp_path / "tokenizer")
    ids = load_tokenizer(tmp_path / "tokenizer").encode(["[MASK]"])[0]
    assert [entries[i] for i in ids] == ["[", "[UNK]", "]"]


def test_special_and_unused_tokens_are_banned(vocabulary, tmp_path):
    build_tokenizer(str(vocabulary), True, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.banned_ids == (0, 1, 2, 3, 4, 5, 6)
    assert loaded.vocab_size == len(read_vocabulary(vocabulary))
