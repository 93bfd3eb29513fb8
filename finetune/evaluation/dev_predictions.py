"""A run's predictions on a dev set, next to the right answers, without any text.

There is a class for each kind of task. All arrays begin with a dimension of N rows (for TokenTags:
tokens), in the order of the dev set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from finetune.data.examples import Examples
from finetune.data.tasks import Task
from finetune.task_types.label_metrics import (
    chosen_samples,
    entity_matches,
    predicted_values,
)
from pipeline.errors import StageError

CHOICES = ("0", "1")  # COPA's labels
Kind = TypeVar("Kind", bound="DevPredictions")


@dataclass(frozen=True)
class DevPredictions:
    """rows: [N] identifiers, as the `index` of the files with test predictions."""

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[tuple]:
        """Identifies each element of the arrays."""
        return [(row,) for row in self.rows.tolist()]

    @property
    def gold(self) -> list:
        """The right answers, to compare those of two runs; empty if none are kept."""
        return []

    def taken(self: Kind, order: Sequence[int]) -> Kind:
        """Returns the rows at these positions."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        picked = {k: v[list(order)] for k, v in arrays.items() if isinstance(v, np.ndarray)}
        return replace(self, **picked)


@dataclass(frozen=True)
class Classes(DevPredictions):
    """words: the C labels. labels, predictions: [N] positions in `words`. probabilities: [N, C]."""

    words: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    @property
    def gold(self) -> list:
        return [self.words[label] for label in self.labels]


@dataclass(frozen=True)
class Scores(DevPredictions):
    """labels, predictions: [N] scores of a regression."""

    labels: np.ndarray
    predictions: np.ndarray

    @property
    def gold(self) -> list:
        return self.labels.round(6).tolist()


@dataclass(frozen=True)
class LabelSets(DevPredictions):
    """Of rows with any number of labels. words: the C labels. labels, predictions: [N, C] bool.

    probabilities: [N, C], one for each label on its own.
    """

    words: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    @property
    def gold(self) -> list:
        return [
            {self.words[i] for i in np.flatnonzero(row)} for row in np.asarray(self.labels, bool)
        ]


@dataclass(frozen=True)
class TokenTags(DevPredictions):
    """rows: [N] the sentence of each token. tokens: [N] positions in it, from 0.

    labels, predictions: [N] tags as text. probabilities: [N] of the predicted tag.
    """

    tokens: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    @property
    def keys(self) -> list[tuple]:
        return list(zip(self.rows.tolist(), self.tokens.tolist(), strict=True))

    @property
    def gold(self) -> list:
        return self.labels.tolist()


@dataclass(frozen=True)
class Matches(DevPredictions):
    """How well each query of ReCoRD is answered; its labels are texts. names: the K metrics.

    values: [N, K] within [0, 1], with the metrics as their means.
    """

    names: tuple[str, ...]
    values: np.ndarray


def row_names(examples: Examples) -> np.ndarray:
    """Returns `rows` of samples that are a row each."""
    keys = examples.keys or [(number,) for number in range(len(examples.labels))]
    return np.array(["-".join(map(str, key)) for key in keys])


# --- from outputs ------------------------------------------------------------------------------


def predictions_of(task: Task, outputs: np.ndarray, examples: Examples) -> DevPredictions:
    """Returns the predictions on a dev set of GLUE, SuperGLUE, or a task of one label per row.

    outputs: [N, num_labels] logits. Rounds as the files do, so metrics of the result and of the
    file read again are the same.
    """
    if task.layout == "entities":
        return _queries(outputs, examples)
    if task.layout == "choices":
        return _choices(outputs, examples)
    rows = row_names(examples)
    if task.is_regression:
        labels = np.asarray(examples.labels, np.float64).round(6)
        return Scores(rows, labels, predicted_values(task, outputs).astype(np.float64).round(6))
    labels = np.asarray(examples.labels).astype(np.int64)
    found, shares = predicted_values(task, outputs), softmax(outputs)
    return Classes(rows, tuple(task.labels), labels, found, shares)


def _choices(outputs: np.ndarray, examples: Examples) -> Classes:
    """COPA: a row for each question; the probability of a choice grows with its margin."""
    chosen = chosen_samples(outputs, examples.keys)
    margins = np.zeros((len(chosen), 2))
    labels = np.zeros(len(chosen), np.int64)
    place = {row: i for i, row in enumerate(chosen)}
    for (row, choice), output, label in zip(examples.keys, outputs, examples.labels, strict=True):
        margins[place[row], choice] = output[1] - output[0]
        if label:
            labels[place[row]] = choice
    predictions = np.array([examples.keys[i][1] for i in chosen.values()])
    rows = np.array(list(map(str, chosen)))
    return Classes(rows, CHOICES, labels, predictions, softmax(margins))


def _queries(outputs: np.ndarray, examples: Examples) -> Matches:
    matches = entity_matches(outputs, examples)
    rows = np.array(list(map(str, examples.answers)))
    values = np.array(list(zip(*matches.values(), strict=True)), np.float64).round(6)
    return Matches(rows, tuple(matches), values)


def joined(parts: Sequence[Kind]) -> Kind:
    """Returns the predictions on all folds of a train set as those on one dev set."""
    first = parts[0]
    arrays = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(first)
        if isinstance(getattr(first, f.name), np.ndarray)
    }
    return replace(first, **arrays)


def softmax(outputs: np.ndarray) -> np.ndarray:
    """Returns probabilities [N, C] with 6 decimals, as in the files."""
    shares = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)).round(6)


# --- the rows of two runs ----------------------------------------------------------------------


def in_order_of(first: Kind, second: Kind, place: str) -> Kind:
    """Returns the second run's predictions in the first one's order of rows.

    place: the dev set, for the message. Raises StageError unless both have the same rows with the
    same right answers.
    """
    expected, found = first.keys, {key: i for i, key in enumerate(second.keys)}
    missing = [key for key in expected if key not in found]
    more = set(found) - set(expected)
    if missing or more:
        key, which = (missing[0], "second") if missing else (min(more), "first")
        raise StageError(
            f"{place}: row {'/'.join(map(str, key))} is missing in the {which} of two runs; "
            "only scores on the same dev rows can be compared"
        )
    ordered = second.taken([found[key] for key in expected])
    for key, one, other in zip(expected, first.gold, ordered.gold, strict=True):
        if one != other:
            raise StageError(
                f"{place}: the label of row {'/'.join(map(str, key))} differs between two runs; "
                "only scores on the same dev rows can be compared"
            )
    return ordered
