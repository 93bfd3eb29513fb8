"""Parts of a train file: exact sizes, the same mix of strata, no group on two sides, no chance."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.dev_split import (
    classes_missing,
    folds,
    held_out,
    linked_rows,
    strata_of_scores,
    strata_of_sets,
)

# Rows as pairs of a stratum and a group.
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=2, max_size=80)
SHARES = st.floats(0.05, 0.6)


def columns(rows):
    return np.array(rows).T


@given(ROWS, SHARES, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_groups_are_on_one_side_and_the_dev_part_is_not_too_large(rows, share, seed):
    strata, groups = columns(rows)
    try:
        mask = held_out(strata, groups, share, seed)
    except ValueError:
        return
    assert 0 < mask.sum() <= np.floor(share * len(rows) + 0.5) and mask.dtype == bool
    assert not set(groups[mask]) & set(groups[~mask])


@given(ROWS, st.integers(2, 6), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_groups_are_in_one_fold_and_no_fold_is_empty(rows, k, seed):
    strata, groups = columns(rows)
    try:
        found = folds(strata, groups, k, seed)
    except ValueError as error:
        assert "expected a group or more for each fold" in str(error)
        return
    assert found.dtype == np.int8 and set(found) == set(range(k))
    assert all(len(set(found[groups == group])) == 1 for group in set(groups))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), SHARES, st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_without_groups_sizes_and_strata_are_exact(labels, share, k):
    strata, groups = np.array(labels), np.arange(len(labels))
    counts = np.bincount(strata, minlength=5)
    wanted = np.floor(share * len(labels) + 0.5)
    if 0 < wanted <= len(labels) - np.count_nonzero(counts):
        mask = held_out(strata, groups, share, 0)
        assert mask.sum() == wanted and set(strata[~mask]) == set(labels)
        if counts[counts > 0].min() > 1 / (1 - share) + 1:
            assert (abs(np.bincount(strata[mask], minlength=5) - share * counts) < 1).all()
    if k <= len(labels):
        found = folds(strata, groups, k, 0)
        by_fold = np.array([np.bincount(strata[found == n], minlength=5) for n in range(k)])
        assert np.ptp(by_fold, axis=0).max() <= 1 and np.ptp(by_fold.sum(axis=1)) <= 1


def test_strata_are_even_with_groups():
    """Patients with 1 to 12 notes of three classes, in unequal mixes."""
    random = np.random.RandomState(1)
    groups = np.repeat(np.arange(300), random.randint(1, 13, 300))
    strata = (random.rand(len(groups)) < 0.1 + 0.5 * (groups % 3 == 0)).astype(int)
    strata[random.rand(len(groups)) < 0.02] = 2
    shares = np.bincount(strata) / len(strata)
    mask = held_out(strata, groups, 0.1, 0)
    assert abs(mask.mean() - 0.1) < 0.001
    assert np.abs(np.bincount(strata[mask]) / mask.sum() - shares).max() < 0.03
    found = folds(strata, groups, 5, 0)
    assert np.ptp(np.bincount(found)) <= 2
    for fold in range(5):
        part = strata[found == fold]
        assert np.abs(np.bincount(part) / len(part) - shares).max() < 0.01


def test_many_small_classes_have_their_share():
    """Rounding for each would leave all of them out."""
    strata = np.repeat(np.arange(400), 3)
    mask = held_out(strata, np.arange(1200), 0.1, 0)
    assert mask.sum() == 120 and len(set(strata[mask])) == 120


def test_a_split_is_the_same_everywhere():
    """Literals: another split would give other scores under the same name."""
    strata, groups = np.arange(500) % 7 % 3, np.arange(500) // 3 * (np.arange(500) % 2)
    parts = [held_out(strata, groups, 0.1, 0), folds(strata, groups, 5, 0)]
    parts += [held_out(strata, np.arange(500), 0.1, 3), folds(strata, np.arange(500), 5, 3)]
    digests = [hashlib.sha256(part.astype(np.int8).tobytes()).hexdigest()[:12] for part in parts]
    assert digests == ["285e85bf17a5", "20f70a21ec6a", "5b58dc331c1f", "c482b52c02b7"]
    assert (held_out(strata + 5, groups * 2 + 1, 0.1, 0) == parts[0]).all()
    assert (folds(strata, groups, 5, 1) != parts[1]).any()


def test_rows_that_cannot_be_split():
    strata, whole = np.zeros(20, int), np.zeros(20, int)
    with pytest.raises(ValueError, match="smallest group has 20 rows, more than the 2 to hold out"):
        held_out(strata, whole, 0.1, 0)
    with pytest.raises(ValueError, match=r"0\.01 of 20 rows is no row"):
        held_out(strata, np.arange(20), 0.01, 0)
    with pytest.raises(ValueError, match=r"5 folds of 20 rows in 1 groups, expected a group"):
        folds(strata, whole, 5, 0)
    with pytest.raises(ValueError, match=r"1 folds, expected 2 to"):
        folds(strata, whole, 1, 0)


# --- strata and groups ------------------------------------------------------------------------


def test_bins_of_scores_are_even_and_equal_scores_are_together():
    scores = np.random.RandomState(0).permutation(1000) / 10
    assert set(np.bincount(strata_of_scores(scores))) == {100}
    assert len(set(strata_of_scores([0.0] * 500 + list(range(10))))) < 10
    same = strata_of_scores([1.0, 2.0, 2.0, 1.0, 5.0])
    assert same[0] == same[3] and same[1] == same[2]


def test_the_rarest_label_is_the_stratum():
    rows = [["a", "b"], ["a"], [], ["a", "c", "c"], ["b"], []]
    found = strata_of_sets(rows)
    assert found[2] == found[5] == -1 and found[0] == found[4]
    assert len({found[0], found[1], found[2], found[3]}) == 4


def test_rows_of_the_same_text_or_group_are_linked():
    texts = ["a", "b", "c", "a", "d", "e"]
    assert list(linked_rows(texts)) == [0, 1, 2, 0, 4, 5]
    assert list(linked_rows(texts, ["x", "x", "y", "z", "z", "w"])) == [0, 0, 2, 0, 0, 5]


def test_classes_missing_in_a_part():
    parts = {"train": {0: 3, 1: 1}, "dev": {0: 1}}
    told = "dev has no row with the label b, as there are too few"
    assert list(classes_missing(parts, ["a", "b", "c"])) == [told]
    assert list(classes_missing({"train": {0: 3}, "dev": {0: 1}}, ["a", "b"])) == []
