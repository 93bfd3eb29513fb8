"""Masking: shares, bans, counts, and reproducibility."""

import numpy as np
import pytest

from dataset.masking import Masking, mask_tokens

VOCAB, MASK, PAD = 1000, 4, 0
BANNED = tuple(range(105))  # special and unused
MASKING = Masking(MASK, VOCAB, BANNED, masked_lm_prob=0.15, max_predictions_per_seq=20)


def rows(num=2000, length=128, dtype=np.uint16):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, VOCAB, (num, length)).astype(dtype)
    ids[:, 0] = 2
    for row, end in enumerate(rng.integers(3, length + 1, num)):
        ids[row, end - 1] = 3
        ids[row, end:] = PAD
    return ids


@pytest.fixture(scope="module")
def masked():
    ids = rows()
    return ids, *mask_tokens(ids, MASKING, np.random.default_rng(2))


def chosen(positions):
    return np.nonzero(positions)[0], positions[positions > 0]


def test_originals_can_be_restored(masked):
    ids, output, positions, original = masked
    at = chosen(positions)
    restored = output.copy()
    restored[at] = original[positions > 0]
    assert (restored == ids).all()
    assert output.dtype == original.dtype == ids.dtype


def test_number_of_predictions_of_every_row(masked):
    ids, _, positions, original = masked
    candidates = (ids >= len(BANNED)).sum(axis=1)
    expected = [min(20, n, max(1, round(n * 0.15))) for n in candidates.tolist()]
    assert (positions > 0).sum(axis=1).tolist() == expected
    assert ((positions > 0) == (original > 0)).all()


def test_positions_are_ascending_and_distinct(masked):
    positions = masked[2]
    for row in positions:
        used = row[row > 0]
        assert (np.diff(used) > 0).all()
        assert (row[: len(used)] > 0).all()


def test_bans_and_shares(masked):
    ids, output, positions, _ = masked
    at = chosen(positions)
    before, after = ids[at], output[at]
    assert len(before) > 15_000
    assert not np.isin(before, BANNED).any()
    is_mask, is_same = after == MASK, after == before
    assert not np.isin(after[~is_mask], BANNED).any()
    assert abs(is_mask.mean() - 0.8) < 0.01
    assert abs(is_same.mean() - 0.1) < 0.01  # a random replacement is the same in 1 of 900 cases


def test_every_position_is_equally_likely():
    ids = np.full((20_000, 32), 500, dtype=np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    _, positions, _ = mask_tokens(ids, MASKING, np.random.default_rng(3))
    frequency = np.bincount(positions[positions > 0], minlength=32)[1:-1] / len(ids)
    assert np.allclose(frequency, 4 / 30, atol=0.01)  # round(30 * 0.15) = 4


def test_rows_without_candidates_and_short_rows():
    ids = np.zeros((2, 8), dtype=np.int32)
    ids[1, 1] = 500
    output, positions, original = mask_tokens(ids, MASKING, np.random.default_rng(4))
    assert positions.shape == original.shape == (2, 20)
    assert positions[0].sum() == 0 and (output[0] == 0).all()
    assert positions[1].tolist() == [1] + [0] * 19 and original[1, 0] == 500


def test_same_seed_same_masks():
    ids = rows(50)
    first, second, other = (mask_tokens(ids, MASKING, np.random.default_rng(s)) for s in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first[0] != other[0]).any()
