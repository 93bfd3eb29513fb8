"""Runs one job: trains, scores the dev sets, predicts the test sets, keeps the result."""

import os
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.encoding import Encoded, load_encoded, load_tokenizer
from finetune.examples import has_split
from finetune.metrics import predicted_values, score_predictions, task_score
from finetune.runs import (
    RESULT,
    JobRun,
    Source,
    TrainingSettings,
    drop_model,
    model_path,
    predictions_path,
)
from finetune.tasks import Split, Task, find_task
from finetune.training import (
    build_classifier,
    build_trainer,
    predict,
    training_history,
    usable_length,
)
from pipeline.artifacts import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Outcome:
    """dev: metrics by dev split; predictions: [N] class indices or scores by test split."""

    model: "PreTrainedModel"
    dev: dict[str, dict[str, float]]
    predictions: dict[Split, np.ndarray]
    history: list[dict[str, float]]
    counts: dict[str, int]


def run_job(run: JobRun) -> dict:
    """Does the job and returns its result; what it prints and how it fails goes to its log."""
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(run.log, "w", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            return _run_job(run, log=lambda line: print(line, file=log))
        except BaseException:
            traceback.print_exc(file=log)
            raise


def _run_job(run: JobRun, log: Callable[[str], None]) -> dict:
    begin = time.perf_counter()
    task = find_task(run.job.task)
    log(f"{run.job}, starting from {run.source.start}")
    for old in (run.folder / RESULT, *(predictions_path(run.folder, s) for s in task.test)):
        old.unlink(missing_ok=True)
    outcome = finetune_task(task, run.source, run.settings, log)
    for split, values in outcome.predictions.items():
        write_predictions(predictions_path(run.folder, split), task, values)
    if run.keep_model:
        save_model(outcome.model, run.folder)
    result = {
        "fingerprint": run.fingerprint,
        "inputs": run.inputs,
        "task": task.name,
        "setting": run.job.setting,
        "score": task_score(outcome.dev),
        "dev": outcome.dev,
        "history": outcome.history,
        **outcome.counts,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(run.folder / RESULT, result)
    log(f"score {result['score']:.4f} in {result['seconds']} s, dev {outcome.dev}")
    return result


def finetune_task(
    task: Task,
    source: Source,
    settings: TrainingSettings,
    log: Callable[[str], None],
    do_train: bool = True,
    do_eval: bool = True,
    do_predict: bool = True,
) -> Outcome:
    """Trains, scores the dev splits and predicts the test splits that are there.

    The outcome depends on the arguments alone, not on what this process ran before.
    """
    model = build_classifier(source.start, task, settings.seed)
    max_length = usable_length(model.config, settings.max_seq_length)
    token_types = getattr(model.config, "type_vocab_size", 0) > 1

    def load(split: Split) -> Encoded:
        return load_encoded(
            task.name, split.name, source.glue_dir, source.base, max_length, token_types
        )

    train = load(task.train) if do_train else None
    dev = {split.name: load(split) for split in task.dev} if do_eval else {}
    tests = [split for split in task.test if do_predict and has_split(split, source.glue_dir)]
    trainer = build_trainer(model, load_tokenizer(source.base), task, settings, train, dev, log)
    if train:
        log("\n".join(f"left out: {row}" for row in train.malformed) or "no row left out")
        trainer.train()
    return Outcome(
        model,
        dev={name: _score(task, predict(trainer, split), split) for name, split in dev.items()},
        predictions={s: predicted_values(task, predict(trainer, load(s))) for s in tests},
        history=training_history(trainer),
        counts=_counts(train, dev, trainer.state.global_step),
    )


def _score(task: Task, logits: np.ndarray, split: Encoded) -> dict[str, float]:
    return score_predictions(task, predicted_values(task, logits), split.labels)


def _counts(train: Encoded | None, dev: dict[str, Encoded], num_steps: int) -> dict[str, int]:
    return {
        "num_train_rows": len(train) if train else 0,
        "num_malformed_rows": sum(len(s.malformed) for s in (train, *dev.values()) if s),
        "num_dev_rows": sum(len(split) for split in dev.values()),
        "num_steps": num_steps,
    }


def write_predictions(path: Path, task: Task, values: np.ndarray) -> None:
    """One line per test row: its index and the label word, or the score with 6 decimals."""
    if task.is_regression:
        cells = [f"{value:.6f}" for value in values]
    else:
        words = list(task.labels)
        cells = [words[i] for i in values]
    lines = ["index\tprediction", *(f"{i}\t{cell}" for i, cell in enumerate(cells))]
    write_text(path, "\n".join(lines) + "\n")


def save_model(model: "PreTrainedModel", folder: Path) -> None:
    """Saved aside and moved, so that a model that is there is complete."""
    aside = folder / f".model.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    drop_model(folder)
    os.replace(aside, model_path(folder))
