"""Tasks with one label, or one score, per text or pair of texts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.examples import Examples
from finetune.data.tasks import Task
from finetune.data.tokens import Encoded
from finetune.task_types.label_metrics import (
    majority_baseline,
    only_label,
    predicted_rows,
    score_predictions,
)
from finetune.task_types.task_type import Decision, Predictions, TaskType

if TYPE_CHECKING:
    from torch import Tensor


class Classification(TaskType):
    """One of several labels. Labels: [N] int64."""

    problem_type = "single_label_classification"

    def label_array(self, task: Task, examples: Examples) -> np.ndarray:
        return np.array(examples.labels, np.int64)

    def summed_loss(
        self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None" = None
    ) -> "Tensor":
        """Returns the sum of the cross entropies."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, weights, reduction="sum")

    def num_targets(self, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
        return len(labels) if weights is None else float(weights[labels].sum())

    def class_weights(self, task: Task, labels: np.ndarray) -> np.ndarray | None:
        """Returns N / (C * rows of the class), as scikit-learn's `balanced`; 0 without rows."""
        if not task.class_weights:
            return None
        counts = np.bincount(labels, minlength=len(task.labels))
        weights = len(labels) / (len(counts) * np.maximum(counts, 1)) * (counts > 0)
        return weights.astype(np.float32)

    def score(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, float]:
        return score_predictions(task, outputs, data.examples)

    def predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> Predictions:
        return predicted_rows(task, outputs, data.examples)

    def majority_baseline(
        self, task: Task, train: Encoded, dev: Mapping[str, Encoded]
    ) -> dict[str, Any]:
        found = {name: encoded.examples for name, encoded in dev.items()}
        return majority_baseline(task, train.examples, found)

    def only_label(self, task: Task, outputs: Sequence[np.ndarray], decision: Decision) -> str:
        return only_label(task, outputs)


class Regression(Classification):
    """A score. Labels: [N] float32; outputs: [N, 1]."""

    problem_type = "regression"

    def label_array(self, task: Task, examples: Examples) -> np.ndarray:
        return np.array(examples.labels, np.float32)

    def summed_loss(
        self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None" = None
    ) -> "Tensor":
        """Returns the sum of the squared errors."""
        from torch.nn.functional import mse_loss

        return mse_loss(logits[:, 0], labels, reduction="sum")
