"""Finetunes one classifier, scores it on the dev sets, and predicts the test sets with it."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.encoding import Encoded, Tokens, joined, load_encoded, load_tokenizer
from finetune.data.examples import Examples, has_split
from finetune.data.row_checks import facts_of, problem_with_labels, warnings_about_labels
from finetune.data.tasks import Split, Task, find_task
from finetune.data.token_counts import TokenCounts, Tokenization, cause_in_words
from finetune.search.job_folder import Source, TrainingSettings
from finetune.training.classifiers import build_classifier, usable_length
from finetune.training.task_metrics import (
    majority_baseline,
    only_label,
    predicted_rows,
    score_predictions,
    task_score,
)
from pipeline.console import WARNING_PREFIX

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune.training.device_model import Runner
    from finetune.training.loop import Training

# A model is tried out for about that long, at most for that many steps, to say how fast it trains.
CALIBRATION_SECONDS = 1.5
CALIBRATION_STEPS = 100
# Tokens of a step of it: about those of 16 samples of GLUE's longer tasks.
CALIBRATION_TOKENS = 1024


@dataclass(frozen=True)
class Outcome:
    """What a run gives.

    dev: metrics by dev split. predictions: (index, prediction) of each row by test split.
    history: loss and learning rate over the steps. evaluations: `step`, `epoch`, `score` of those
    during training. majority: the label that the most training rows have, and the task's score if
    it were always given; empty if the task is no plain classification. only_label: the one that
    all dev rows are given, "" if they are told apart. counts: rows, steps and tokens.
    tokenization: what of the texts the model has seen.
    """

    model: "PreTrainedModel"
    dev: dict[str, dict[str, float]]
    predictions: dict[Split, list[tuple[str, str]]]
    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    majority: dict[str, Any]
    only_label: str
    counts: dict[str, int]
    tokenization: Tokenization


@dataclass(frozen=True)
class MaxSamples:
    """How many samples of each split are read, the first ones; 0 for all."""

    train: int = 0
    dev: int = 0
    test: int = 0


ALL_SAMPLES = MaxSamples()


def finetune_task(
    task: Task,
    source: Source,
    settings: TrainingSettings,
    log: Callable[[str], None],
    do_train: bool = True,
    do_eval: bool = True,
    do_predict: bool = True,
    max_samples: MaxSamples = ALL_SAMPLES,
) -> Outcome:
    """Trains, scores the dev splits and predicts the test splits that are there.

    The outcome depends on the arguments and the machine alone, not on what this process ran
    before. Raises ValueError if the training diverges, StageError for data that cannot be read or
    that the tokenizer knows nearly nothing of.
    """
    from finetune.training.device_model import Runner
    from finetune.training.loop import Training, train

    model, asked = build_classifier(source.start, task, settings.seed), settings.max_seq_length
    length = usable_length(model, asked)
    data = _load_data(task, source, length, model, max_samples, do_train, do_eval, do_predict)
    tokenization = _tokenization(task, source, data, model, asked)
    log(str(tokenization))
    tokenization.check()
    for warning in _warnings_about_labels(task, data):
        log(WARNING_PREFIX + warning)
    runner = Runner(model, load_tokenizer(source.base))
    evaluation = _Evaluation(task, runner, data, settings, log)
    training = Training()
    labelled = [split.examples for split in data.labelled]
    left_out = [row for found in labelled for row in (*found.malformed, *found.unlabelled)]
    log("\n".join(f"left out: {row}" for row in left_out) or "all rows read")
    if data.train:
        training = train(runner, data.train, settings, task.is_regression, evaluation.score, log)
    dev, predictions, constant = evaluation.of_all()
    return Outcome(
        model,
        dev,
        predictions,
        training.history,
        training.evaluations,
        _majority(task, data),
        constant,
        _counts(data, training),
        tokenization,
    )


def look_at_texts(task: Task, source: Source, max_seq_length: int) -> Tokenization:
    """What the tokenizer makes of a task's splits, before they are trained on.

    Raises OSError or ValueError if the model cannot be loaded, StageError as `finetune_task`.
    """
    model = build_classifier(source.start, task, seed=0)
    data = _load_data(task, source, usable_length(model, max_seq_length), model, ALL_SAMPLES)
    tokenization = _tokenization(task, source, data, model, max_seq_length)
    tokenization.check()
    return tokenization


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """What is asked for and there: the training rows or None, and the others by split."""

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
    source: Source,
    length: int,
    model: "PreTrainedModel",
    max_samples: MaxSamples,
    do_train: bool = True,
    do_eval: bool = True,
    do_predict: bool = True,
) -> _Data:
    token_types = (getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def load(split: Split, number: int) -> Encoded:
        encoded = load_encoded(task, split.name, source.data_dir, source.base, length, token_types)
        return encoded.first(number) if number else encoded

    tests = [split for split in task.test if do_predict and has_split(split, source.data_dir)]
    return _Data(
        load(task.train, max_samples.train) if do_train else None,
        {split: load(split, max_samples.dev) for split in task.dev if do_eval},
        {split: load(split, max_samples.test) for split in tests},
    )


def _tokenization(
    task: Task, source: Source, data: _Data, model: "PreTrainedModel", asked: int
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
        cause=cause_in_words(load_tokenizer(source.base), words),
    )


def _warnings_about_labels(task: Task, data: _Data) -> Iterator[str]:
    """Of the rows that are used, which may be the first ones only."""
    named = {task.train: data.train, **data.dev}
    facts = {split: facts_of(task, encoded.examples) for split, encoded in named.items() if encoded}
    for split, found in facts.items():
        if problem := problem_with_labels(task, split, found):
            yield f"{split.files[0]}: {problem}"
    yield from warnings_about_labels(task, facts)


def _counts(data: _Data, training: "Training") -> dict[str, int]:
    return {
        "num_train_rows": len(data.train) if data.train else 0,
        "num_malformed_rows": sum(len(split.examples.malformed) for split in data.labelled),
        "num_unlabelled_rows": sum(len(split.examples.unlabelled) for split in data.labelled),
        "num_dev_rows": sum(len(split) for split in data.dev.values()),
        "num_steps": training.num_steps,
        "num_tokens": training.num_tokens,
    }


def _majority(task: Task, data: _Data) -> dict[str, Any]:
    if not (data.train and data.dev):
        return {}
    dev = {split.name: encoded.examples for split, encoded in data.dev.items()}
    return majority_baseline(task, data.train.examples, dev)


# --- evaluation ---------------------------------------------------------------------------------


class _Evaluation:
    """Predictions of dev and test sets, and what they are worth."""

    def __init__(
        self,
        task: Task,
        runner: "Runner",
        data: _Data,
        settings: TrainingSettings,
        log: Callable[[str], None],
    ):
        self.task, self.runner, self.data, self.log = task, runner, data, log
        self.max_tokens = settings.eval_batch_size * settings.max_seq_length

    def score(self, step: int) -> float:
        """The task's score after a step of the training, which the log gets with its parts."""
        outputs = self._outputs(self.data.dev)
        dev = self._dev_metrics(outputs)
        shown = [
            f"eval_{split.name}_{name} {value:.4f}"
            for split, logits in outputs.items()
            for name, value in {
                "loss": mean_loss(logits, self.data.dev[split].labels),
                **dev[split.name],
            }.items()
        ]
        self.log(f"step {step}: {', '.join(shown)}")
        return task_score(dev)

    def of_all(self) -> tuple[dict[str, dict[str, float]], dict[Split, list[tuple[str, str]]], str]:
        """Metrics of the dev sets, predictions of the test sets, and the only label of the dev sets
        if there is one.

        Each in a pass of its own: a batch's other samples change the last digits of a sample's
        outputs, and a dev score must not depend on which test files are there.
        """
        outputs = self._outputs(self.data.dev) | self._outputs(self.data.tests)
        predictions = {
            split: predicted_rows(self.task, outputs[split], encoded.examples)
            for split, encoded in self.data.tests.items()
        }
        constant = only_label(self.task, [outputs[split] for split in self.data.dev])
        return self._dev_metrics(outputs), predictions, constant

    def _outputs(self, splits: Mapping[Split, Encoded]) -> dict[Split, np.ndarray]:
        if not splits:
            return {}
        parts: Sequence[Tokens] = list(splits.values())
        outputs = self.runner.predict(joined(parts), self.max_tokens)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return dict(zip(splits, np.split(outputs, ends), strict=True))

    def _dev_metrics(self, outputs: Mapping[Split, np.ndarray]) -> dict[str, dict[str, float]]:
        return {
            split.name: score_predictions(self.task, outputs[split], encoded.examples)
            for split, encoded in self.data.dev.items()
        }


def mean_loss(outputs: np.ndarray, labels: np.ndarray) -> float:
    """outputs: [N, num_labels]. labels: [N] classes, or float32 for a regression."""
    import torch

    from finetune.training.loop import summed_loss

    is_regression = labels.dtype == np.float32
    total = summed_loss(torch.from_numpy(outputs), torch.from_numpy(labels), is_regression)
    return total.item() / len(labels)


# --- calibration --------------------------------------------------------------------------------


def seconds_per_token(source: Source, max_length: int) -> float:
    """How long a token of training takes this process, from steps of the model on random words.

    Takes about CALIBRATION_SECONDS, longer if two steps do. max_length: of a sample, in tokens.
    Raises OSError or ValueError if the model cannot be loaded.
    """
    from finetune.training.device_model import Runner
    from finetune.training.loop import Step

    model = build_classifier(source.start, find_task("RTE"), seed=0)
    length = usable_length(model, max_length)
    data = _random_samples(model.config.vocab_size, length)
    settings = _calibration_settings(length, len(data))
    runner = Runner(model, load_tokenizer(source.base))
    step = Step(runner, data, settings, False, CALIBRATION_STEPS, log=lambda line: None)
    batch, times = np.arange(len(data)), []
    begin = time.perf_counter()
    for number in range(CALIBRATION_STEPS):
        start = time.perf_counter()
        if number >= 2 and start - begin > CALIBRATION_SECONDS:
            break
        step.run(batch).item()  # which waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times) / (len(data) * length)


def _random_samples(num_words: int, length: int) -> Encoded:
    random = np.random.default_rng(0)
    number = max(1, CALIBRATION_TOKENS // length)
    ids = random.integers(num_words, size=number * length, dtype=np.int32)
    offsets, labels = np.arange(number + 1) * length, random.integers(2, size=number)
    return Encoded({"input_ids": ids}, offsets, labels, Examples([]))


def _calibration_settings(length: int, batch_size: int) -> TrainingSettings:
    return TrainingSettings(
        epochs=1,
        batch_size=batch_size,
        learning_rate=1e-5,
        seed=0,
        max_seq_length=length,
        weight_decay=0.0,
        warmup=0,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        eval_batch_size=1,
    )
