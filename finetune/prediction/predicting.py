"""Predicts a file: answers its rows, then writes them with their answers."""

import time
from collections.abc import Iterator
from typing import Any

from finetune.prediction.answering import answer_rows
from finetune.prediction.finished_classifiers import FinishedClassifier, load_classifier
from finetune.prediction.jobs import Job
from finetune.prediction.lost_text import LostText
from finetune.prediction.request import Request
from finetune.prediction.tag_jobs import SpanJob, TaggedFileJob, has_texts
from finetune.prediction.text_jobs import TextJob
from finetune.prediction.unfinished import Position, Unfinished, read_unfinished
from finetune.task_types.task_types import type_of
from pipeline.console import WARNING_PREFIX, Console, duration
from pipeline.errors import StageError
from pipeline.runtime.devices import device_type
from pipeline.store.record_files import delete_tree, delete_unfinished_file


def predict(request: Request, console: Console) -> None:
    """Goes on with the folder's prediction, or begins it; deletes the folder at the end.

    Raises ConfigError if the arguments do not fit the file, the model or the folder, StageError for
    a malformed row, and for a model or a tokenizer of no use.
    """
    begin = time.monotonic()
    delete_unfinished_file(request.output)
    classifier = load_classifier(request.model)
    job = _job(request, classifier)
    unfinished = _unfinished(job, console)
    job.check_output(unfinished.facts)
    unfinished.cut()
    before, total = unfinished.position.rows, unfinished.facts["rows"]
    if before:
        console.say(f"goes on after {before:,} of {total:,} rows")
    try:
        with console.progress("predicting", total, "rows") as progress:
            answer_rows(job, unfinished, progress.update)
    except Exception:
        unfinished.drop_if_empty()
        raise
    with console.progress("writing", total, "rows") as progress:
        job.write(unfinished.facts, _answers(job, unfinished), progress.advance)
    delete_tree(unfinished.folder)
    for warning in unfinished.position.lost.warnings(
        job.where, classifier.tokenizer, classifier.max_length, job.way_out()
    ):
        console.say(WARNING_PREFIX + warning)
    console.say(job.summary())
    seconds = duration(time.monotonic() - begin)
    console.say(f"{total - before:,} rows in {seconds}, written to {request.output}")


def _answers(job: Job, unfinished: Unfinished) -> Iterator[Any]:
    """Yields all answers; raises StageError at the end if the file has changed."""
    yield from unfinished.answers()
    if job.state() != unfinished.inputs["FILE"]:
        raise StageError(f"{job.where}: has changed while it was read")


def _job(request: Request, classifier: FinishedClassifier) -> Job:
    if not type_of(classifier.task).is_per_token:
        return TextJob(request, classifier)
    return (SpanJob if has_texts(request) else TaggedFileJob)(request, classifier)


def _unfinished(job: Job, console: Console) -> Unfinished:
    """Returns the begun prediction, or a new one after a check of all rows."""
    inputs = {
        "FILE": job.state(),
        "MODEL": job.classifier.stamps,
        **job.options(),
        "device": device_type(),
    }
    found = read_unfinished(job.request.folder, inputs)
    if found:
        return found
    console.say(f"checking all rows of {job.where}")
    start = Position(0, 0, job.classifier.batch_tokens, LostText())
    return Unfinished(job.request.folder, inputs, job.check(), start)
