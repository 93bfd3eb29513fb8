"""Scores of predicted sets of labels, as scikit-learn computes them, and the threshold for them.

All arrays are [N, C]: N rows, C labels.
"""

from collections.abc import Callable, Sequence

import numpy as np

USUAL_THRESHOLD = 0.5
# Smaller differences of scores decide nothing: they are not the same on each machine.
DIGITS = 12


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities, float64."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


# --- metrics ----------------------------------------------------------------------------------


def f1_of_labels(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns [C]; 0 for a label that is neither predicted nor true. labels, predicted: bool."""
    right = (labels & predicted).sum(axis=0)
    return _f1(right, predicted.sum(axis=0) + labels.sum(axis=0))


def micro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the F1 of all decisions on labels together."""
    return float(_f1((labels & predicted).sum(), predicted.sum() + labels.sum()))


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the mean of all labels' F1, also of those without rows."""
    return float(f1_of_labels(labels, predicted).mean())


def _f1(right: np.ndarray, predicted_and_true: np.ndarray) -> np.ndarray:
    return 2 * right / np.maximum(predicted_and_true, 1)


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns [C], the precision averaged over the true rows of a label; NaN without any.

    scores: higher ones are more likely true.
    """
    from sklearn.metrics import average_precision_score

    return np.array(
        [
            average_precision_score(of_label, found) if of_label.any() else np.nan
            for of_label, found in zip(labels.T, scores.T, strict=True)
        ]
    )


def mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean over the labels with rows; 0 if there are none."""
    found = average_precisions(labels, scores)
    return float(np.nanmean(found)) if labels.any() else 0.0


# --- the threshold ----------------------------------------------------------------------------


def best_threshold(labels: np.ndarray, probabilities: np.ndarray, metrics: Sequence[str]) -> float:
    """Returns the threshold with the best mean of the F1 among `metrics`, else the best micro F1.

    Labels with at least this probability are predicted. All thresholds that make a difference are
    tried, so none is better. Of equally good ones it is the closest to 0.5.
    """
    if not labels.any():
        return USUAL_THRESHOLD
    order = np.argsort(-probabilities, axis=None, kind="stable")
    values = probabilities.ravel()[order]
    last = np.flatnonzero(np.diff(values, append=-1))  # equal ones are predicted together
    curves = [CURVES[name](labels, order)[last] for name in metrics if name in CURVES]
    scores = np.mean(curves or [_micro_curve(labels, order)[last]], axis=0).round(DIGITS)
    highest, lowest = values[last], np.append(values[last[1:]], 0.0)
    beyond = np.nextafter(lowest, 1.0)  # a threshold is above the lower end
    away = np.maximum(0, np.maximum(beyond - USUAL_THRESHOLD, USUAL_THRESHOLD - highest))
    best = np.flatnonzero(scores == scores.max())
    winner = best[away[best].argmin()]
    return _between(float(lowest[winner]), float(highest[winner]))


def _between(low: float, high: float) -> float:
    """Returns 0.5 or a short number near the middle, more than `low` and at most `high`."""
    if low < USUAL_THRESHOLD <= high:
        return USUAL_THRESHOLD
    tried = (round((low + high) / 2, digits) for digits in range(1, 18))
    return next((number for number in tried if low < number <= high), high)


def _micro_curve(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns [N C]: micro F1 if the first 1, 2, ... of these positions are predicted."""
    right = np.cumsum(labels.ravel()[order])
    return _f1(right, np.arange(1, len(order) + 1) + labels.sum())


def _macro_curve(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns macro F1 likewise: each position changes the F1 of its label alone."""
    num_rows, num_labels = labels.shape
    by_label = np.argsort(order % num_labels, kind="stable")
    right = np.cumsum(labels.ravel()[order][by_label].reshape(num_labels, num_rows), axis=1)
    f1 = _f1(right, np.arange(1, num_rows + 1) + labels.sum(axis=0)[:, None])
    changes = np.empty(len(order))
    changes[by_label] = np.diff(f1, axis=1, prepend=0).ravel()
    return np.cumsum(changes) / num_labels


Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]
CURVES: dict[str, Curve] = {"f1_micro": _micro_curve, "f1_macro": _macro_curve}


# --- a baseline -------------------------------------------------------------------------------


def best_constant(labels: np.ndarray, metrics: Sequence[str]) -> tuple[list[int], float]:
    """Returns the labels that are the best answer if all rows have the same, and their score.

    With so many labels, the most frequent ones are the best; the average precision of a constant is
    the label's share of the rows. Of equal scores, fewer labels count.
    """
    num_rows, num_labels = labels.shape
    counts = labels.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    right, sizes = np.cumsum(counts[order]), np.arange(1, num_labels + 1)
    values = {
        "f1_micro": _f1(right, num_rows * sizes + counts.sum()),
        "f1_macro": np.cumsum(_f1(counts, num_rows + counts)[order]) / num_labels,
        "average_precision": np.full(num_labels, counts[counts > 0].mean() / num_rows),
    }
    scores = np.mean([values[name] for name in metrics], axis=0)
    winner = int(scores.round(DIGITS).argmax())
    return sorted(order[: winner + 1].tolist()), float(scores[winner])
