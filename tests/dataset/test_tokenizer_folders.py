"""Ids of the samples are those of the export and of finetuning, or the tokenizer is refused.

The folders are in tokenizer_folders.py.
"""

import json
import random

import pytest

from dataset.tokenizers.build import build_tokenizer, check_building
from dataset.tokenizers.cached_encoder import WordEncoder
from dataset.tokenizers.corpus_check import as_transformers_reads, check_agreement, look_at
from dataset.tokenizers.load import load_tokenizer
from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool
from tests.dataset.dataset_helpers import Here
from tests.dataset.tokenizer_folders import (
    BERT_NAMES,
    HONOURED,
    KEEPS_ACCENTS,
    REFUSED,
    TEXT,
    saved,
    wordpiece,
    write,
)


@pytest.fixture(autouse=True)
def conversion_in_this_process(monkeypatch):
    """test_a_conversion_in_a_subprocess has the subprocess."""
    monkeypatch.setattr("dataset.workers.local_pool", lambda num_workers: Here())


MODEL_TYPES = ("bert", "roberta-prelayernorm", "modernbert", "electra", "deberta-v2", "xlm-roberta")


def export(tokenizer_dir, folder, model_type):
    """As pretraining leaves it, but for the weights."""
    from pretrain.model.export import _write_tokenizer

    write(folder, config__json={"model_type": model_type})
    _write_tokenizer(tokenizer_dir, folder, 128, True)
    return folder


def tokens_of(folder, text):
    loaded = load_tokenizer(folder)
    return [loaded.tokenizer.id_to_token(number) for number in loaded.encode([text])[0]]


def random_texts():
    """Of letters and marks in any order, of words in any order, and of words that are too long."""
    rng = random.Random(1)
    letters = "".join(sorted({*TEXT})).replace("\n", "   ") + "\u0301\u200d\u200b\u00ad\ufeffİẞﬃ０"
    words = [*TEXT.split(), "a" * 150, "ไ" * 130, "##x", "<s>x", "\u0301x"]
    spelled = (" ".join("".join(rng.choices(letters, k=99)).split()) for _ in range(60))
    spoken = ("\n".join(" ".join(rng.choices(words, k=9)) for _ in range(3)) for _ in range(60))
    return [*spelled, *spoken]


@pytest.mark.slow
@pytest.mark.parametrize("name", HONOURED)
def test_samples_export_and_finetuning_have_the_same_ids(name, tmp_path):
    from transformers import AutoTokenizer

    from finetune.data.encoding import load_tokenizer as load_for_finetuning

    make, lower = HONOURED[name]
    path = make(tmp_path / "source")
    build_tokenizer(str(path), lower, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    [ids] = WordEncoder(loaded).encode([TEXT.encode()])
    running = TEXT.replace("\n", " ")
    expected = [loaded.special_ids["cls_token"], *ids.tolist(), loaded.special_ids["sep_token"]]
    model_type = MODEL_TYPES[list(HONOURED).index(name) % len(MODEL_TYPES)]
    folder = export(tmp_path / "tokenizer", tmp_path / "model", model_type)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(running)["input_ids"] == expected
    assert load_for_finetuning(str(folder))(running)["input_ids"] == expected
    roles = {role: loaded.tokenizer.id_to_token(i) for role, i in loaded.special_ids.items()}
    assert {role: getattr(theirs, role) for role in roles} == roles
    assert len(ids) > 40
    check_agreement(loaded, theirs, random_texts())
    pair = theirs(running, "a")["input_ids"]
    assert pair[: len(expected)] == expected and pair[-1] == expected[-1]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name, tmp_path):
    make, lower, message = REFUSED[name]
    path = make(tmp_path / "source")
    with pytest.raises(StageError, match=rf"TOKENIZER\.NAME_OR_PATH: .*{message}") as refusal:
        check_building(str(path), lower, "auto")
    assert str(tmp_path / "source") in refusal.value.cause
    assert len(refusal.value.cause.splitlines()) == 1


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_class_that_is_named_decides_whatever_the_model(model_type, tmp_path):
    from transformers import AutoTokenizer

    make, lower = HONOURED["tokenizer.json alone"]
    build_tokenizer(str(make(tmp_path / "source")), lower, tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(
        export(tmp_path / "tokenizer", tmp_path / "model", model_type)
    )
    assert theirs.tokenize("Größe 東京大学") == ["größe", "東", "##京", "##大", "##学"]


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [
        ("vocab.txt", "Die Größe", ["d", "##i", "##e", "g", "##r", "##o", "##ß", "##e"]),
        ("vocab.txt, cased", "Die Größe", ["Die", "Größe"]),
        ("do_lower_case false", "Die Größe", ["Die", "Größe"]),
        ("strip_accents false", "GRÖßE", ["größe"]),
        ("tokenize_chinese_chars false", "東京", ["東", "##京"]),
        ("folder of vocab.txt", "東京", ["東", "京"]),
        ("added_tokens.json", "patients pneumothorax", ["patient", "s", "pneumothorax"]),
        ("added_tokens_decoder", "A covid19 a", ["a", "covid19", "a"]),
        ("additional_special_tokens", "a [ab] a", ["a", "[ab]", "a"]),
        ("tokenizer.json and added_tokens.json", "pneumothorax", ["pneumothorax"]),
        ("byte-level without a prefix space", ". boat", [".", "Ġboat"]),
        ("byte-level with a prefix space", "boat", ["Ġboat"]),
        ("an added token that stands alone", "covid cov", ["covid", "c", "##o", "##v"]),
        ("an added token that stands alone", "covids", ["c", *map("##".__add__, "ovids")]),
        ("vocab.txt as a path, with files beside it", "covid19", ["covid19"]),
        (
            "byte-level with a prefix space and an added token",
            "a covid19",
            ["Ġ", "a", "Ġ", "covid19"],
        ),
        ("word level", "BOAT Boat's", ["boat", "boat's"]),
    ],
)
def test_what_the_files_say_is_done(name, text, tokens, tmp_path):
    make, lower = HONOURED[name]
    build_tokenizer(str(make(tmp_path / "source")), lower, tmp_path / "tokenizer")
    assert tokens_of(tmp_path / "tokenizer", text) == tokens


@pytest.mark.slow
def test_a_conversion_in_a_subprocess(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.workers.local_pool", local_pool)
    make, lower = HONOURED["spm.model"]
    build_tokenizer(str(make(tmp_path / "source")), lower, tmp_path / "tokenizer")
    assert len(tokens_of(tmp_path / "tokenizer", TEXT)) > 40


def test_sentencepiece_pieces_are_those_of_the_library(tmp_path):
    import sentencepiece

    make, lower = HONOURED["sentencepiece.bpe.model"]
    folder = make(tmp_path / "source")
    build_tokenizer(str(folder), lower, tmp_path / "tokenizer")
    library = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    text = "Die Größe läuft schön, Müller. A patient has boats."
    found = [token.removeprefix("##") for token in tokens_of(tmp_path / "tokenizer", text)]
    assert found == library.encode(text, out_type=str)


def test_what_a_sentencepiece_model_does_not_know_counts_as_unknown(tmp_path):
    """Its own unknown piece does, whatever its class calls so."""
    make, lower = HONOURED["spm.model without special tokens"]
    build_tokenizer(str(make(tmp_path / "source")), lower, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    unknown = loaded.special_ids["unk_token"]
    assert loaded.tokenizer.id_to_token(unknown) == "<unk>" and unknown in loaded.banned_ids
    assert unknown in loaded.encode(["ДЖЩ"])[0]
    assert look_at(loaded, ["ДЖЩ"]).unknown_share == 1


def test_the_space_between_sentences_is_part_of_a_word(tmp_path):
    """To byte-level BPE without a prefix space, a word after a space is another one."""
    make, lower = HONOURED["byte-level without a prefix space"]
    build_tokenizer(str(make(tmp_path / "source")), lower, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    [ids] = WordEncoder(loaded).encode([b"boat.\nboat"])
    assert [loaded.tokenizer.id_to_token(i) for i in ids] == ["boat", ".", "Ġboat"]


# --- the check -------------------------------------------------------------------------------


def planted(folder):
    """A tokenizer whose class drops its normalizer: `größe` is a word to one of two readers."""
    entries = [*BERT_NAMES.values(), "größe", "grosse", "haus", ".", "a"]
    tokenizer = wordpiece(KEEPS_ACCENTS)
    content = json.loads(saved(tokenizer))
    content["model"]["vocab"] = {entry: number for number, entry in enumerate(entries)}
    settings = {"tokenizer_class": "BertTokenizer", **BERT_NAMES}
    return write(folder, tokenizer__json=content, tokenizer_config__json=settings)


def test_a_planted_disagreement_is_found_in_one_text_of_many(tmp_path):
    folder = planted(tmp_path / "tokenizer")
    texts = ["haus.\nhaus a haus."] * 500
    check_agreement(load_tokenizer(folder), as_transformers_reads(folder), texts)
    texts[321] = "haus a a.\na haus Größe haus."
    with pytest.raises(StageError) as found:
        check_agreement(load_tokenizer(folder), as_transformers_reads(folder), texts)
    assert found.value.cause == (
        "TOKENIZER.NAME_OR_PATH: `Größe` is [CLS] größe [SEP] (2, 5, 3) to pretraining, but [CLS] "
        "[UNK] [SEP] (2, 1, 3) to BertTokenizer of transformers; expected the same ids"
    )


def test_texts_that_spell_a_special_token_are_left_out(tmp_path):
    make, lower = HONOURED["vocab.txt"]
    build_tokenizer(str(make(tmp_path / "source")), lower, tmp_path / "tokenizer")
    texts = ["a [MASK] a", "a [SEP]"]
    folder = tmp_path / "tokenizer"
    check_agreement(load_tokenizer(folder), as_transformers_reads(folder), texts)


def test_every_python_class_of_transformers_is_known():
    """A class that is no tokenizer.json's must not be read as one."""
    from transformers import TokenizersBackend
    from transformers.models.auto.tokenization_auto import (
        TOKENIZER_MAPPING_NAMES,
        tokenizer_class_from_name,
    )

    from dataset.tokenizers.source import BERT_CLASSES, PYTHON_CLASSES

    names = {name for name in TOKENIZER_MAPPING_NAMES.values() if name}
    found = {name: tokenizer_class_from_name(name) for name in names}
    python = {
        name for name, kind in found.items() if kind and not issubclass(kind, TokenizersBackend)
    }
    of_sound = {name for name in python if "Wav2Vec2" in name or "Speech" in name}
    others = {"ClvpTokenizer", "DiaTokenizer", "MgpstrTokenizer", "RagTokenizer", "VitsTokenizer"}
    assert python - of_sound - others <= PYTHON_CLASSES
    assert not PYTHON_CLASSES & BERT_CLASSES
