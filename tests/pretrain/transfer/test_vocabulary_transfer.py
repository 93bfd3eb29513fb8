"""Rows for another vocabulary."""

import numpy as np
import pytest
import torch

from pretrain.transfer import vocabulary_transfer as module
from pretrain.transfer.vocabulary_transfer import mix_rows, similar_rows, sparsemax
from tests.pretrain.transfer.vocabularies import BERT, wordpiece

FIRST = len(BERT)
OLD = ["heart", "##ed", "pain", "lung", "air"]
NEW = ["pain", "heart", "hearted", "cardiac", "中"]  # 中: neither seen nor spelled


@pytest.fixture
def tokenizers(tmp_path):
    return wordpiece(tmp_path / "new", *NEW), wordpiece(tmp_path / "old", *OLD)


@pytest.fixture
def table():
    return torch.randn(FIRST + len(OLD), 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def neighbours(monkeypatch):
    """`cardiac` stands between `heart` and `pain`; the others without a match are not seen."""
    vectors = np.zeros((FIRST + len(NEW), 3), np.float32)
    vectors[FIRST : FIRST + 4] = [[0, 2, 0], [3, 0, 0], [0, 0, 0], [3, 3, 0]]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(module, "neighbour_vectors", lambda *args: (vectors, norms))


def _simplex_point(scores: np.ndarray) -> np.ndarray:
    """The sparsemax by bisection of its threshold."""
    low, high = scores.min() - 1.0, scores.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(scores - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(scores - low, 0)


@pytest.mark.parametrize("candidates", [2, 4, 128])
def test_sparsemax(monkeypatch, candidates):
    monkeypatch.setattr(module, "CANDIDATES", candidates)
    scores = torch.rand(7, 40, generator=torch.Generator().manual_seed(1)) * 0.3
    scores[0, 3] = 2.0  # all weight
    scores[1] = 0.5  # equal weights
    found = np.zeros((7, 40))
    row, column, weight = sparsemax(scores)
    found[row, column] = weight
    expected = np.stack([_simplex_point(some) for some in scores.double().numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found[0, 3] == 1


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    directions = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    arguments = directions, np.arange(12), np.arange(12, 30), np.arange(30) * 2, 60
    whole = similar_rows(*arguments).toarray()
    monkeypatch.setattr(module, "BLOCK", 18 * 5)
    np.testing.assert_allclose(similar_rows(*arguments).toarray(), whole, atol=1e-6)
    assert whole[:12].sum() == pytest.approx(12, abs=1e-4) and not whole[:, :24].any()


def test_shared_rows_are_copied_bit_for_bit(tokenizers, table, neighbours):
    table[FIRST + 2, 1] = -0.0
    for how in ("focus", "mean", "random"):
        rows = mix_rows(how, *tokenizers, [], seed=0).table(table, seed=0)
        assert rows.dtype == torch.float32 and rows.shape == (FIRST + len(NEW), 4)
        assert torch.equal(rows[:FIRST], table[:FIRST])
        assert torch.equal(rows[FIRST], table[FIRST + 2]) and rows[FIRST, 1].signbit()
        assert torch.equal(rows[FIRST + 1], table[FIRST])


def test_focus(tokenizers, table, neighbours):
    mixtures = mix_rows("focus", *tokenizers, [], seed=0)
    rows = mixtures.table(table, seed=0)
    cardiac = (table[FIRST] + table[FIRST + 2]) / 2
    torch.testing.assert_close(rows[FIRST + 3], cardiac)
    torch.testing.assert_close(rows[FIRST + 2], table[FIRST : FIRST + 2].mean(0))  # heart ##ed
    torch.testing.assert_close(rows[FIRST + 4], table.mean(0))
    assert str(mixtures) == (
        "7 of 10 entries are shared, 1 mixed by their neighbours, 1 by their spelling, "
        "1 the mean of all"
    )


def test_mean(tokenizers, table):
    mixtures = mix_rows("mean", *tokenizers, [], seed=0)
    rows = mixtures.table(table, seed=0)
    torch.testing.assert_close(rows[FIRST + 2], table[FIRST : FIRST + 2].mean(0))
    torch.testing.assert_close(rows[FIRST + 3], table.mean(0))
    assert (mixtures.num_mixed, mixtures.num_spelled, mixtures.num_unknown) == (0, 1, 2)


def test_random(tokenizers):
    old = torch.randn(FIRST + len(OLD), 2000) * 0.1 + 3
    mixtures = mix_rows("random", *tokenizers, [], seed=0)
    drawn = mixtures.table(old, seed=0)[FIRST + 2 :]
    assert drawn.mean() == pytest.approx(3, abs=0.01)
    assert drawn.std() == pytest.approx(0.1, rel=0.2)
    assert torch.equal(drawn, mixtures.table(old, seed=0)[FIRST + 2 :])
    assert not torch.equal(drawn, mixtures.table(old, seed=1)[FIRST + 2 :])
    assert str(mixtures) == "7 of 10 entries are shared, 3 drawn"


def test_focus_without_shared_text_is_the_mean(tokenizers, table, monkeypatch):
    nothing = np.zeros((FIRST + len(NEW), 3), np.float32), np.zeros((FIRST + len(NEW), 1))
    monkeypatch.setattr(module, "neighbour_vectors", lambda *args: nothing)
    focus, mean = (mix_rows(how, *tokenizers, [], seed=0) for how in ("focus", "mean"))
    assert torch.equal(focus.table(table, 0), mean.table(table, 0))


def test_bias(tokenizers, table, neighbours):
    old = table[:, 0].clone()
    bias = mix_rows("focus", *tokenizers, [], seed=0).bias(old)
    assert bias.shape == (FIRST + len(NEW),) and bias.dtype == torch.float32
    assert torch.equal(bias[:FIRST], old[:FIRST]) and bias[FIRST] == old[FIRST + 2]
    torch.testing.assert_close(bias[FIRST + 3], (old[FIRST] + old[FIRST + 2]) / 2)
    drawn = mix_rows("random", *tokenizers, [], seed=0).bias(old)
    assert torch.equal(drawn[:FIRST], old[:FIRST])
    torch.testing.assert_close(drawn[FIRST + 2 :], old.mean().expand(3))


def test_copies_of_a_row_share_its_probability(tmp_path):
    new = wordpiece(tmp_path / "new", "Heart", "heart", "HEART", "pain")
    old = wordpiece(tmp_path / "old", "heart", "pain", lower=True)
    bias = mix_rows("mean", new, old, [], seed=0).bias(torch.arange(float(FIRST + 2)))
    torch.testing.assert_close(bias[FIRST : FIRST + 3].exp().sum(), torch.tensor(FIRST).exp())
    assert bias[FIRST + 3] == FIRST + 1
