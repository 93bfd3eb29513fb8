"""Tokenizers: from a vocab.txt, a folder, the corpus; loaded by transformers without a network."""

import json

import pytest

from dataset.tokenizers.build import build_tokenizer, problem_with_tokenizer
from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.tokenizer_files import read_vocabulary
from pipeline.errors import StageError
from tests.dataset.dataset_helpers import save_bert_tokenizer

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


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("accents", ["auto", "strip", "keep"])
def test_accents(cased_vocabulary, tmp_path, lower, accents):
    build_tokenizer(str(cased_vocabulary), lower, tmp_path / "tokenizer", accents)
    stripped = accents == "strip" or (accents == "auto" and lower)
    ids = load_tokenizer(tmp_path / "tokenizer").encode(["café"])[0]
    assert ids == [CASED.index("cafe" if stripped else "café")]
    assert auto(tmp_path / "tokenizer")("café")["input_ids"][1:-1] == ids
    # BERT's own tokenizer, from the vocabulary and the settings alone.
    from transformers import BertTokenizer

    (tmp_path / "tokenizer/tokenizer.json").unlink()
    theirs = BertTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert theirs("café")["input_ids"][1:-1] == ids
    settings = json.loads((tmp_path / "tokenizer/tokenizer_config.json").read_text())
    assert settings["strip_accents"] == stripped


def test_accents_of_a_ready_made_tokenizer(cased_vocabulary, tmp_path):
    first = str(tmp_path / "first")
    build_tokenizer(str(cased_vocabulary), True, tmp_path / "first", "keep")
    for accents in ("keep", "auto"):
        build_tokenizer(first, True, tmp_path / "second", accents)
        assert load_tokenizer(tmp_path / "second").encode(["CAFÉ"]) == [[CASED.index("café")]]
    problem = problem_with_tokenizer(first, True, "strip")
    assert problem == f"TOKENIZER.ACCENTS: is strip, but {first} keeps them, expected keep or auto"
    with pytest.raises(StageError, match=r"TOKENIZER\.ACCENTS"):
        build_tokenizer(first, True, tmp_path / "third", "strip")
    (tmp_path / "first/tokenizer.json").unlink()  # a folder of the classic form
    assert problem_with_tokenizer(first, True, "strip") == problem
    build_tokenizer(first, True, tmp_path / "third")
    assert load_tokenizer(tmp_path / "third").encode(["CAFÉ"]) == [[CASED.index("café")]]


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
    build_tokenizer(str(tmp_path / "first"), True, tmp_path / "second")
    assert "auto_map" not in json.loads((tmp_path / "second/tokenizer_config.json").read_text())


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
    with pytest.raises(StageError, match=r"NAME_OR_PATH: model no-such-model is not, or not"):
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
