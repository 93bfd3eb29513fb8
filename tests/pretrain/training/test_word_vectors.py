"""Word vectors know what stands near what, and nothing else."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from dataset.samples.hdf5_files import read_samples
from pretrain.training import word_vectors as module
from pretrain.training.data_loader import list_shards
from pretrain.training.word_vectors import LENGTH, word_vectors
from tests.pretrain.shards import write_dataset

CLS, SEP = 2, 3
NEVER = (0, CLS, SEP)


def _rows(texts, length=12):
    """Rows as they are stored unmasked; each text in a row of its own, between [CLS] and [SEP]."""
    ids = np.zeros((len(texts), length), np.uint16)
    sample = np.zeros((len(texts), length), np.uint8)
    for row, text in enumerate(texts):
        ids[row, : len(text) + 2] = [CLS, *text, SEP]
        sample[row, : len(text) + 2] = 1
    return {"input_ids": ids, "input_mask": sample}


def _shards(monkeypatch, *shards):
    """Shards of these rows; a path stands for its rows."""
    monkeypatch.setattr(module, "iter_sample_blocks", lambda rows: iter([rows]))
    return [SimpleNamespace(path=rows) for rows in shards]


def _vectors(monkeypatch, rows, vocab_size=30, width=8, seed=0):
    return word_vectors(_shards(monkeypatch, rows), vocab_size, width, NEVER, seed)


@pytest.fixture
def two_topics():
    generator = np.random.default_rng(0)
    topics = np.arange(5, 15), np.arange(15, 25)
    return _rows([generator.choice(topics[row % 2], 8) for row in range(200)])


def test_what_stands_together_is_alike(monkeypatch, two_topics):
    vectors = _vectors(monkeypatch, two_topics)
    assert vectors.shape == (30, 8) and vectors.dtype == torch.float32
    known = vectors[5:25] / LENGTH
    torch.testing.assert_close(known.norm(dim=1), torch.ones(20), atol=1e-4, rtol=0)
    alike = known @ known.T
    within = (alike[:10, :10].mean() + alike[10:, 10:].mean()) / 2
    assert within > 0.3 and within - alike[:10, 10:].mean() > 0.3


def test_the_same_seed_the_same_vectors(monkeypatch, two_topics):
    first, again = (_vectors(monkeypatch, two_topics) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, _vectors(monkeypatch, two_topics, seed=1))


def test_pairs_are_counted_by_distance_within_a_sample():
    rows = _rows([[5, 6, 7]])
    rows["input_ids"] = np.concatenate([rows["input_ids"], [[2, 5, 6, 3, 2, 7, 5, 3, 0, 0, 0, 0]]])
    rows["input_mask"] = np.concatenate(
        [rows["input_mask"], [[1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]]]
    ).astype(np.uint8)
    found = module._pairs_within(*module._unmasked(rows), list(NEVER), 10).toarray()
    expected = np.zeros((10, 10))
    expected[5, 6] = 1 + 1
    expected[6, 7] = 1
    expected[5, 7] = 1 / 2
    expected[7, 5] = 1
    np.testing.assert_allclose(found, expected)


def test_what_masks_hide_is_seen(tmp_path):
    (shard, *_) = list_shards(write_dataset(tmp_path), "train")
    rows = read_samples(shard.path)
    ids, _ = module._unmasked(rows)
    row, column = np.nonzero(rows["masked_lm_positions"])
    at = rows["masked_lm_positions"][row, column]
    assert (ids[row, at] == rows["masked_lm_ids"][row, column]).all()
    assert (ids != rows["input_ids"]).sum() <= len(row)


def test_pairs_are_the_same_however_many_rows_are_counted_at_once(monkeypatch, two_topics):
    shards = _shards(monkeypatch, two_topics, _rows([]), two_topics)
    whole = module._count_pairs(shards, 30, list(NEVER)).toarray()
    np.testing.assert_array_equal(whole, whole.T)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 40)
    pieces = module._count_pairs(shards, 30, list(NEVER)).toarray()
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)


def test_no_more_tokens_are_counted_than_it_takes(monkeypatch, two_topics):
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 12 * 20)
    monkeypatch.setattr(module, "MOST_TOKENS", 10 * 30)  # of ten in each row, in pieces of 20 rows
    found = module._count_pairs(_shards(monkeypatch, two_topics), 30, list(NEVER)).toarray()
    first = {name: array[:40] for name, array in two_topics.items()}
    expected = module._pairs_within(*module._unmasked(first), list(NEVER), 30).toarray()
    np.testing.assert_allclose(found, expected + expected.T, rtol=1e-5)


def test_memory_does_not_grow_with_the_shard(monkeypatch):
    ids = np.random.default_rng(0).integers(5, 50, (4000, 64)).astype(np.uint16)
    shards = _shards(monkeypatch, {"input_ids": ids, "input_mask": np.ones_like(ids)})
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 1 << 13)
    module._count_pairs(_shards(monkeypatch, _rows([[5, 6]])), 50, list(NEVER))  # what it imports
    tracemalloc.start()
    module._count_pairs(shards, 50, list(NEVER))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6  # all pairs of all rows at once are more than ten times as much


def test_information_is_that_of_the_formula():
    counts = np.array([[0, 4, 1, 0], [4, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    found = module._positive_information(csr_matrix(counts)).toarray()
    shares = counts.sum(1) ** module.SMOOTHING
    shares = shares / shares.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.log(counts / counts.sum(1, keepdims=True) / shares)
    np.testing.assert_allclose(found, np.where(expected > 0, expected, 0), rtol=1e-5)


def test_a_vocabulary_smaller_than_the_width_and_text_without_pairs(monkeypatch):
    vectors = _vectors(monkeypatch, _rows([[5], [6]]), vocab_size=10, width=16)
    assert torch.isfinite(vectors).all() and (vectors.norm(dim=1) > 0.1).all()
