"""GLUE's metrics. Undefined values (a constant prediction) count as 0, as on the leaderboard."""

import math
import warnings
from collections.abc import Mapping
from statistics import mean

import numpy as np

from finetune.examples import Examples
from finetune.tasks import Task


def score_predictions(task: Task, outputs: np.ndarray, examples: Examples) -> dict[str, float]:
    """The task's metrics, each within [-1, 1]. outputs: [N, num_labels] of the model."""
    from scipy import stats
    from sklearn import metrics

    functions = {
        "accuracy": metrics.accuracy_score,
        "f1": metrics.f1_score,  # of class 1
        "matthews_correlation": metrics.matthews_corrcoef,
        "pearson": lambda labels, scores: stats.pearsonr(labels, scores).statistic,
        "spearman": lambda labels, scores: stats.spearmanr(labels, scores).statistic,
    }
    predictions = predicted_values(task, outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constant predictions, which are dealt with here
        values = {
            name: float(functions[name](examples.labels, predictions)) for name in task.metrics
        }
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}


def task_score(dev_metrics: Mapping[str, Mapping[str, float]]) -> float:
    """One number for a task: the mean of its metrics, over its dev sets (split -> metrics)."""
    return mean(mean(metrics.values()) for metrics in dev_metrics.values())


def predicted_values(task: Task, outputs: np.ndarray) -> np.ndarray:
    """[N, num_labels] model outputs to [N] class indices, or to [N] scores within the range."""
    if task.is_regression:
        return np.clip(outputs[:, 0], *task.score_range)
    return outputs.argmax(axis=1)


def predicted_rows(task: Task, outputs: np.ndarray, examples: Examples) -> list[tuple[str, str]]:
    """(index, prediction) of each row of a test set: label words, or scores with 6 decimals."""
    values = predicted_values(task, outputs)
    if task.is_regression:
        return [(str(i), f"{value:.6f}") for i, value in enumerate(values)]
    words = list(task.labels)
    return [(str(i), words[value]) for i, value in enumerate(values)]
