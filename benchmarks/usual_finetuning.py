"""Finetuning in the usual way: transformers' Trainer, samples padded to the full length, fp32.

Our own reader reads its data, and nothing is saved: neither counts against it.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Report

if TYPE_CHECKING:
    from finetune.search.grid import Job


def finetune_usually(
    report: Report, job: "Job", model: Path, glue_dir: Path, max_seq_length: int
) -> None:
    """Trains and predicts; reports the accuracy on the dev set."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from finetune.data.tasks import find_task

    task = find_task(job.task)
    data = _data(task, glue_dir, AutoTokenizer.from_pretrained(model), max_seq_length)
    set_seed(job.seed)
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=128,
        learning_rate=job.learning_rate,
        weight_decay=0.1,
        warmup_steps=0.06,
        lr_scheduler_type="polynomial",
        seed=job.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=len(task.labels)
        ),
        args=arguments,
        train_dataset=data["train"],
    )
    trainer.train()
    outputs = trainer.predict(data["dev"]).predictions
    if "test" in data:
        trainer.predict(data["test"])
    right = outputs.argmax(axis=1) == [row["labels"] for row in data["dev"]]
    report(float(right.mean()))


def _data(
    task: Any, glue_dir: Path, tokenizer: Any, max_seq_length: int
) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of each split that exists."""
    from finetune.data.examples import has_split, load_examples

    data = {}
    for name, split in {"train": task.train, "dev": task.dev[0], "test": task.test[0]}.items():
        if not has_split(split, str(glue_dir)):
            continue
        examples = load_examples(task, split, str(glue_dir))
        columns = [list(texts) for texts in zip(*examples.texts, strict=True)]
        batch = tokenizer(
            *columns, padding="max_length", truncation=True, max_length=max_seq_length
        )
        labels = examples.labels or [0] * len(examples.texts)
        data[name] = [
            {**{key: batch[key][i] for key in batch}, "labels": label}
            for i, label in enumerate(labels)
        ]
    return data
