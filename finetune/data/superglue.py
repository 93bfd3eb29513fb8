"""Turns rows of SuperGLUE's files into samples for a classifier of one text or a pair.

The row layouts are those of https://super.gluebenchmark.com/tasks. Marks in the text surround the
words in question.
"""

import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.tasks import Split, Task
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

Row = dict[str, Any]
# The wording of COPA's authors.
COPA_QUESTIONS = {
    "cause": "What was the cause of this?",
    "effect": "What happened as a result?",
}
GAP = "@placeholder"  # in ReCoRD's queries
WRONG, RIGHT = "wrong", "right"


class NoLabel(ValueError):
    """A row without a label."""


@dataclass(frozen=True)
class Sample:
    """key: identifies the sample within the file: numbers (for ReCoRD also the entity), the row's
    `idx` first. label: one of the task's label words, empty in a test set."""

    key: tuple
    texts: tuple[str, ...]
    label: str = ""


def samples_of(task: Task, split: Split, row: Row, position: int) -> list[Sample]:
    """Returns the samples of a row; `position` (from 0) replaces a missing `idx`.

    Raises ValueError with the row's problem, NoLabel for a missing label, StageError for an unknown
    one.
    """
    labelled = split not in task.test
    try:
        if make_samples := _SAMPLES.get(task.layout):
            return list(make_samples(row, position, labelled))
        make_texts = _TEXTS.get(task.layout)
        columns = split.text_columns or task.text_columns
        texts = make_texts(row) if make_texts else tuple(_text(row, name) for name in columns)
        label = _known(row.get("label", ""), tuple(task.labels)) if labelled else ""
        return [Sample((_index(row, position),), texts, label)]
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ValueError(what) from error


def query_answers(row: Row) -> dict[int, tuple[str, ...]]:
    """Returns the right texts of a ReCoRD row by the query's idx."""
    return {
        _index(query): tuple(dict.fromkeys(_text(answer, "text") for answer in query["answers"]))
        for query in row["qas"]
    }


def _word_senses(row: Row) -> tuple[str, ...]:
    """WiC: both sentences, with `* *` around the word in question."""
    texts = []
    for number in "12":
        text = _text(row, f"sentence{number}")
        start, end = row[f"start{number}"], row[f"end{number}"]
        if not 0 <= start < end <= len(text):
            raise ValueError(f"word {number} at {start} to {end} of {len(text)} characters")
        texts.append(f"{text[:start]}* {text[start:end]} *{text[end:]}")
    return tuple(texts)


def _pronouns(row: Row) -> tuple[str, ...]:
    """WSC: the text with `* *` around the noun and `# #` around the pronoun, and the noun."""
    target = row["target"]
    words = _text(row, "text").split()
    marked = list(words)
    for span, mark in (("span1", "*"), ("span2", "#")):
        start, end = _find_span(words, _text(target, f"{span}_text"), target[f"{span}_index"])
        marked[start] = f"{mark} {marked[start]}"
        marked[end - 1] = f"{marked[end - 1]} {mark}"
    return " ".join(marked), _text(target, "span1_text")


def _choices(row: Row, position: int, labelled: bool) -> Iterator[Sample]:
    """COPA: the premise with the question in words, and a choice."""
    if row["question"] not in COPA_QUESTIONS:
        question = shown(repr(row["question"]))
        raise ValueError(f"question {question}, expected {' or '.join(COPA_QUESTIONS)}")
    asked = f"{_text(row, 'premise')} {COPA_QUESTIONS[row['question']]}"
    right = _known(row.get("label", ""), ("0", "1")) if labelled else ""
    for choice in (0, 1):
        label = (RIGHT if str(choice) == right else WRONG) if labelled else ""
        texts = (asked, _text(row, f"choice{choice + 1}"))
        yield Sample((_index(row, position), choice), texts, label)


def _answers(row: Row, position: int, labelled: bool) -> Iterator[Sample]:
    """MultiRC: the passage, and the question followed by an answer."""
    passage = row["passage"]
    text = _text(passage, "text")
    for question in passage["questions"]:
        for answer in question["answers"]:
            key = (_index(row, position), _index(question), _index(answer))
            known = _known(answer.get("label", ""), ("0", "1")) if labelled else ""
            label = (WRONG, RIGHT)[int(known)] if labelled else ""
            asked = f"{_text(question, 'question')} {_text(answer, 'text')}"
            yield Sample(key, (text, asked), label)


def _entities(row: Row, _position: int, labelled: bool) -> Iterator[Sample]:
    """ReCoRD: the passage, and the query with an entity of the passage in its gap."""
    original = _text(row["passage"], "text")
    entities = dict.fromkeys(_entity(original, span) for span in row["passage"]["entities"])
    text = _without_highlights(original)
    answers = query_answers(row) if labelled else {}
    for query in row["qas"]:
        index, asked = _index(query), _text(query, "query")
        if GAP not in asked:
            raise ValueError(f"query {index} has no {GAP}")
        for entity in entities:
            filled = asked.replace(GAP, entity)
            label = (RIGHT if entity in answers[index] else WRONG) if labelled else ""
            yield Sample((index, entity), (text, filled), label)


# By layout: the texts of a row that is one sample, or all samples of a row.
_TEXTS: dict[str, Callable[[Row], tuple[str, ...]]] = {
    "word_senses": _word_senses,
    "pronouns": _pronouns,
}
_SAMPLES: dict[str, Callable[[Row, int, bool], Iterator[Sample]]] = {
    "choices": _choices,
    "answers": _answers,
    "entities": _entities,
}


def _text(row: Row, name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"{name} is {shown(repr(row[name]))}, expected text")
    return row[name]


def _index(row: Row, position: int | None = None) -> int:
    """Returns `idx` as a number; some copies of the files have strings."""
    value = row["idx"] if position is None else row.get("idx", position)
    if isinstance(value, bool) or not re.fullmatch("[0-9]+", str(value)):
        raise ValueError(f"idx {shown(repr(value))}, expected a whole number")
    return int(value)


def _known(label: Any, words: Sequence[str]) -> str:
    """Returns a label as a word: JSON's true, "True" and "true" are the same.

    Raises NoLabel for an empty one, StageError for an unknown word.
    """
    if label == "":
        raise NoLabel("no label")
    word = str(label).lower()
    if word not in words:
        raise StageError(f"label {shown(repr(label))}, expected one of {', '.join(words)}")
    return word


def _find_span(words: Sequence[str], text: str, index: int) -> tuple[int, int]:
    """Returns start and end (exclusive) of a span of words that should start at `index`.

    If other words are there, as in some official rows, the nearest place with the span's words
    counts; if there is none, the one word at `index`.
    """
    wanted, found = [_bare(word) for word in text.split()], [_bare(word) for word in words]
    starts = range(len(words) - len(wanted) + 1) if wanted else ()
    for start in sorted(starts, key=lambda start: abs(start - index)):
        if found[start] == wanted[0] and found[start : start + len(wanted)] == wanted:
            return start, start + len(wanted)
    if not 0 <= index < len(words):
        raise ValueError(f"{shown(text)!r} at word {index} of {len(words)}")
    return index, index + 1


def _bare(word: str) -> str:
    """Returns `mark` for `"Mark's,`."""
    return word.strip(string.punctuation).lower().removesuffix("'s")


def _entity(text: str, span: Row) -> str:
    """Returns the text from `start` to `end`, both inclusive."""
    start, end = span["start"], span["end"]
    if not 0 <= start <= end < len(text):
        raise ValueError(f"entity at {start} to {end} of {len(text)} characters")
    return text[start : end + 1]


def _without_highlights(text: str) -> str:
    """Removes `@highlight` before the sentences of a summary, and ends each with a full stop."""
    parts = [part.strip() for part in text.split("@highlight")]
    return " ".join(part if part[-1] in ".!?\"'" else f"{part}." for part in parts if part)
