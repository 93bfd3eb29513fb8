"""What a worker does: runs one job, looks at a task's texts, or measures how fast a job could be.

A job trains, scores the dev sets, predicts the test sets and keeps the result.
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
from finetune.search.job_folder import (
    RESULT,
    JobRun,
    Source,
    drop_model,
    predictions_path,
    save_model,
    write_predictions,
    write_result,
)
from pipeline.errors import StageError
from pipeline.privacy import hidden
from pipeline.store.record_files import delete_unfinished

if TYPE_CHECKING:
    from finetune.data.token_counts import Tokenization


@dataclass(frozen=True)
class SpeedTest:
    """A look at how fast a model trains on samples of a number of tokens."""

    source: Source
    sample_tokens: int

    def __str__(self) -> str:
        return "the speed test"


@dataclass(frozen=True)
class TextCheck:
    """A look at what the tokenizer makes of a task's texts, before its runs begin."""

    task: Task
    source: Source
    max_seq_length: int

    def __str__(self) -> str:
        return f"the look at {self.task.name}'s texts"


def do(work: JobRun | TextCheck | SpeedTest) -> "dict | Tokenization | float":
    """The result of a job, what a look found, or the seconds per token of training.

    Raises StageError if a check cannot load the model: then no job can.
    """
    if isinstance(work, JobRun):
        return run_job(work)
    from finetune.training.training import look_at_texts, seconds_per_token

    try:
        if isinstance(work, TextCheck):
            return look_at_texts(work.task, work.source, work.max_seq_length)
        return seconds_per_token(work.source, work.sample_tokens)
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise StageError(f"{work.source.start} cannot be loaded: {cause}") from error


def run_job(run: JobRun) -> dict:
    """Does the job and returns its result; what it prints and how it fails goes to its log.

    The log of earlier attempts stays.
    """
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
    """Hours of work do not fail by a log that cannot be written, on a full disk, say."""

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
    from finetune.training.task_metrics import task_score
    from finetune.training.training import finetune_task

    begin = time.perf_counter()
    task = run.task
    log(f"{run.job}, starting from {run.source.start}")
    delete_unfinished(run.folder)
    for old in (run.folder / RESULT, *(predictions_path(run.folder, s) for s in task.test)):
        old.unlink(missing_ok=True)
    drop_model(run.folder)  # one of other settings would be taken for this run's
    outcome = finetune_task(task, run.source, run.settings, log)
    for split, values in outcome.predictions.items():
        write_predictions(predictions_path(run.folder, split), values)
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
        "evaluations": outcome.evaluations,
        "majority": outcome.majority,
        "only_label": outcome.only_label,
        **outcome.counts,
        **outcome.tokenization.as_json(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_result(run, result)
    log(f"score {result['score']:.4f} in {result['seconds']} s, dev {outcome.dev}")
    return result
