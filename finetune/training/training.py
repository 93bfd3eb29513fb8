"""Finetunes one model, scores it on the dev sets, and predicts the test sets with it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.encoding import load_tokenizer
from finetune.data.examples import has_split
from finetune.data.tasks import Split, Task
from finetune.data.token_counts import TokenCounts, Tokenization, cause_in_words
from finetune.data.tokens import Encoded, Tokens, joined
from finetune.evaluation.dev_predictions import DevPredictions
from finetune.search.job_folder import InputPaths, TrainingSettings
from finetune.task_types.label_metrics import task_score
from finetune.task_types.task_type import Decision, Predictions, TaskType
from finetune.task_types.task_types import type_of
from finetune.training.classifiers import build_classifier, takes_token_types, usable_length
from finetune.training.encoded_splits import load_encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune.training.device_model import DeviceModel
    from finetune.training.loop import TrainingRecord


@dataclass(frozen=True)
class Outcome:
    """The model and the results of a run.

    dev: metrics by dev split; details: more about each. dev_predictions: by dev split. decision:
    see `TaskType`. predictions: (index, prediction) of each row by test split. history: loss and
    learning rate over the steps. evaluations: `step`, `epoch`, `score` during training. majority,
    only_label: as the task's type returns them. counts: rows, steps and tokens. tokenization:
    truncated and unknown tokens.
    """

    model: "PreTrainedModel"
    dev: dict[str, dict[str, float]]
    dev_predictions: dict[Split, DevPredictions]
    decision: Decision
    predictions: dict[Split, Predictions]
    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    majority: dict[str, Any]
    only_label: str
    details: dict[str, dict[str, Any]]
    counts: dict[str, int]
    tokenization: Tokenization

    def as_json(self) -> dict[str, Any]:
        """Returns everything but the model and the predictions."""
        return {
            "dev": self.dev,
            **({"decision": dict(self.decision)} if self.decision else {}),
            "history": self.history,
            "evaluations": self.evaluations,
            "majority": self.majority,
            "only_label": self.only_label,
            **({"details": self.details} if any(self.details.values()) else {}),
            **self.counts,
            **self.tokenization.as_json(),
        }


def finetune_task(
    task: Task,
    paths: InputPaths,
    settings: TrainingSettings,
    log: Callable[[str], None],
    do_train: bool = True,
    do_eval: bool = True,
    do_predict: bool = True,
) -> Outcome:
    """Trains, scores the dev splits and predicts the available test splits.

    The outcome depends only on the arguments and the machine, not on earlier runs of the process.
    Raises ValueError if the training diverges, StageError for unreadable data and for texts
    nearly unknown to the tokenizer.
    """
    from finetune.training.device_model import DeviceModel
    from finetune.training.loop import TrainingRecord, train

    task_type = type_of(task)
    model, asked = build_classifier(paths.weights, task, settings.seed), settings.max_seq_length
    length = usable_length(model, asked)
    data = _load_data(task, paths, length, model, do_train, do_eval, do_predict)
    tokenization = _tokenization(task, paths, data, model, asked)
    log(str(tokenization))
    tokenization.check()
    on_device = DeviceModel(model, load_tokenizer(paths.tokenizer))
    evaluation = _Evaluation(task, on_device, data, settings, log)
    record = TrainingRecord()
    labelled = [split.examples for split in data.labelled]
    left_out = [row for found in labelled for row in (*found.malformed, *found.unlabelled)]
    log("\n".join(f"left out: {row}" for row in left_out) or "all rows read")
    if data.train:
        weights = task_type.class_weights(task, data.train.labels)
        record = train(on_device, data.train, settings, task_type, weights, evaluation.score, log)
    return Outcome(
        model=model,
        **evaluation.of_all(),
        history=record.history,
        evaluations=record.evaluations,
        majority=_majority(task, data),
        counts=_counts(data, record),
        tokenization=tokenization,
    )


def check_task(task: Task, paths: InputPaths, max_seq_length: int) -> Tokenization:
    """Returns the truncated and unknown tokens of a task's splits, without any training.

    Raises OSError or ValueError if the model cannot be loaded, StageError as `finetune_task`.
    """
    from finetune.training.device_model import DeviceModel

    model = build_classifier(paths.weights, task, seed=0)
    data = _load_data(task, paths, usable_length(model, max_seq_length), model)
    tokenization = _tokenization(task, paths, data, model, max_seq_length)
    tokenization.check()
    DeviceModel(model, load_tokenizer(paths.tokenizer))  # raises for a wrong tokenizer or GPU
    return tokenization


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """The requested and available splits. train: None without training."""

    train: Encoded | None
    dev: dict[Split, Encoded]
    tests: dict[Split, Encoded]

    @property
    def labelled(self) -> list[Encoded]:
        return [split for split in (self.train, *self.dev.values()) if split]

    @property
    def by_name(self) -> dict[str, Encoded]:
        named = {split.name: encoded for split, encoded in (self.dev | self.tests).items()}
        return ({"train": self.train} if self.train else {}) | named


def _load_data(
    task: Task,
    paths: InputPaths,
    length: int,
    model: "PreTrainedModel",
    do_train: bool = True,
    do_eval: bool = True,
    do_predict: bool = True,
) -> _Data:
    token_types = takes_token_types(model)

    def load(split: Split) -> Encoded:
        return load_encoded(task, split.name, paths.data_dir, paths.tokenizer, length, token_types)

    tests = [split for split in task.test if do_predict and has_split(split, paths.data_dir)]
    return _Data(
        load(task.train) if do_train else None,
        {split: load(split) for split in task.dev if do_eval},
        {split: load(split) for split in tests},
    )


def _tokenization(
    task: Task, paths: InputPaths, data: _Data, model: "PreTrainedModel", asked: int
) -> Tokenization:
    positions, splits = usable_length(model, sys.maxsize), data.by_name
    words = tuple(word for encoded in splits.values() for word in encoded.unknown_words)
    return Tokenization(
        task=task.name,
        max_seq_length=usable_length(model, asked),
        asked=asked,
        positions=positions if positions < sys.maxsize else 0,
        splits={name: TokenCounts.of(encoded.counts) for name, encoded in splits.items()},
        unknown_words=words,
        cause=cause_in_words(load_tokenizer(paths.tokenizer), words),
    )


def _counts(data: _Data, record: "TrainingRecord") -> dict[str, int]:
    return {
        "num_train_rows": len(data.train.counts) if data.train else 0,
        "num_malformed_rows": sum(len(split.examples.malformed) for split in data.labelled),
        "num_unlabelled_rows": sum(len(split.examples.unlabelled) for split in data.labelled),
        "num_dev_rows": sum(len(split.counts) for split in data.dev.values()),
        "num_steps": record.num_steps,
        "num_tokens": record.num_tokens,
    }


def _majority(task: Task, data: _Data) -> dict[str, Any]:
    if not (data.train and data.dev):
        return {}
    dev = {split.name: encoded for split, encoded in data.dev.items()}
    return type_of(task).majority_baseline(task, data.train, dev)


# --- evaluation ---------------------------------------------------------------------------------


class _Evaluation:
    """Predicts and scores dev and test sets."""

    def __init__(
        self,
        task: Task,
        model: "DeviceModel",
        data: _Data,
        settings: TrainingSettings,
        log: Callable[[str], None],
    ):
        self.task, self.model, self.data, self.log = task, model, data, log
        self.task_type = type_of(task)
        self.max_tokens = settings.eval_batch_size * settings.max_seq_length

    def score(self, step: int) -> float:
        """Returns the task's score after a training step, and logs its metrics."""
        outputs = self._outputs(self.data.dev)
        dev = self._dev_metrics(outputs, self._decision(outputs))
        shown = [
            f"eval_{split.name}_{name} {value:.4f}"
            for split, logits in outputs.items()
            for name, value in {
                "loss": mean_loss(self.task_type, logits, self.data.dev[split].labels),
                **dev[split.name],
            }.items()
        ]
        self.log(f"step {step}: {', '.join(shown)}")
        return task_score(dev)

    def of_all(self) -> dict[str, Any]:
        """Returns the fields of an `Outcome` on dev and test sets.

        Neither a dev set and a test set nor two test sets share a batch: the other samples of a
        batch change the last digits of a sample's logits. A dev score must not depend on the
        available test files, and `finetune.predict` makes the same predictions for each of them.
        """
        on_dev = self._outputs(self.data.dev)
        on_tests = {
            split: self.model.predict(encoded, self.max_tokens)
            for split, encoded in self.data.tests.items()
        }
        task, decision = self.task, self._decision(on_dev)
        predictions = {
            split: self.task_type.predictions(task, on_tests[split], encoded, decision)
            for split, encoded in self.data.tests.items()
        }
        details = {
            split.name: self.task_type.details(task, on_dev[split], encoded, decision)
            for split, encoded in self.data.dev.items()
        }
        self.log("\n".join(f"{name}: {found}" for name, found in details.items() if found))
        return {
            "dev": self._dev_metrics(on_dev, decision),
            "details": details,
            "dev_predictions": {
                split: self.task_type.dev_predictions(task, on_dev[split], encoded, decision)
                for split, encoded in self.data.dev.items()
            },
            "decision": decision,
            "predictions": predictions,
            "only_label": self.task_type.only_label(task, list(on_dev.values()), decision),
        }

    def _decision(self, on_dev: Mapping[Split, np.ndarray]) -> Decision:
        return self.task_type.decision(self.task, on_dev, self.data.dev)

    def _outputs(self, splits: Mapping[Split, Encoded]) -> dict[Split, np.ndarray]:
        if not splits:
            return {}
        parts: Sequence[Tokens] = list(splits.values())
        outputs = self.model.predict(joined(parts), self.max_tokens)
        sizes = [part.offsets[-1] if self.task_type.is_per_token else len(part) for part in parts]
        return dict(zip(splits, np.split(outputs, np.cumsum(sizes)[:-1]), strict=True))

    def _dev_metrics(
        self, on_dev: Mapping[Split, np.ndarray], decision: Decision
    ) -> dict[str, dict[str, float]]:
        return {
            split.name: self.task_type.score(self.task, on_dev[split], encoded, decision)
            for split, encoded in self.data.dev.items()
        }


def mean_loss(task_type: TaskType, outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean loss. outputs, labels: as the type has them."""
    import torch

    total = task_type.summed_loss(torch.from_numpy(outputs), torch.from_numpy(labels))
    return total.item() / max(1, task_type.num_targets(labels))
