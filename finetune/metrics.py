"""GLUE's metrics. Undefined values (a constant prediction) count as 0, as on the leaderboard."""

from collections.abc import Mapping
from statistics import mean

import numpy as np

from finetune.tasks import Task


def score_predictions(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics, each within [-1, 1].

    predictions: [N] class indices, or scores of a regression task; labels: [N] alike.
    """
    return {name: _METRICS[name](predictions, labels) for name in task.metrics}


def task_score(dev_metrics: Mapping[str, Mapping[str, float]]) -> float:
    """One number for a task: the mean of its metrics, over its dev sets (split -> metrics)."""
    return mean(mean(metrics.values()) for metrics in dev_metrics.values())


def predicted_values(task: Task, logits: np.ndarray) -> np.ndarray:
    """[N, num_labels] model outputs to [N] class indices, or to [N] scores within the range."""
    if task.is_regression:
        return np.clip(logits[:, 0], *task.score_range)
    return logits.argmax(axis=1)


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float((predictions == labels).mean())


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1: 2 TP / (2 TP + FP + FN)."""
    true_positives = np.sum((predictions == 1) & (labels == 1))
    return _ratio(2 * true_positives, np.sum(predictions == 1) + np.sum(labels == 1))


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """For two classes, Matthews' coefficient is the correlation of the two indicators."""
    return _pearson(predictions, labels)


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    if np.ptp(predictions) == 0:  # rounding would leave a tiny variance
        return 0.0
    x = predictions.astype(np.float64) - predictions.mean(dtype=np.float64)
    y = labels.astype(np.float64) - labels.mean(dtype=np.float64)
    return _ratio(x @ y, np.sqrt((x @ x) * (y @ y)))


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    return _pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return ((2 * last - counts + 1) / 2)[inverse]


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else 0.0


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
