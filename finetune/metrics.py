"""GLUE's metrics. Undefined values (a constant prediction) count as 0, as on the leaderboard."""

import math
import warnings
from collections.abc import Mapping
from statistics import mean

import numpy as np

from finetune.tasks import Task


def score_predictions(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics, each within [-1, 1].

    predictions: [N] class indices, or scores of a regression task; labels: [N] alike.
    """
    from scipy import stats
    from sklearn import metrics

    functions = {
        "accuracy": metrics.accuracy_score,
        "f1": metrics.f1_score,  # of class 1
        "matthews_correlation": metrics.matthews_corrcoef,
        "pearson": lambda labels, scores: stats.pearsonr(labels, scores).statistic,
        "spearman": lambda labels, scores: stats.spearmanr(labels, scores).statistic,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constant predictions, which are dealt with here
        values = {name: float(functions[name](labels, predictions)) for name in task.metrics}
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}


def task_score(dev_metrics: Mapping[str, Mapping[str, float]]) -> float:
    """One number for a task: the mean of its metrics, over its dev sets (split -> metrics)."""
    return mean(mean(metrics.values()) for metrics in dev_metrics.values())


def predicted_values(task: Task, logits: np.ndarray) -> np.ndarray:
    """[N, num_labels] model outputs to [N] class indices, or to [N] scores within the range."""
    if task.is_regression:
        return np.clip(logits[:, 0], *task.score_range)
    return logits.argmax(axis=1)
