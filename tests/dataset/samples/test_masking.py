"""Masking: shares, bans, counts, whole words, and reproducibility."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.samples.masking import Masker, Masking, masking_key, random_draws

VOCAB, MASK, PAD = 1000, 4, 0
BANNED = tuple(range(105))  # special and unused
CONTINUING = tuple(range(700, VOCAB))
MASKING = Masking(
    mask_id=MASK,
    vocab_size=VOCAB,
    banned_ids=BANNED,
    continuing_ids=(),
    masked_lm_prob=0.15,
    max_predictions_per_seq=20,
    mask_token_share=0.8,
    random_token_share=0.1,
)
WHOLE_WORDS = replace(MASKING, continuing_ids=CONTINUING)
KEY = masking_key(2)


def rows(num=2000, length=128, dtype=np.uint16):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, VOCAB, (num, length)).astype(dtype)
    ids[:, 0] = 2
    for row, end in enumerate(rng.integers(3, length + 1, num)):
        ids[row, end - 1] = 3
        ids[row, end:] = PAD
    return ids


@pytest.fixture(scope="module", params=[MASKING, WHOLE_WORDS], ids=["tokens", "words"])
def masked(request):
    ids = rows()
    return ids, *Masker(request.param).mask(ids, KEY)


def chosen(positions):
    return np.nonzero(positions)[0], positions[positions > 0]


def allowed_predictions(ids):
    candidates = (ids >= len(BANNED)).sum(axis=1)
    return np.array([min(20, n, max(1, round(n * 0.15))) for n in candidates.tolist()])


def test_originals_can_be_restored(masked):
    ids, output, positions, original = masked
    at = chosen(positions)
    restored = output.copy()
    restored[at] = original[positions > 0]
    assert (restored == ids).all()
    assert output.dtype == original.dtype == ids.dtype


def test_number_of_predictions_of_every_row():
    ids = rows()
    _, positions, original = Masker(MASKING).mask(ids, KEY)
    assert ((positions > 0).sum(axis=1) == allowed_predictions(ids)).all()
    assert ((positions > 0) == (original > 0)).all()


def test_positions_are_ascending_and_distinct(masked):
    positions = masked[2]
    for row in positions.astype(int):
        used = row[row > 0]
        assert (np.diff(used) > 0).all()
        assert (row[: len(used)] > 0).all()


def test_bans_and_shares_over_a_million_tokens():
    ids = rows(num=16_000)
    assert (ids != PAD).sum() > 1_000_000
    _, positions, _ = masks = Masker(MASKING).mask(ids, KEY)
    at = chosen(positions)
    before, after = ids[at], masks.input_ids[at]
    assert not np.isin(before, BANNED).any()
    is_mask, is_same = after == MASK, after == before
    assert not np.isin(after[~is_mask], BANNED).any()
    # Standard errors are 0.001; a random replacement is the same in 1 of 900 cases.
    assert abs(is_mask.mean() - 0.8) < 0.005
    assert abs(is_same.mean() - 0.1) < 0.005
    replacements = np.bincount(after[~is_mask & ~is_same], minlength=VOCAB)[len(BANNED) :]
    assert replacements.min() > 0.2 * replacements.mean()  # every token takes part


@pytest.mark.parametrize(("mask_share", "random_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_settable_shares(mask_share, random_share):
    masking = replace(MASKING, mask_token_share=mask_share, random_token_share=random_share)
    ids = rows(300)
    masks = Masker(masking).mask(ids, KEY)
    at = chosen(masks.masked_lm_positions)
    assert (masks.input_ids[at] == MASK).all() == bool(mask_share)
    assert (masks.input_ids == ids).all() == (mask_share == random_share == 0)
    assert not np.isin(masks.input_ids[at], BANNED).any() or mask_share


def test_every_position_is_equally_likely():
    ids = np.full((20_000, 32), 500, dtype=np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    positions = Masker(MASKING).mask(ids, KEY).masked_lm_positions
    frequency = np.bincount(positions[positions > 0], minlength=32)[1:-1] / len(ids)
    assert np.allclose(frequency, 4 / 30, atol=0.01)  # round(30 * 0.15) = 4


def test_rows_without_candidates_and_short_rows():
    ids = np.zeros((2, 8), dtype=np.int32)
    ids[1, 1] = 500
    output, positions, original = Masker(MASKING).mask(ids, KEY)
    assert positions.shape == original.shape == (2, 20)
    assert positions[0].sum() == 0 and (output[0] == 0).all()
    assert positions[1].tolist() == [1] + [0] * 19 and original[1, 0] == 500


@pytest.mark.parametrize("masking", [MASKING, WHOLE_WORDS], ids=["tokens", "words"])
@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 10**12), begin=st.integers(0, 20), end=st.integers(0, 20))
def test_a_sample_is_masked_by_its_number_alone(masking, first, begin, end):
    begin, end = sorted((begin, end))
    ids, masker = rows(20, 32), Masker(masking)
    whole = masker.mask(ids, KEY, first)
    part = masker.mask(ids[begin:end], KEY, first + begin)
    assert all((a[begin:end] == b).all() for a, b in zip(whole, part, strict=True))


@pytest.mark.parametrize("masking", [MASKING, WHOLE_WORDS], ids=["tokens", "words"])
def test_a_rate_for_each_row_is_that_rows_constant_rate(masking):
    ids, wide = rows(40), replace(masking, max_predictions_per_seq=60)
    rates = np.linspace(0.4, 0.05, len(ids))
    mixed = Masker(wide).mask(ids, KEY, 7, rates)
    for row, rate in enumerate(rates.tolist()):
        constant = Masker(replace(wide, masked_lm_prob=rate)).mask(ids[row : row + 1], KEY, 7 + row)
        assert all((a[row] == b[0]).all() for a, b in zip(mixed, constant, strict=True))
    own = Masker(wide).mask(ids, KEY, 7, np.full(len(ids), wide.masked_lm_prob))
    unset = Masker(wide).mask(ids, KEY, 7)
    assert all((a == b).all() for a, b in zip(own, unset, strict=True))


def test_lower_rates_predict_a_subset():
    ids, masker = rows(50), Masker(replace(MASKING, max_predictions_per_seq=60))
    low, high = (masker.mask(ids, KEY, rates=rate).masked_lm_positions for rate in (0.1, 0.4))
    for few, many in zip(low, high, strict=True):
        assert set(few[few > 0].tolist()) <= set(many[many > 0].tolist())


def test_keys_and_numbers_give_other_masks():
    ids = rows(50)
    masker = Masker(MASKING)
    first = masker.mask(ids, KEY).input_ids
    assert (first != masker.mask(ids, masking_key(3)).input_ids).any()
    assert (first != masker.mask(ids, KEY, first_sample=50).input_ids).any()


def test_draws_are_uniform_and_distinct():
    draws = random_draws(KEY, 5, 1000, 131)
    assert draws.shape == (1000, 131) and draws.dtype == np.uint32
    assert abs(draws.mean() / 2**32 - 0.5) < 0.005
    assert len(np.unique(draws)) > 0.999 * draws.size


def words_of(ids):
    """Positions of each word of a row that may be predicted."""
    words, after_candidate = [], False
    for position, token in enumerate(ids.tolist()):
        candidate = token >= len(BANNED)
        if candidate and token in CONTINUING and after_candidate:
            words[-1].append(position)
        elif candidate:
            words.append([position])
        after_candidate = candidate
    return words


def test_whole_words():
    ids = rows(400)
    positions = Masker(WHOLE_WORDS).mask(ids, KEY).masked_lm_positions
    limit = allowed_predictions(ids)
    for row, most, row_positions in zip(ids, limit, positions, strict=True):
        taken = set(row_positions[row_positions > 0].tolist())
        parts = [len(taken.intersection(word)) / len(word) for word in words_of(row)]
        cut = [part for part in parts if 0 < part < 1]
        assert 0 < len(taken) <= most
        assert not cut or (len(cut) == 1 and len(taken) == most and 1 not in parts)
    number = (positions > 0).sum()
    assert number > 0.9 * limit.sum()  # little is given away by words that do not fit
