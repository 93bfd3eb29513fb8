"""The base of all types of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from finetune.data.encoding import encode
from finetune.data.examples import Examples
from finetune.data.tasks import Split, Task
from finetune.data.tokens import Encoded, Padding
from finetune.evaluation.dev_predictions import DevPredictions, predictions_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# What a model decides by besides its outputs, found on the dev sets. Written to its config.json.
Decision = Mapping[str, float]
Predictions = list[tuple[str, str]]  # (index, prediction) of each row of a test set


class TaskType(ABC):
    """Labels, loss, metrics and predictions of a type of task; by default with one label per text.

    auto_class: transformers' class that adds the head. problem_type: its name for the loss, if any.
    is_per_token: True if outputs are [T, num_labels] float32 logits of all tokens, not
    [N, num_labels] of the samples.
    """

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    problem_type: ClassVar[str | None]
    is_per_token: ClassVar[bool] = False

    # --- data ---

    def encode(
        self,
        task: Task,
        examples: Examples,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        token_types: bool,
    ) -> Encoded:
        """Returns the tokenized examples. token_types: True for `token_type_ids`."""
        columns, offsets, counts, words = encode(tokenizer, examples.texts, max_length, token_types)
        labels = self.label_array(task, examples)
        return Encoded(columns, offsets, labels, replace(examples, texts=[]), counts, words)

    def label_array(self, task: Task, examples: Examples) -> np.ndarray:
        """Returns the labels for `encode`, as the loss takes them; empty if the split has none."""
        raise NotImplementedError

    def batch_labels(self, data: Encoded, indices: np.ndarray, padding: Padding) -> np.ndarray:
        """Returns the labels of some samples, beside their padded tokens."""
        return data.labels[indices]

    # --- loss ---

    @abstractmethod
    def summed_loss(
        self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None" = None
    ) -> "Tensor":
        """Returns the sum of the losses.

        logits: float32, as the model gives them. weights: of the classes, [num_labels] float32.
        """

    def num_targets(self, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
        """Returns the number of losses in a sum, or the sum of their weights."""
        return len(labels)

    def class_weights(self, task: Task, labels: np.ndarray) -> np.ndarray | None:
        """Returns the weights of the classes by the training labels, or None if all count alike."""
        return None

    # --- scores ---

    def decision(
        self, task: Task, outputs: Mapping[Split, np.ndarray], dev: Mapping[Split, Encoded]
    ) -> Decision:
        """Returns the values to decide by, chosen for the best score on the dev sets."""
        return {}

    @abstractmethod
    def score(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, float]:
        """Returns the task's metrics, each within [-1, 1]."""

    def details(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, Any]:
        """Returns more about a dev set than the metrics, for the result."""
        return {}

    @abstractmethod
    def predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> Predictions:
        """Returns the prediction for each row of a test set, in the file's order."""

    def dev_predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> DevPredictions:
        """Returns the predictions on a dev set, next to the right answers."""
        return predictions_of(task, outputs, data.examples)

    def majority_baseline(
        self, task: Task, train: Encoded, dev: Mapping[str, Encoded]
    ) -> dict[str, Any]:
        """Returns `label` and `score` of the best constant prediction, or {} if there is none."""
        return {}

    def only_label(self, task: Task, outputs: Sequence[np.ndarray], decision: Decision) -> str:
        """Returns the label if a model predicts the same for all dev rows, else ""."""
        return ""
