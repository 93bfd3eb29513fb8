"""Word vectors know what stands near what, and nothing else."""

import numpy as np
import pytest
import torch

from pretrain import word_vectors as module
from pretrain.data import list_shards
from pretrain.word_vectors import LENGTH, word_vectors
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


def _vectors(monkeypatch, rows, vocab_size=30, width=8, seed=0):
    monkeypatch.setattr(module, "read_samples", lambda path: rows)
    (shard,) = [type("Shard", (), {"path": None})]
    return word_vectors([shard], vocab_size, width, NEVER, seed)


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
    rows = module.read_samples(shard.path)
    ids, _ = module._unmasked(rows)
    row, column = np.nonzero(rows["masked_lm_positions"])
    at = rows["masked_lm_positions"][row, column]
    assert (ids[row, at] == rows["masked_lm_ids"][row, column]).all()
    assert (ids != rows["input_ids"]).sum() <= len(row)


def test_a_vocabulary_smaller_than_the_width_and_text_without_pairs(monkeypatch):
    vectors = _vectors(monkeypatch, _rows([[5], [6]]), vocab_size=10, width=16)
    assert torch.isfinite(vectors).all() and (vectors.norm(dim=1) > 0.1).all()
