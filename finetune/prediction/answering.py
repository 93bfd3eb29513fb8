"""Answers the rows of a file, piece by piece."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from finetune.data.batches import TOGETHER
from finetune.data.model_tokenizer import check_agreement
from finetune.prediction.jobs import Job, Samples, pieces
from finetune.prediction.unfinished import Unfinished


def answer_rows(job: Job, unfinished: Unfinished, update: Callable[[int], None]) -> None:
    """Appends the answers to all further rows. update: told the number of rows so far.

    Pieces end at the same rows whenever the work was interrupted. The next piece is read and
    tokenized while the device computes. Raises StageError for a malformed row, for text that is
    nearly unknown to the tokenizer, and for a tokenizer of another model.
    """
    from finetune.training.device_model import DeviceModel

    classifier = job.classifier
    on_device = DeviceModel(classifier.model, classifier.tokenizer)
    some = _samples(job, unfinished.position.rows)
    update(unfinished.position.rows)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, some, None)
        while samples := coming.result():
            coming = pool.submit(next, some, None)
            max_tokens = unfinished.position.batch_tokens
            outputs = np.empty((0, max(1, len(classifier.task.labels))), np.float32)
            if len(samples.tokens):
                outputs = on_device.predict(samples.tokens, max_tokens)
            answers = job.answers(samples, outputs)
            unfinished.add(answers, min(max_tokens, on_device.most_tokens), samples.lost)
            update(unfinished.position.rows)
    unfinished.position.lost.check(job.where, classifier.tokenizer)


def _samples(job: Job, start: int) -> Iterator[Samples]:
    is_checked, tokenizer = False, job.classifier.tokenizer
    for piece in pieces(job.rows(start), job.texts, TOGETHER, job.piece_characters):
        samples = job.tokenized(piece)
        if not is_checked:
            check_agreement(job.classifier.folder, tokenizer, list(map(job.texts, piece)))
            samples.lost.check(job.where, tokenizer)
            is_checked = True
        yield samples
