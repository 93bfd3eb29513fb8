"""Tokenized splits, batches of them, and when they are read anew."""

import os

import numpy as np
import pytest

from finetune.data.batches import epoch_batches, micro_batches, sorted_batches
from finetune.data.demo_glue import write_demo_glue
from finetune.data.encoding import load_tokenizer
from finetune.data.tasks import find_task
from finetune.data.tokens import Padding, Tokens, joined, padding_of
from finetune.training.encoded_splits import load_encoded
from pipeline.errors import StageError

TOKENS = Tokens(
    {
        "input_ids": np.array([7, 8, 9, 5, 6, 4], np.int32),
        "token_type_ids": np.array([0, 0, 1, 0, 1, 0], np.uint8),
    },
    np.array([0, 3, 5, 6]),
)


# --- padding --------------------------------------------------------------------------------


def test_samples_are_padded_to_the_longest():
    padding = Padding({"input_ids": 1, "token_type_ids": 3})
    batch = padding.batch(TOKENS, np.array([2, 0]))
    assert batch["input_ids"].tolist() == [[4, 1, 1], [7, 8, 9]]
    assert batch["token_type_ids"].tolist() == [[0, 3, 3], [0, 0, 1]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert all(array.dtype == np.int64 for array in batch.values())


def test_padding_on_the_left_and_to_a_multiple():
    padding = Padding({"input_ids": 1, "token_type_ids": 3}, on_the_left=True, multiple=4)
    batch = padding.batch(TOKENS, np.array([0, 1]))
    assert batch["input_ids"].tolist() == [[1, 7, 8, 9], [1, 1, 5, 6]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]


def test_no_mask_where_nothing_is_padded():
    batch = Padding({"input_ids": 1, "token_type_ids": 3}).batch(TOKENS, np.array([1, 1]))
    assert "attention_mask" not in batch and batch["input_ids"].tolist() == [[5, 6], [5, 6]]


def test_a_sample_without_tokens():
    empty = Tokens({"input_ids": np.array([], np.int32)}, np.array([0, 0]))
    assert joined([empty, empty]).lengths.tolist() == [0, 0]
    with_one = joined([empty, Tokens({"input_ids": np.array([9], np.int32)}, np.array([0, 1]))])
    assert Padding({"input_ids": 1}).batch(with_one, np.array([0]))["input_ids"].tolist() == [[1]]


def test_joined_samples_keep_their_order():
    both = joined([TOKENS, TOKENS])
    assert both.lengths.tolist() == [3, 2, 1, 3, 2, 1]
    assert both.columns["input_ids"].tolist() == [7, 8, 9, 5, 6, 4] * 2


# --- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 15, 16, 17, 5000])
def test_every_sample_is_in_one_batch(number):
    lengths = np.random.default_rng(0).integers(3, 100, number)
    batches = epoch_batches(lengths, 16, seed=3, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(number))
    assert sorted(map(len, batches), reverse=True)[:-1] == [16] * (len(batches) - 1)


def test_batches_hold_similar_lengths_in_random_order():
    lengths = np.random.default_rng(0).integers(3, 100, 4000)
    batches = epoch_batches(lengths, 16, seed=3, epoch=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.05 * lengths.sum()
    longest = [lengths[batch].max() for batch in batches]
    assert 0.3 < np.mean(np.diff(longest) > 0) < 0.7
    again = epoch_batches(lengths, 16, seed=3, epoch=0)
    assert all(map(np.array_equal, batches, again))
    for seed, epoch in ((3, 1), (4, 0)):
        other = epoch_batches(lengths, 16, seed, epoch)
        assert not all(map(np.array_equal, batches, other))


def test_micro_batches_share_a_batch_out():
    parts = micro_batches(np.arange(10), 4)
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert np.concatenate(parts).tolist() == list(range(10))
    assert [len(part) for part in micro_batches(np.arange(2), 4)] == [1, 1]


def test_predictions_in_pieces_have_the_batches_of_the_whole(monkeypatch):
    monkeypatch.setattr("finetune.data.batches.TOGETHER", 16)
    lengths = np.random.default_rng(1).integers(1, 60, 50)
    whole = sorted_batches(lengths, 100)
    pieces = [
        first + batch
        for first in range(0, 50, 16)
        for batch in sorted_batches(lengths[first : first + 16], 100)
    ]
    assert list(map(list, pieces)) == list(map(list, whole))
    assert sorted(np.concatenate(whole)) == list(range(50))


def test_sorted_batches_are_bounded_by_their_tokens():
    lengths = np.array([3, 90, 10, 10, 200, 1, 0])
    batches = sorted_batches(lengths, 100)
    assert [batch.tolist() for batch in batches] == [[4], [1], [2, 3, 0, 5, 6]]


# --- splits -----------------------------------------------------------------------------------


@pytest.fixture
def glue(tmp_path):
    write_demo_glue(tmp_path)
    return tmp_path


def test_a_split_is_tokenized_once_until_its_file_changes(tiny_model, glue):
    task = find_task("MRPC")
    first = load_encoded(task, "dev", str(glue), tiny_model, 32, True)
    assert load_encoded(task, "dev", str(glue), tiny_model, 32, True) is first
    assert len(first) == len(first.labels) == len(first.examples.labels)
    path = glue / "MRPC" / "dev.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    os.utime(path, ns=(1, 1))
    assert len(load_encoded(task, "dev", str(glue), tiny_model, 32, True)) == 4


# --- tokenizers -------------------------------------------------------------------------------


def _word_tokenizer(folder, **special):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "<end>": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    tokenizer = load_tokenizer(_word_tokenizer(tmp_path, eos_token="<end>"))
    assert padding_of(tokenizer).values["input_ids"] == 2
    assert not padding_of(tokenizer).on_the_left


def test_a_tokenizer_that_cannot_pad_is_named(tmp_path):
    with pytest.raises(StageError, match="no pad_token and no eos_token"):
        load_tokenizer(_word_tokenizer(tmp_path))
