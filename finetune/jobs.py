"""Runs one job: trains, scores the dev sets, predicts the test sets, keeps the result."""

import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

from finetune.metrics import task_score
from finetune.runs import RESULT, JobRun, predictions_path, save_model, write_predictions
from finetune.training import finetune_task
from pipeline.artifacts import write_json


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
    task = run.task
    log(f"{run.job}, starting from {run.source.start}")
    for old in (run.folder / RESULT, *(predictions_path(run.folder, s) for s in task.test)):
        old.unlink(missing_ok=True)
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
        **outcome.counts,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(run.folder / RESULT, result)
    log(f"score {result['score']:.4f} in {result['seconds']} s, dev {outcome.dev}")
    return result
