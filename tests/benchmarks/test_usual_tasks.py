"""The usual way of the task contest: its readers, labels of tokens, metrics and training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import SHARED
from benchmarks.task_data import TASKS, labels_of, read_rows, some_of, write_rows
from benchmarks.usual_tasks import (
    IGNORED,
    Settings,
    encode,
    entity_scores,
    finetune_task_usually,
    text_scores,
)
from tests.finetune.conftest import one_thread, tiny_model  # noqa: F401, fixtures

SETTINGS = Settings(
    epochs=1,
    batch_size=4,
    learning_rate=1e-3,
    max_seq_length=16,
    weight_decay=0.1,
    warmup=0.06,
    bf16=False,
    pad_to_max_length=False,
)
ROWS = {
    "wnut17": [
        (("I", "am", "in", "New", "York"), ("O", "O", "O", "B-location", "I-location")),
        (("Hi",), ("O",)),
    ],
    "goemotions": [("thank you", ("15",)), ("what a joy", ("0", "17"))],
    "banking77": [('a "card",\nor two', "card_arrival"), ("lost it", "lost_card")],
    "sci_cite": [("As in [3], we\tsee\u2028it.", "method"), ("They found it.", "result")],
}


# --- data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_written_rows_are_read_again(name, tmp_path):
    task = TASKS[name]
    path = tmp_path / Path(task.train).name
    write_rows(task, ROWS[name], path)
    assert read_rows(task, path) == ROWS[name]


def test_sentences_of_a_folder(tmp_path):
    """Blank lines may have a TAB, tokens a NBSP, lines more columns and a TAB at their end."""
    (tmp_path / "b").write_text("She\tB-PER\tO\t\nsmiled\tO\tO\t\n\n")
    (tmp_path / "a").write_text("\xa0I\tO\n\t\n\n.\tO\n.\tO")
    assert read_rows(TASKS["litbank"], tmp_path) == [
        (("\xa0I",), ("O",)),
        ((".", "."), ("O", "O")),
        (("She", "smiled"), ("B-PER", "O")),
    ]


@given(st.integers(1, 50), st.integers(1, 80))
def test_some_rows_are_spread_over_the_file(number, length):
    found = some_of(list(range(length)), number)
    assert len(found) == min(number, length) and found[0] == 0
    gaps = np.diff([*found, length])
    assert gaps.min() > 0 and gaps.max() - gaps.min() <= 1


@pytest.mark.skipif(not (SHARED / "ner").exists(), reason="needs the real files")
def test_real_files():
    """Counts of leondz/emerging_entities_17 and PolyAI's banking77."""
    tweets, banking = TASKS["wnut17"], TASKS["banking77"]
    counts = {split: len(read_rows(tweets, SHARED / file)) for split, file in tweets.files.items()}
    assert counts == {"train": 3394, "dev": 1009, "test": 1287}
    assert len(labels_of(tweets, SHARED)) == 13
    assert len(read_rows(banking, SHARED / banking.train)) == 10003
    assert len(labels_of(banking, SHARED)) == 77


# --- labels -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import BertTokenizerFast

    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nnew\nyork\n##er\n##s\n")
    return BertTokenizerFast(vocab=str(path))


def test_the_first_piece_of_a_word_has_its_tag(tokenizer):
    rows = [(("New", "Yorkers", "\u200d", "york"), ("B-x", "I-x", "O", "O"))]
    encoded = encode(TASKS["wnut17"], rows, ["B-x", "I-x", "O"], tokenizer, SETTINGS)
    assert encoded.features[0]["labels"] == [IGNORED, 0, 1, IGNORED, IGNORED, 2, IGNORED]
    # The joiner has no token, so its tag must not move to the next word.
    assert encoded.words == [[None, 0, 1, None, None, 3, None]]


def test_words_beyond_the_length_have_no_token(tokenizer):
    rows = [(("New", "Yorkers", "york"), ("B-x", "I-x", "O"))]
    short = replace(SETTINGS, max_seq_length=4)
    encoded = encode(TASKS["wnut17"], rows, ["B-x", "I-x", "O"], tokenizer, short)
    assert encoded.words == [[None, 0, 1, None]]


def test_padding_has_no_tag(tokenizer):
    full = replace(SETTINGS, pad_to_max_length=True)
    encoded = encode(TASKS["wnut17"], [(("New",), ("O",))], ["B-x", "O"], tokenizer, full)
    assert encoded.features[0]["labels"] == [IGNORED, 1, *[IGNORED] * 14]


def test_a_row_with_several_labels(tokenizer):
    encoded = encode(
        TASKS["goemotions"], [("new", ("2", "0"))], ["0", "1", "2"], tokenizer, SETTINGS
    )
    assert encoded.features[0]["labels"] == [1.0, 0.0, 1.0]


def test_an_unknown_label_is_an_error(tokenizer):
    with pytest.raises(KeyError):
        encode(TASKS["sci_cite"], [("new", "nothing")], ["method"], tokenizer, SETTINGS)


# --- metrics ----------------------------------------------------------------------------------


def test_words_without_a_token_count_as_no_entity():
    pytest.importorskip("seqeval")
    rows = [(("a", "b", "c"), ("B-x", "O", "B-x")), (("d",), ("B-x",))]
    words = [[None, 0, 1], [None, 0, None]]  # c is cut off
    predicted = np.array([[1, 0, 0], [1, 0, 1]])  # a, b and d
    scores = entity_scores(rows, words, predicted, ["B-x", "O"])
    # a and d are right, of three entities, or of two that the model sees.
    expected = {"entity_f1": 4 / (3 + 3), "entity_f1_seen": 4 / (2 + 3), "unseen_words": 1 / 4}
    assert scores == pytest.approx(expected)


def test_labels_with_positive_logits_are_predicted():
    logits = np.array([[0.1, -0.1], [-2.0, 3.0], [-1.0, -1.0]])
    scores = text_scores("multi_label", np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), logits)
    assert scores["f1_micro"] == pytest.approx(2 * 2 / (4 + 2))
    assert scores["f1_macro"] == pytest.approx(2 / 3)


def test_scores_of_classes():
    logits = np.eye(3)[[0, 0, 1, 2]]
    scores = text_scores("classification", np.array([0, 1, 1, 2]), logits)
    assert scores == pytest.approx({"accuracy": 3 / 4, "f1_macro": (2 / 3 + 2 / 3 + 1) / 3})


# --- training ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wnut17", "goemotions", "sci_cite"])
def test_a_run_of_each_kind(name, tiny_model, one_thread, tmp_path):  # noqa: F811
    if name == "wnut17":
        pytest.importorskip("seqeval")
    task, settings = TASKS[name], replace(SETTINGS, epochs=2, bf16=name == "sci_cite")
    files = {split: tmp_path / Path(file).name for split, file in task.files.items()}
    for path in files.values():
        write_rows(task, ROWS[name] * 3, path)
    found = [label for _, label in ROWS[name]]
    labels = sorted(set(found) if isinstance(found[0], str) else set().union(*found))
    reports: list = []
    for _ in range(2):
        data = (task, files, labels, tiny_model)
        finetune_task_usually(reports.append, *data, settings, seed=3)
    first, second = reports
    assert first["dev"] == second["dev"] == first["test"]  # the same rows
    assert 0 <= first["dev"][task.metric] <= 1
    assert (first["rows"], first["steps"]) == (6, 4)  # batches of 4 and 2, twice
