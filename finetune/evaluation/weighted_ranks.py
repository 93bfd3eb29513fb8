"""Metrics of the order of rows, of resamples given as weights.

A weight is the number of times that a row is in the resample; [B, N] for B resamples of N rows.
"""

import numpy as np


def spearman(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation of the ranks, tied ones averaged, as [B]; 0 if undefined."""
    x, y = _ranks(labels, weights), _ranks(scores, weights)
    n = weights.sum(axis=1, keepdims=True)
    x -= (weights * x).sum(axis=1, keepdims=True) / n
    y -= (weights * y).sum(axis=1, keepdims=True) / n
    spread = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    covariance = (weights * x * y).sum(axis=1)
    is_defined = spread > 0
    return np.where(is_defined, covariance / np.where(is_defined, spread, 1), 0.0)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the ranks [B, N] of the rows within each resample, from 1."""
    order, starts, groups = _ties(values)
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    # Copies of a value have the ranks from end - count + 1 to end.
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, groups]


def mean_average_precision(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns the mean of the labels' average precisions as [B].

    labels: [N, C] bool. probabilities: [N, C]. The average precision is that of scikit-learn: the
    sum over thresholds of the precision there, times the gain in recall. A label without a row in
    a resample has none, and is left out (scikit-learn counts it as 0); 0 if all labels are.
    """
    by_row = np.ascontiguousarray(weights.T)  # its rows are picked quickly
    total, known = np.zeros(len(weights)), np.zeros(len(weights))
    for is_positive, shares in zip(labels.T, probabilities.T, strict=True):
        positives = np.flatnonzero(is_positive)
        if not len(positives):
            continue
        order = np.argsort(-shares, kind="stable")
        # For each positive row, the number of rows down to its probability, with those equal to it.
        ranks = np.searchsorted(-shares[order], -shares[positives], side="right")
        cuts, places = np.unique(ranks, return_inverse=True)
        above = np.cumsum(np.add.reduceat(by_row[order[: cuts[-1]]], [0, *cuts[:-1]]), axis=0)
        right = np.zeros_like(above)
        np.add.at(right, places, by_row[positives])
        precision = np.cumsum(right, axis=0) / np.where(above > 0, above, 1)
        count = right.sum(axis=0)
        total += (right * precision).sum(axis=0) / np.where(count > 0, count, 1)
        known += count > 0
    return total / np.where(known > 0, known, 1)


def _ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ascending order [N], the starts of equal values in it [G], and the group of each
    row [N]."""
    order = np.argsort(values, kind="stable")
    _, starts, groups = np.unique(values, return_index=True, return_inverse=True)
    ranked = np.searchsorted(values[order], values[starts])
    return order, ranked, groups
