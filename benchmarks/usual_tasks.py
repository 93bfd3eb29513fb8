"""Finetuning of text, multi-label and token classifications in the usual way.

That is transformers' Trainer, used as in its examples run_classification.py and run_ner.py: a token
classification labels the first piece of each word; a multi-label row has the labels with logits
above 0; the rate rises and falls linearly; all is fp32. Batches are padded to their longest row,
which is faster than the full length that run_classification.py pads to.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Report
from benchmarks.task_data import CLASSIFICATION, MULTI_LABEL, TOKENS, Row, Task, read_rows

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

IGNORED = -100  # label without a loss
NO_ENTITY = "O"
EVAL_BATCH_SIZE = 32
PROBLEM_TYPES = {
    CLASSIFICATION: "single_label_classification",
    MULTI_LABEL: "multi_label_classification",
}


@dataclass(frozen=True)
class Settings:
    """What a run depends on beside its data and seed. warmup: share of the steps."""

    epochs: int
    batch_size: int
    learning_rate: float
    max_seq_length: int
    weight_decay: float
    warmup: float
    bf16: bool
    pad_to_max_length: bool


@dataclass(frozen=True)
class Run:
    """A finished run. dev, test: metrics. seconds: of training and evaluation; tokens: trained on,
    without padding."""

    seed: int
    dev: Mapping[str, float]
    test: Mapping[str, float]
    seconds: float
    rows: int
    tokens: int
    steps: int


@dataclass(frozen=True)
class _Encoded:
    """The rows of a split for the Trainer. words: of each row's tokens, the number of the word it
    begins, else None."""

    rows: list[Row]
    features: list[dict[str, Any]]
    words: list[list[int | None]]


def finetune_task_usually(
    report: Report,
    task: Task,
    files: Mapping[str, Path],
    labels: Sequence[str],
    model_folder: Path,
    settings: Settings,
    seed: int,
) -> None:
    """Trains on the train file, predicts the others; reports a Run. labels: all classes."""
    from transformers import AutoTokenizer, set_seed

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    splits = {
        split: encode(task, read_rows(task, path), labels, tokenizer, settings)
        for split, path in files.items()
    }
    train = splits.pop("train")
    set_seed(seed)
    begin = time.perf_counter()
    model = _model(task, model_folder, len(labels))
    trainer = _trainer(task, model, tokenizer, settings, seed, train.features)
    trainer.train()
    metrics = {
        split: _evaluate(task, trainer, encoded, labels) for split, encoded in splits.items()
    }
    num_tokens = sum(sum(row["attention_mask"]) for row in train.features)
    run = Run(
        seed=seed,
        dev=metrics["dev"],
        test=metrics.get("test", {}),
        seconds=time.perf_counter() - begin,
        rows=len(train.rows),
        tokens=num_tokens * settings.epochs,
        steps=trainer.state.global_step,
    )
    report(asdict(run))


def _model(task: Task, folder: Path, num_labels: int) -> "PreTrainedModel":
    """Returns the model in fp32, whatever its file has, with a new head."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    keys = {"num_labels": num_labels, "dtype": torch.float32}
    if task.kind == TOKENS:
        return AutoModelForTokenClassification.from_pretrained(folder, **keys)
    return AutoModelForSequenceClassification.from_pretrained(
        folder, problem_type=PROBLEM_TYPES[task.kind], **keys
    )


def _trainer(
    task: Task,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: Settings,
    seed: int,
    train: list[dict[str, Any]],
) -> "Trainer":
    import torch
    from transformers import (
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    collator = (
        DataCollatorForTokenClassification if task.kind == TOKENS else DataCollatorWithPadding
    )
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,  # a share below 1
        lr_scheduler_type="linear",
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        data_collator=collator(tokenizer),
        processing_class=tokenizer,
    )


# --- data -------------------------------------------------------------------------------------


def encode(
    task: Task,
    rows: list[Row],
    labels: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    settings: Settings,
) -> _Encoded:
    """Tokenizes rows, cut at the longest length, and numbers their labels.

    Raises KeyError for a label of a text that is none of `labels`.
    """
    batch = tokenizer(
        [list(content) if task.kind == TOKENS else content for content, _ in rows],
        padding="max_length" if settings.pad_to_max_length else False,
        truncation=True,
        max_length=settings.max_seq_length,
        is_split_into_words=task.kind == TOKENS,
    )
    numbers = {label: i for i, label in enumerate(labels)}
    words = [_begun_words(batch.word_ids(i)) for i in range(len(rows))]
    features = [
        {
            **{key: batch[key][i] for key in batch},
            "labels": _target(task.kind, label, numbers, words[i]),
        }
        for i, (_, label) in enumerate(rows)
    ]
    return _Encoded(rows, features, words)


def _begun_words(word_ids: Sequence[int | None]) -> list[int | None]:
    """Keeps the number of a word at its first token only."""
    before = [None, *word_ids[:-1]]
    return [
        word if word != previous else None for word, previous in zip(word_ids, before, strict=True)
    ]


def _target(
    kind: str, label: Any, numbers: Mapping[str, int], words: Sequence[int | None]
) -> int | list[int] | list[float]:
    if kind == CLASSIFICATION:
        return numbers[label]
    if kind == MULTI_LABEL:
        there = {numbers[name] for name in label}
        return [float(i in there) for i in range(len(numbers))]
    # A tag that no training row has cannot be learnt; the metrics count it.
    return [IGNORED if word is None else numbers.get(label[word], IGNORED) for word in words]


# --- metrics ----------------------------------------------------------------------------------


def _evaluate(
    task: Task, trainer: "Trainer", encoded: _Encoded, labels: Sequence[str]
) -> dict[str, float]:
    logits = trainer.predict(encoded.features).predictions
    if task.kind == TOKENS:
        return entity_scores(encoded.rows, encoded.words, logits.argmax(axis=2), labels)
    import numpy as np

    return text_scores(task.kind, np.array([row["labels"] for row in encoded.features]), logits)


def text_scores(kind: str, targets: "np.ndarray", logits: "np.ndarray") -> dict[str, float]:
    """Returns the metrics of texts. targets: [N] classes, or [N, num_labels] of 0 and 1; logits:
    [N, num_labels]."""
    from sklearn.metrics import accuracy_score, f1_score

    predicted = logits > 0 if kind == MULTI_LABEL else logits.argmax(axis=1)
    macro = float(f1_score(targets, predicted, average="macro", zero_division=0))
    if kind == MULTI_LABEL:
        micro = float(f1_score(targets, predicted, average="micro", zero_division=0))
        return {"f1_micro": micro, "f1_macro": macro}
    return {"accuracy": float(accuracy_score(targets, predicted)), "f1_macro": macro}


def entity_scores(
    rows: Sequence[Row],
    words: Sequence[Sequence[int | None]],
    predicted: "np.ndarray",
    labels: Sequence[str],
) -> dict[str, float]:
    """Returns seqeval's F1 of entities. predicted: [N, length] classes of the tokens.

    entity_f1 counts all words: those cut off, or without a token, are predicted as no entity.
    entity_f1_seen leaves them out, as run_ner.py does; unseen_words is their share.
    """
    from seqeval.metrics import f1_score

    gold, found, gold_seen, found_seen = [], [], [], []
    for (_, tags), begun, row in zip(rows, words, predicted, strict=True):
        seen = {word: labels[row[i]] for i, word in enumerate(begun) if word is not None}
        gold.append(list(tags))
        found.append([seen.get(word, NO_ENTITY) for word in range(len(tags))])
        gold_seen.append([tags[word] for word in sorted(seen)])
        found_seen.append([seen[word] for word in sorted(seen)])
    return {
        "entity_f1": float(f1_score(gold, found)),
        "entity_f1_seen": float(f1_score(gold_seen, found_seen)),
        "unseen_words": 1 - sum(map(len, gold_seen)) / sum(map(len, gold)),
    }
