"""The columns that a classifier of texts adds to a table.

| type | columns |
|---|---|
| classification | `label`, `probability` (of the label), `probability_<label>` of each label |
| multi_label | `label` (the labels), `probability_<label>` of each label |
| regression | `score` |

Numbers have 6 decimals.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from finetune.data.examples import Examples
from finetune.data.tasks import Task
from finetune.data.tokens import Encoded
from finetune.task_types.task_type import Decision
from finetune.task_types.task_types import type_of

DIGITS = 6
LABEL, PROBABILITY, SCORE = "label", "probability", "score"
Answer = str | float
NO_LABELS = np.empty(0)


class _Scale(NamedTuple):
    """Turns logits into the means' unit, and back."""

    of_logits: Callable[[np.ndarray], np.ndarray]
    to_logits: Callable[[np.ndarray], np.ndarray]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of classes, in the last dimension of two."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return _log(probabilities) - _log(1 - probabilities)


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, np.finfo(values.dtype).tiny))


_SCALES: dict[str | None, _Scale] = {
    "single_label_classification": _Scale(softmax, _log),
    "multi_label_classification": _Scale(_sigmoid, _logit),
    "regression": _Scale(np.copy, np.copy),
}


def answer_columns(task: Task) -> list[str]:
    if task.is_regression:
        return [SCORE]
    probabilities = [f"{PROBABILITY}_{word}" for word in task.labels]
    return [LABEL, *([PROBABILITY] if _has_one_label(task) else []), *probabilities]


def _has_one_label(task: Task) -> bool:
    return type_of(task).problem_type == "single_label_classification"


def answers_of(task: Task, outputs: np.ndarray, decision: Decision) -> list[list[Answer]]:
    """Returns the values of `answer_columns` for each row, labels as the search predicts them.

    outputs: [rows, num_labels] float32 logits or scores.
    """
    data = Encoded({}, np.zeros(len(outputs) + 1, np.int64), NO_LABELS, Examples([]))
    labels = [label for _, label in type_of(task).predictions(task, outputs, data, decision)]
    if task.is_regression:
        return [[float(score)] for score in labels]  # they have as many decimals
    probabilities = _SCALES[type_of(task).problem_type].of_logits(outputs.astype(np.float64))
    rows = [[round(value, DIGITS) for value in row] for row in probabilities.tolist()]
    if not _has_one_label(task):
        return [[label, *row] for label, row in zip(labels, rows, strict=True)]
    places = {word: place for place, word in enumerate(task.labels)}
    return [[label, row[places[label]], *row] for label, row in zip(labels, rows, strict=True)]


def pooled(task: Task, outputs: np.ndarray, num_windows: np.ndarray) -> np.ndarray:
    """Returns logits of the mean probabilities of each row's windows, or their mean scores.

    outputs: [windows, num_labels] float32. num_windows: [rows]. A single window keeps its logits.
    Returns [rows, num_labels] float32.
    """
    scale = _SCALES[type_of(task).problem_type]
    firsts = np.cumsum(num_windows) - num_windows
    found = outputs[firsts]
    for row in np.flatnonzero(num_windows > 1):
        windows = outputs[firsts[row] : firsts[row] + num_windows[row]].astype(np.float64)
        found[row] = scale.to_logits(scale.of_logits(windows).mean(axis=0))
    return found
