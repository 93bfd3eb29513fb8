"""Entities in a file of tagged sentences, and in the texts of a table."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from finetune.data.encoding import file_stamps
from finetune.data.examples import Examples
from finetune.data.files.parquet_tables import is_parquet, parquet_columns
from finetune.data.tables import iter_objects
from finetune.data.token_counts import TokenCounts
from finetune.prediction.answers import DIGITS, softmax
from finetune.prediction.finished_classifiers import FinishedClassifier
from finetune.prediction.jobs import Facts, Job, Samples, Texts
from finetune.prediction.lost_text import KEPT_WORDS, LostText
from finetune.prediction.request import Request
from finetune.prediction.text_jobs import TableJob
from finetune.prediction.unfinished import WRITTEN
from finetune.tagging.char_spans import Offsets, words_of
from finetune.tagging.sentences import Sentence
from finetune.tagging.tag_schemes import OUTSIDE, spans_of
from finetune.tagging.tagged_files import iter_sentences, write_predictions
from finetune.task_types.task_types import type_of
from finetune.task_types.token_labels import predicted_tags
from finetune.task_types.windows import EncodedWords
from pipeline.errors import ConfigError, StageError
from pipeline.user_files.file_checks import problem_with_file, shown, shown_list

OBJECTS = ".jsonl"
SHOWN_TYPES = 8


class Words(NamedTuple):
    """A text, the characters of its words in it as [n, 2], and in the original one."""

    text: str
    words: np.ndarray
    offsets: Offsets

    @classmethod
    def of(cls, sentence: Sentence) -> "Words":
        return cls(*sentence.running_text(), sentence.offsets)


def has_texts(request: Request) -> bool:
    """True if the file is a table of texts, False if its tokens are given."""
    path = request.file
    if request.text_columns or path.suffix.lower() == ".csv":
        return True
    if is_parquet(path):
        return "tokens" not in parquet_columns(path)
    if path.suffix.lower() != OBJECTS:
        return False
    _, first = next(iter_objects(path), (0, {}))
    return isinstance(first, dict) and "tokens" not in first


class _TagJob(Job):
    """Texts are cut into windows as in training, so none of them is truncated."""

    piece_characters = 4 << 20  # each token has a logit for each tag

    def __init__(self, request: Request, classifier: FinishedClassifier):
        if request.windows:
            raise ConfigError(["--windows: the texts of a token classifier always have windows"])
        if OUTSIDE not in classifier.task.labels:
            tags = shown_list(classifier.task.labels)
            raise ConfigError([f"MODEL: its tags {tags} have no {OUTSIDE}: they tag no entities"])
        super().__init__(request, classifier)
        self._types: Counter[str] = Counter()

    def texts(self, row: Words) -> Texts:
        return (row.text,)

    def tokenized(self, rows: Sequence[Words]) -> Samples:
        """about: the rows."""
        some = [row for row in rows if len(row.words)]
        one = self.classifier
        examples = Examples([(row.text,) for row in some], words=[row.words for row in some])
        data = type_of(one.task).encode(
            one.task, examples, one.tokenizer, one.max_length, one.token_types
        )
        lost = LostText(TokenCounts.of(data.counts), data.unknown_words[:KEPT_WORDS])
        return Samples(data, lost, list(rows))

    def answers(self, samples: Samples, outputs: np.ndarray) -> list[list]:
        data = samples.tokens
        assert isinstance(data, EncodedWords)
        probabilities = iter(_probabilities(data, outputs))
        tags = iter(predicted_tags(self.classifier.task, outputs, data))
        found = [
            (next(tags), next(probabilities)) if len(row.words) else ([], np.empty(0))
            for row in samples.about
        ]
        return [self.answer(row, *one) for row, one in zip(samples.about, found, strict=True)]

    def answer(self, row: Words, tags: list[str], probabilities: np.ndarray) -> list:
        """Returns the answer to a row. tags, probabilities: of its words."""
        raise NotImplementedError

    def summary(self) -> str:
        most = self._types.most_common(SHOWN_TYPES)
        more = len(self._types) - len(most)
        found = ", ".join(f"{shown(kind)} {number:,}" for kind, number in most) or "none"
        return f"entities: {found}" + (f", and {more:,} more types" if more else "")


def _probabilities(data: EncodedWords, outputs: np.ndarray) -> list[np.ndarray]:
    """Returns the probability of each word's tag, by text; NaN for words without tokens."""
    there = data.firsts >= 0
    found = np.full(len(there), np.nan)
    found[there] = softmax(outputs[data.firsts[there]].astype(np.float64)).max(axis=1)
    return np.split(found, data.texts[1:-1])


class TaggedFileJob(_TagJob):
    """A file of tagged sentences: the output is a copy with the predicted tags."""

    def __init__(self, request: Request, classifier: FinishedClassifier):
        super().__init__(request, classifier)
        if problem := problem_with_file(request.file):
            raise ConfigError([f"FILE: {request.file}: {problem}"])
        if request.ending != request.file.suffix.lower():
            raise ConfigError(
                [f"--output: got {request.output}, expected the ending of {request.file}"]
            )
        if request.columns or request.prefix:
            raise ConfigError(["--columns, --prefix: are for tables, got a file of sentences"])
        self.tag_column = request.tag_column or classifier.task.train.tag_column
        if self.tag_column == 1:
            raise ConfigError(["--tag_column: got 1, the column of the tokens"])

    def state(self) -> list[Any]:
        return [stamp[1:] for stamp in file_stamps(self.request.file)]

    def options(self) -> dict[str, Any]:
        return {}

    def check(self) -> Facts:
        return {"rows": sum(1 for _ in iter_sentences(self.request.file, self.tag_column))}

    def check_output(self, facts: Facts) -> None:
        pass

    def rows(self, start: int) -> Iterator[Words]:
        sentences = iter_sentences(self.request.file, self.tag_column)
        return map(Words.of, islice(sentences, start, None))

    def answer(self, row: Words, tags: list[str], probabilities: np.ndarray) -> list[str]:
        return tags

    def write(self, facts: Facts, answers: Iterator[Any], advance: Callable[[int], None]) -> None:
        def counted() -> Iterator[list[str]]:
            for tags in answers:
                self._types.update(span.kind for span in spans_of(tags))
                advance(1)
                yield tags

        source, written = self.request.file, self.request.folder / WRITTEN
        try:
            scheme = self.classifier.task.scheme
            write_predictions(source, written, counted(), scheme, self.tag_column)
        except ValueError as error:
            raise StageError(f"{source}: has changed while it was read ({error})") from error
        os.replace(written, self.request.output)


class SpanJob(_TagJob, TableJob):
    """A table of texts: the output has the `spans` of each, as objects with a probability."""

    endings = (OBJECTS,)

    def __init__(self, request: Request, classifier: FinishedClassifier):
        super().__init__(request, classifier)
        if len(self.text_columns) != 1:
            raise ConfigError(
                [f"--text_columns: got {shown_list(self.text_columns)}, expected one"]
            )

    def added(self) -> list[str]:
        return ["spans"]

    def rows(self, start: int) -> Iterator[Words]:
        for (text,) in self.table.texts(self.text_columns, start):
            offsets = tuple(words_of(text))
            words = tuple(text[first:last] for first, last in offsets)
            sentence = Sentence(words, None, self.request.file, 0, offsets=offsets)
            yield Words.of(sentence) if words else Words("", np.empty((0, 2), np.int32), ())

    def answer(self, row: Words, tags: list[str], probabilities: np.ndarray) -> list[list]:
        """Returns a list of spans, which is the only column. Their probability is the mean of
        their words'."""
        spans = [
            {
                "start": row.offsets[span.start][0],
                "end": row.offsets[span.stop - 1][1],
                "label": span.kind,
                "probability": round(
                    float(np.nanmean(probabilities[span.start : span.stop])), DIGITS
                ),
            }
            for span in spans_of(tags)
        ]
        return [spans]

    def counted(self, answers: Iterator[Any]) -> Iterator[Any]:
        for (spans,) in answers:
            self._types.update(span["label"] for span in spans)
            yield [spans]
