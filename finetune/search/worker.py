"""The work of a search's worker: runs a job, or checks a task before its first job.

A job trains, scores the dev sets, predicts the test sets, and writes predictions and the result.
"""

import io
import os
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.tasks import Task
from finetune.evaluation.prediction_files import write_dev_predictions
from finetune.search.job_folder import (
    RESULT,
    InputPaths,
    JobRun,
    dev_predictions_path,
    drop_model,
    prediction_paths,
    predictions_path,
    write_predictions,
    write_result,
)
from pipeline.errors import StageError
from pipeline.privacy import hidden
from pipeline.store.record_files import delete_unfinished

if TYPE_CHECKING:
    from finetune.data.token_counts import Tokenization


@dataclass(frozen=True)
class TaskCheck:
    """Loads the model and tokenizes a task's texts, before its first job."""

    task: Task
    paths: InputPaths
    max_seq_length: int

    def __str__(self) -> str:
        return f"the check of {self.task.name}'s texts"

    def run(self) -> "Tokenization":
        """Raises StageError if the model or the texts are useless: every job would fail."""
        from finetune.training.training import check_task

        try:
            return check_task(self.task, self.paths, self.max_seq_length)
        except (OSError, ValueError) as error:
            cause = " ".join(str(error).split())
            raise StageError(f"{self.paths.weights} cannot be loaded: {cause}") from error


def run_job(run: JobRun) -> dict:
    """Runs a job and returns its result; appends its output and errors to its log."""
    run.log.parent.mkdir(parents=True, exist_ok=True)
    number = _num_attempts(run.log) + 1
    with (
        io.TextIOWrapper(
            _LogFile(run.log, "a"), "utf-8", "backslashreplace", line_buffering=True
        ) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        print(f"attempt {number}, {now}, process {os.getpid()} on {socket.gethostname()}")
        try:
            return _run_job(run, log=lambda line: print(line, file=log))
        except BaseException:
            print(hidden(traceback.format_exc()), file=log, end="")
            raise


class _LogFile(io.FileIO):
    """Ignores write errors: a log on a full disk must not end hours of work."""

    def write(self, block) -> int:
        try:
            return super().write(block)
        except OSError:
            return len(block)


def _num_attempts(log: Path) -> int:
    if not log.exists():
        return 0
    with open(log, encoding="utf-8", errors="replace") as lines:
        return sum(line.startswith("attempt ") for line in lines)


def _run_job(run: JobRun, log: Callable[[str], None]) -> dict:
    from finetune.task_types.label_metrics import task_score
    from finetune.training.finished_model import save_finished
    from finetune.training.training import finetune_task

    begin = time.perf_counter()
    task = run.task
    log(f"{run.job}, starting from {run.paths.weights}")
    delete_unfinished(run.folder)
    for old in (run.folder / RESULT, *prediction_paths(run.folder, task)):
        old.unlink(missing_ok=True)
    drop_model(run.folder)  # an earlier run's model must not be taken for this one's
    outcome = finetune_task(task, run.paths, run.settings, log)
    for split, values in outcome.predictions.items():
        write_predictions(predictions_path(run.folder, split), values)
    for split, found in outcome.dev_predictions.items():
        write_dev_predictions(dev_predictions_path(run.folder, split), found)
    if run.keep_model:
        save_finished(outcome, task, run.settings, run.paths.tokenizer, run.folder)
    result = {
        "fingerprint": run.fingerprint,
        "inputs": run.inputs,
        "task": task.name,
        "setting": run.job.setting,
        "score": task_score(outcome.dev) if outcome.dev else None,  # on all rows after folds
        **outcome.as_json(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_result(run, result)
    score = f"score {result['score']:.4f}" if outcome.dev else "trained on all rows"
    log(f"{score} in {result['seconds']} s, dev {outcome.dev}")
    return result
