"""Tokenizers: from a vocab.txt, a folder, the corpus; loaded by transformers without a network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.tokenizer import (
    build_tokenizer,
    copy_tokenizer,
    load_tokenizer,
    problem_with_tokenizer,
    read_vocabulary,
    save_bert_tokenizer,
)
from dataset.tokenizer_training import train_tokenizer
from pipeline.errors import StageError

ROOT = Path(__file__).parents[2]
CASED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Paris", "paris", "cafe", "café", "[", "]"]


@pytest.fixture(scope="module")
def cased_vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("cased") / "vocab.txt"
    path.write_text("\n".join(CASED), encoding="utf-8")
    return path


def auto(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("lower", "tokens"), [(True, ["paris", "cafe"]), (False, ["Paris", "café"])]
)
def test_vocab_txt_with_either_casing(cased_vocabulary, tmp_path, lower, tokens):
    build_tokenizer(str(cased_vocabulary), lower, tmp_path / "tokenizer")
    ours = load_tokenizer(tmp_path / "tokenizer")
    expected = [CASED.index(token) for token in tokens]
    assert ours.encode(["Paris café", "paris"]) == [expected, [CASED.index("paris")]]
    theirs = auto(tmp_path / "tokenizer")
    assert theirs("Paris café")["input_ids"] == [2, *expected, 3]
    pair = theirs("Paris", "café")
    assert pair["input_ids"] == [2, expected[0], 3, expected[1], 3]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert theirs.model_max_length == 512
    assert (theirs.pad_token_id, theirs.mask_token_id, len(theirs)) == (0, 4, len(CASED))


def test_a_text_that_spells_a_special_token_is_text(cased_vocabulary, tmp_path):
    build_tokenizer(str(cased_vocabulary), False, tmp_path / "tokenizer")
    ids = load_tokenizer(tmp_path / "tokenizer").encode(["[MASK]"])[0]
    assert [CASED[i] for i in ids] == ["[", "[UNK]", "]"]


def test_special_and_unused_tokens_are_banned(vocabulary, tmp_path):
    build_tokenizer(str(vocabulary), True, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.banned_ids == (0, 1, 2, 3, 4, 5, 6)
    assert loaded.vocab_size == len(read_vocabulary(vocabulary))


@pytest.mark.parametrize("lower", [True, False])
def test_folder_round_trip_and_casing(cased_vocabulary, tmp_path, lower):
    build_tokenizer(str(cased_vocabulary), lower, tmp_path / "first")
    build_tokenizer(str(tmp_path / "first"), lower, tmp_path / "second")
    assert auto(tmp_path / "second").tokenize("Paris café") == auto(tmp_path / "first").tokenize(
        "Paris café"
    )
    problem = problem_with_tokenizer(str(tmp_path / "first"), not lower)
    assert problem.startswith(f"TOKENIZER.DO_LOWER_CASE: is {not lower}")
    with pytest.raises(StageError, match=r"TOKENIZER\.DO_LOWER_CASE"):
        build_tokenizer(str(tmp_path / "first"), not lower, tmp_path / "third")


def test_folder_saved_by_transformers(cased_vocabulary, tmp_path):
    build_tokenizer(str(cased_vocabulary), False, tmp_path / "first")
    auto(tmp_path / "first").save_pretrained(tmp_path / "saved")
    build_tokenizer(str(tmp_path / "saved"), False, tmp_path / "second")
    assert auto(tmp_path / "second").tokenize("Paris café") == ["Paris", "café"]


def test_classic_folder_with_vocab_txt_alone(cased_vocabulary, tmp_path):
    folder = tmp_path / "classic"
    folder.mkdir()
    (folder / "vocab.txt").write_bytes(cased_vocabulary.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert "DO_LOWER_CASE" in problem_with_tokenizer(str(folder), True)
    build_tokenizer(str(folder), False, tmp_path / "tokenizer")
    assert auto(tmp_path / "tokenizer").tokenize("Paris") == ["Paris"]


def test_no_remote_code_survives(cased_vocabulary, tmp_path):
    build_tokenizer(str(cased_vocabulary), True, tmp_path / "first")
    settings = tmp_path / "first/tokenizer_config.json"
    content = json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": ["x.Y", None]}}
    settings.write_text(json.dumps(content))
    copy_tokenizer(tmp_path / "first", tmp_path / "second")
    assert "auto_map" not in json.loads((tmp_path / "second/tokenizer_config.json").read_text())


def write_shard(path):
    words = ["naïve", "Paris", "running", "runner", "ran", "unhappy", "happily", "日本語", "x²"]
    lines = [" ".join(words[i % 9 :] + words[: i % 7]) + "." for i in range(300)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("lower", [True, False])
def test_trained_tokenizer(tmp_path, lower):
    shard = write_shard(tmp_path / "train_00000.txt")
    size = train_tokenizer([shard], 120, lower, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert size == loaded.vocab_size <= 120
    assert list(loaded.special_ids.values()) == [0, 1, 2, 3, 4]
    text = "Paris ran 日本"
    decoded = loaded.tokenizer.decode(loaded.encode([text])[0])
    assert decoded == ("paris ran 日 本" if lower else "Paris ran 日 本")
    assert auto(tmp_path / "tokenizer").decode([2, 4]) == "[CLS] [MASK]"
    assert (
        "[UNK]" not in loaded.tokenizer.encode("running unhappily", add_special_tokens=False).tokens
    )


def test_training_is_the_same_in_every_process(tmp_path):
    shard = write_shard(tmp_path / "train_00000.txt")
    program = (
        "import sys; from pathlib import Path; "
        "from dataset.tokenizer_training import train_tokenizer; "
        "train_tokenizer([Path(sys.argv[1])], 90, True, Path(sys.argv[2]))"
    )
    for name in "abc":
        command = [sys.executable, "-c", program, str(shard), str(tmp_path / name)]
        subprocess.run(command, check=True, cwd=ROOT)
    contents = {(tmp_path / name / "tokenizer.json").read_bytes() for name in "abc"}
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("[PAD]\n[UNK]\nword\n", r"has no \[CLS\], \[SEP\], \[MASK\]"), (None, "does not exist")],
)
def test_bad_vocabulary_is_named(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content:
        path.write_text(content)
    with pytest.raises(StageError, match=rf"TOKENIZER\.NAME_OR_PATH.*{message}"):
        build_tokenizer(str(path), True, tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()


def test_unknown_hub_name_is_one_line(tmp_path):
    with pytest.raises(StageError, match=r"NAME_OR_PATH: no-such-model could not be loaded"):
        build_tokenizer("no-such-model", True, tmp_path / "tokenizer")


def test_folder_without_tokenizer(tmp_path):
    assert "neither tokenizer.json nor vocab.txt" in problem_with_tokenizer(str(tmp_path), True)


def test_bert_vocabulary(shared_data, tmp_path):
    path = shared_data / "vocab/bert-uncased-vocab.txt"
    assert len(read_vocabulary(path)) == 30522
    save_bert_tokenizer(read_vocabulary(path), True, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.special_ids["cls_token"] == 101
    assert len(loaded.banned_ids) == 5 + 994
    assert auto(tmp_path / "tokenizer").tokenize("Tokenization") == ["token", "##ization"]
