"""Tokenizers trained on a corpus: in any language, the same everywhere, loaded by transformers."""

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.shards.passages import whole_shard
from dataset.stage import make_tokenizer, portions_of
from dataset.tokenizers.formats import bert_pipeline
from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS
from dataset.tokenizers.vocabulary_training import (
    Portion,
    as_symbols,
    learn_wordpiece,
    problem_with_training,
    train_tokenizer,
)
from dataset.tokenizers.word_counts import (
    BoundedCounts,
)
from pipeline.errors import ConfigError
from tests.dataset.dataset_helpers import save_bert_tokenizer
from tests.plans import dataset_artifact

ROOT = Path(__file__).parents[3]
STEMS = {
    "German": ["Straße", "Übergröße", "fließen", "Bücher", "Verfassung", "schön", "und"],
    "Greek": ["θάλασσα", "ἀρχή", "Ελλάδα", "λόγος", "και", "Όμηρος"],
    "Chinese": ["我们", "图书馆", "学习", "中国历史", "很好", "今天"],
    "Arabic": ["كتاب", "مدرسة", "العربيّة", "والسلام", "في"],
}


def write_corpus(folder, languages=tuple(STEMS), num_shards=2):
    """Text shards of made-up sentences."""
    rng = random.Random(3)
    paths = [folder / f"train_{number:05d}.txt" for number in range(num_shards)]
    for path in paths:
        lines = []
        for _ in range(150):
            language = rng.choice(languages)
            between = "" if language == "Chinese" else " "
            words = rng.choices(STEMS[language], k=rng.randrange(3, 12))
            lines.append(between.join(words) + rng.choice(".!?。؟") + "\n" * rng.randrange(1, 3))
        path.write_text("".join(lines), encoding="utf-8")
    return paths


def train(shards, folder, max_bytes=1 << 30, **changes):
    arguments = {
        "model": "wordpiece",
        "vocab_size": 400,
        "do_lower_case": True,
        "accents": "auto",
        "special_tokens": [],
    }
    portions = [Portion(list(map(whole_shard, shards)), max_bytes)]
    size = train_tokenizer(portions, folder, **(arguments | changes))
    loaded = load_tokenizer(folder)
    assert loaded.vocab_size == size <= (arguments | changes)["vocab_size"]
    return loaded


def auto(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


SETTINGS = [
    ("wordpiece", True, "auto"),
    ("wordpiece", False, "strip"),
    ("bpe", True, "keep"),
    ("bpe", True, "auto"),
    ("bpe", False, "auto"),
]


@pytest.mark.parametrize(("model", "lower", "accents"), SETTINGS)
def test_any_language(tmp_path, model, lower, accents):
    shards = write_corpus(tmp_path)
    asked = {"model": model, "do_lower_case": lower, "accents": accents}
    loaded = train(shards, tmp_path / "tokenizer", special_tokens=["[ENT]"], **asked)
    theirs = auto(tmp_path / "tokenizer")
    assert list(loaded.special_ids.values()) == [0, 1, 2, 3, 4]
    assert loaded.banned_ids == (0, 1, 2, 3, 4, 5)
    lines = [line for path in shards for line in path.read_text(encoding="utf-8").split("\n")]
    ids = loaded.encode(lines)
    assert ids == theirs(lines, add_special_tokens=False)["input_ids"]
    assert loaded.special_ids["unk_token"] not in {i for sentence in ids for i in sentence}
    # The ids of a text are those of its words, whatever white space is between them.
    for line, whole in zip(lines, ids, strict=True):
        assert [i for word in loaded.encode(line.split()) for i in word] == whole
        assert loaded.encode([line.replace(" ", " \t\n ")])[0] == whole
    pair = theirs("Bücher", "θάλασσα")
    first, second = loaded.encode(["Bücher", "θάλασσα"])
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert sum(pair["token_type_ids"]) == len(second) + 1
    text = "Bücher und Ελλάδα"
    stripped = accents == "strip" or (accents == "auto" and lower)
    expected = "Bucher und Ελλαδα" if stripped else text
    assert theirs.decode(loaded.encode([text])[0]) == (expected.lower() if lower else expected)


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_special_tokens_of_the_user(tmp_path, model):
    shards = write_corpus(tmp_path, ["German"])
    with open(shards[0], "a", encoding="utf-8") as file:
        file.write("und [ENT] und (Bücher[ENT]) [MASK] x\n" * 50)
    special = ["[ENT]", "<drug>"]
    loaded = train(shards, tmp_path / "tokenizer", model=model, special_tokens=special)
    theirs = auto(tmp_path / "tokenizer")
    assert loaded.banned_ids == (0, 1, 2, 3, 4, 5, 6)
    assert loaded.atomic_tokens == ("[ENT]", "<drug>")
    assert not set(loaded.continuing_ids()) & {5, 6}
    ids = loaded.encode(["und [ENT] Bücher[ENT]<drug>und"])[0]
    assert ids == theirs("und [ENT] Bücher[ENT]<drug>und", add_special_tokens=False)["input_ids"]
    assert (ids.count(5), ids.count(6)) == (2, 1)
    others = set(loaded.tokenizer.get_vocab()) - {"[ENT]"}
    assert not [entry for entry in others if "ent" in entry.lower()]
    assert 4 not in loaded.encode(["und [MASK]"])[0]  # one of the five is text, in pretraining
    assert theirs("[MASK]")["input_ids"] == [2, 4, 3]
    assert theirs.decode(ids, skip_special_tokens=True).split() == ["und", "bucher", "und"]


def test_bytes_have_no_unknown_text(tmp_path):
    loaded = train(write_corpus(tmp_path), tmp_path / "tokenizer", model="bpe", accents="keep")
    text = "🙂 \u200b日本語 ½ x\u0007y עִברִית"
    assert loaded.tokenizer.decode(loaded.encode([text])[0]) == text
    tokens = loaded.tokenizer.get_vocab()
    continuing = set(loaded.continuing_ids())
    assert tokens["e"] in continuing and tokens["Ã"] in continuing
    assert tokens["."] not in continuing and tokens["Ġ"] not in continuing
    assert not any(tokens[token] in continuing for token in tokens if token.startswith("Ġ"))


@given(words=st.lists(st.text(min_size=1, max_size=8), max_size=6))
@settings(max_examples=100, deadline=None)
def test_bytes_by_word(byte_level, words):
    """Ids of any text: those of its words; decoded again, the words."""
    words = " ".join(words).split()
    whole = byte_level.encode([" ".join(words)])[0]
    assert [i for ids in byte_level.encode(words) for i in ids] == whole
    assert byte_level.special_ids["unk_token"] not in whole


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byte_level")
    return train(write_corpus(folder), folder / "tokenizer", model="bpe")


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_training_is_the_same_in_every_process(tmp_path, model):
    write_corpus(tmp_path)
    program = (
        "import sys; from pathlib import Path; "
        "from dataset.shards.passages import whole_shard; "
        "from dataset.tokenizers.vocabulary_training import Portion, train_tokenizer; "
        "shards = sorted(Path(sys.argv[1]).glob('*.txt')); "
        "portion = Portion(list(map(whole_shard, shards)), 10000); "
        "train_tokenizer([portion], Path(sys.argv[2]), model=sys.argv[3], vocab_size=350, "
        "do_lower_case=True, accents='auto', special_tokens=[])"
    )
    for name in "abc":
        command = [sys.executable, "-c", program, tmp_path, tmp_path / name, model]
        subprocess.run(list(map(str, command)), check=True, cwd=ROOT)
    contents = {(tmp_path / name / "tokenizer.json").read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_alphabet_fits_the_vocabulary():
    """2000 Chinese characters are kept if there is room, the most frequent ones if not."""
    pieces = BoundedCounts(10_000)
    pieces.add({chr(0x4E00 + number): 5000 - number for number in range(2000)})
    assert len(learn_wordpiece(pieces, ["[UNK]"], 5000)) == 2001
    assert learn_wordpiece(pieces, ["[UNK]"], 201)[1:] == [chr(0x4E00 + i) for i in range(100)]


def test_impossible_settings_are_named():
    assert problem_with_training("wordpiece", 100, ["[ENT]"]) == ""
    assert "TOKENIZER.VOCAB_SIZE: is 200, too small for bpe" in problem_with_training(
        "bpe", 200, []
    )
    for token in ("a b", "[MASK]"):
        assert "TOKENIZER.SPECIAL_TOKENS" in problem_with_training("bpe", 999, [token])


@pytest.mark.slow
def test_same_entries_as_the_tokenizers_library(shared_data, tmp_path):
    """On real text, but for ties, which the library breaks in another order in each process."""
    from tokenizers import trainers

    shard = shared_data / "corpora/wikipedia_articles/wiki_00.txt"
    ours = set(train([shard], tmp_path / "ours", vocab_size=4000).tokenizer.get_vocab())
    library = bert_pipeline({}, True)
    special = list(SPECIAL_TOKENS.values())
    library.train([str(shard)], trainers.WordPieceTrainer(vocab_size=4000, special_tokens=special))
    assert len(ours & set(library.get_vocab())) > 0.95 * 4000


def test_long_runs_without_spaces_are_learnt(tmp_path):
    shards = write_corpus(tmp_path, ["Chinese"])
    loaded = train(shards, tmp_path / "tokenizer", model="bpe", vocab_size=330)
    tokens = loaded.encode(["我们学习中国历史"])[0]
    assert len(tokens) < 24 // 3  # fewer tokens than characters


def test_cased_vocabulary_keeps_its_case(tmp_path):
    shards = write_corpus(tmp_path, ["German"])
    loaded = train(shards, tmp_path / "first", do_lower_case=False)
    entries = sorted(loaded.tokenizer.get_vocab(), key=loaded.tokenizer.get_vocab().get)
    assert {"Straße", "Bücher", "und"} <= set(entries)
    save_bert_tokenizer(entries, False, tmp_path / "second")
    again = load_tokenizer(tmp_path / "second")
    assert again.encode(["Straße straße"]) == loaded.encode(["Straße straße"])


def test_rarest_words_are_left_out_when_there_is_no_room(monkeypatch):
    monkeypatch.setattr("dataset.tokenizers.vocabulary_training.MAX_SYMBOLS", 8)
    pieces = BoundedCounts(100)
    pieces.add({"rare": 2, "often": 9, "too": 5})
    found = list(as_symbols(pieces, list("abcdefghijklmnopqrstuvwxyz"), ""))
    assert [count for _, count in found] == [9, 5]


# --- the stage -------------------------------------------------------------------------------


def test_settings_are_part_of_the_dataset(config):
    config.TOKENIZER.TRAIN = True
    inputs = dataset_artifact(config).inputs
    for key, value in (
        ("MODEL", "bpe"),
        ("VOCAB_SIZE", 500),
        ("ACCENTS", "keep"),
        ("SPECIAL_TOKENS", ["[ENT]"]),
        ("MAX_TRAINING_MB", 2.0),
    ):
        config.TOKENIZER[key] = value
        changed = dataset_artifact(config).inputs
        assert changed[f"TOKENIZER.{key}"] == value != inputs[f"TOKENIZER.{key}"]
    config.TOKENIZER.VOCAB_SIZE = 200
    with pytest.raises(ConfigError, match=r"TOKENIZER\.VOCAB_SIZE: is 200, too small for bpe"):
        dataset_artifact(config)


def test_accents_of_a_vocabulary_are_part_of_the_dataset(config):
    first = dataset_artifact(config).inputs
    config.TOKENIZER.ACCENTS = "keep"
    assert dataset_artifact(config).inputs != first


def test_bpe_from_the_stage(config, tmp_path):
    config.TOKENIZER.TRAIN = True
    config.TOKENIZER.MODEL, config.TOKENIZER.VOCAB_SIZE = "bpe", 300
    config.TOKENIZER.SPECIAL_TOKENS = ["[ENT]"]
    console = SimpleNamespace(say=lambda text: None)
    shards = [*write_corpus(tmp_path), tmp_path / "test_00000.txt"]
    portions = portions_of(config.TOKENIZER, shards, [], [])
    make_tokenizer(config.TOKENIZER, portions, tmp_path / "tokenizer", "identity", console)
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.vocab_size == 300 and loaded.atomic_tokens == ("[ENT]",)
