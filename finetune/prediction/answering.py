"""Answers the rows of a table, piece by piece."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from finetune.data.batches import TOGETHER
from finetune.data.model_tokenizer import check_agreement
from finetune.prediction.answers import answers_of, pooled
from finetune.prediction.finished_classifiers import FinishedClassifier
from finetune.prediction.input_tables import InputTable
from finetune.prediction.samples import Samples, Texts, samples_of
from finetune.prediction.unfinished import Unfinished

PIECE_CHARACTERS = 32 << 20  # of a piece of fewer rows than TOGETHER: bounds the memory


def answer_rows(
    classifier: FinishedClassifier,
    table: InputTable,
    text_columns: Sequence[str],
    has_windows: bool,
    unfinished: Unfinished,
    update: Callable[[int], None],
) -> None:
    """Appends the answers to all further rows. update: told the number of rows so far.

    Pieces end at the same rows whenever the work was interrupted. The next piece is read and
    tokenized while the device computes. Raises StageError for a malformed row, for text that is
    nearly unknown to the tokenizer, and for a tokenizer of another model.
    """
    from finetune.training.device_model import DeviceModel

    on_device = DeviceModel(classifier.model, classifier.tokenizer)
    rows = table.texts(text_columns, unfinished.position.rows)
    pieces = _tokenized(classifier, pieces_of(rows), has_windows, str(table.path))
    update(unfinished.position.rows)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, pieces, None)
        while samples := coming.result():
            coming = pool.submit(next, pieces, None)
            max_tokens = unfinished.position.batch_tokens
            outputs = on_device.predict(samples.tokens, max_tokens)
            outputs = pooled(classifier.task, outputs, samples.num_windows)
            answers = answers_of(classifier.task, outputs, classifier.decision)
            unfinished.add(answers, min(max_tokens, on_device.most_tokens), samples.lost)
            update(unfinished.position.rows)


def pieces_of(rows: Iterable[Texts]) -> Iterator[list[Texts]]:
    """Yields TOGETHER rows at a time, or fewer long ones."""
    piece: list[Texts] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += sum(map(len, row))
        if len(piece) == TOGETHER or size >= PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _tokenized(
    classifier: FinishedClassifier,
    pieces: Iterator[list[Texts]],
    has_windows: bool,
    where: str,
) -> Iterator[Samples]:
    is_checked = False
    for piece in pieces:
        samples = samples_of(classifier, piece, has_windows)
        if not is_checked:
            check_agreement(classifier.folder, classifier.tokenizer, piece)
            samples.lost.check(where, classifier.tokenizer)
            is_checked = True
        yield samples
