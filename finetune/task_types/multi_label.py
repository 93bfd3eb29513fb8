"""Tasks with any number of labels per text or pair of texts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.examples import Examples
from finetune.data.tasks import Split, Task
from finetune.data.tokens import Encoded
from finetune.evaluation.dev_predictions import LabelSets, row_names
from finetune.task_types.label_set_metrics import (
    USUAL_THRESHOLD,
    average_precisions,
    best_constant,
    best_threshold,
    f1_of_labels,
    macro_f1,
    mean_average_precision,
    micro_f1,
    sigmoid,
)
from finetune.task_types.task_type import Decision, Predictions, TaskType

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = "threshold"  # of probabilities, the same for all labels
NO_LABEL = "no label"  # in place of labels, in messages


class MultiLabel(TaskType):
    """Each label holds or not, whatever the others. Labels: [N, num_labels] float32, 1 or 0."""

    problem_type = "multi_label_classification"

    def label_array(self, task: Task, examples: Examples) -> np.ndarray:
        labels = np.zeros((len(examples.labels), len(task.labels)), np.float32)
        for row, positions in zip(labels, examples.labels, strict=True):
            row[list(positions)] = 1
        return labels

    # --- loss ---

    def summed_loss(
        self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None" = None
    ) -> "Tensor":
        """Returns the sum of the binary cross entropies of all labels. weights: none."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, labels, reduction="sum")

    def num_targets(self, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
        return labels.size

    # --- scores ---

    def decision(
        self, task: Task, outputs: Mapping[Split, np.ndarray], dev: Mapping[Split, Encoded]
    ) -> Decision:
        """Returns the `threshold` of the probabilities; 0.5 for folds.

        The model of all folds' rows has no dev set to choose one by, so the folds have none either.
        """
        if task.num_folds or not outputs:
            return {THRESHOLD: USUAL_THRESHOLD}
        labels = np.concatenate([_are_true(dev[split]) for split in outputs])
        probabilities = sigmoid(np.concatenate(list(outputs.values())))
        return {THRESHOLD: best_threshold(labels, probabilities, task.metrics)}

    def score(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, float]:
        labels, predicted = _are_true(data), _predicted(outputs, decision)
        metrics = {
            "f1_micro": lambda: micro_f1(labels, predicted),
            "f1_macro": lambda: macro_f1(labels, predicted),
            "average_precision": lambda: mean_average_precision(labels, outputs),
        }
        return {name: metrics[name]() for name in task.metrics}

    def details(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, Any]:
        """Returns the mean scores, the threshold, and the scores and the rows of each label.

        A label without rows has no average precision, and is not in its mean.
        """
        labels, predicted = _are_true(data), _predicted(outputs, decision)
        precisions = average_precisions(labels, outputs).tolist()
        of_labels = zip(
            task.labels,
            f1_of_labels(labels, predicted).tolist(),
            precisions,
            labels.sum(axis=0).tolist(),
            predicted.sum(axis=0).tolist(),
            strict=True,
        )
        return {
            "f1_micro": micro_f1(labels, predicted),
            "f1_macro": macro_f1(labels, predicted),
            "average_precision": mean_average_precision(labels, outputs),
            THRESHOLD: decision[THRESHOLD],
            "per_label": {
                word: {
                    "f1": f1,
                    "average_precision": precision if rows else None,
                    "rows": rows,
                    "predicted": found,
                }
                for word, f1, precision, rows, found in of_labels
            },
        }

    def predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> Predictions:
        """Returns the labels of each row with the separator between them, "" for none."""
        predicted = _predicted(outputs, decision)
        return [(str(i), _joined(task, row.nonzero()[0])) for i, row in enumerate(predicted)]

    def dev_predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> LabelSets:
        """Returns the labels of each row, with a probability for each label."""
        return LabelSets(
            rows=row_names(data.examples),
            words=tuple(task.labels),
            labels=_are_true(data),
            predictions=_predicted(outputs, decision),
            probabilities=sigmoid(outputs).round(6),
        )

    def majority_baseline(
        self, task: Task, train: Encoded, dev: Mapping[str, Encoded]
    ) -> dict[str, Any]:
        """Returns the best answer to all rows of the dev sets, whatever the training labels."""
        labels = np.concatenate([_are_true(data) for data in dev.values()])
        positions, score = best_constant(labels, task.metrics)
        return {"label": _joined(task, positions), "score": score}

    def only_label(self, task: Task, outputs: Sequence[np.ndarray], decision: Decision) -> str:
        predicted = _predicted(np.concatenate(outputs), decision) if outputs else np.empty((0, 0))
        if len(predicted) < 2 or (predicted != predicted[0]).any():
            return ""
        return _joined(task, predicted[0].nonzero()[0]) or NO_LABEL


def _are_true(data: Encoded) -> np.ndarray:
    return data.labels > 0.5


def _predicted(outputs: np.ndarray, decision: Decision) -> np.ndarray:
    """Returns the labels that hold, [N, num_labels] bool. outputs: logits."""
    return sigmoid(outputs) >= decision.get(THRESHOLD, USUAL_THRESHOLD)


def _joined(task: Task, positions: Sequence[int] | np.ndarray) -> str:
    words = list(task.labels)
    return task.separator.join(words[position] for position in positions)
