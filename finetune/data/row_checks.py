"""Counts and checks the rows of a task's files and their labels."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.data.dev_split import classes_missing
from finetune.data.examples import Examples, find_file, load_examples
from finetune.data.files.label_sets import notes_on_sets, problem_with_sets
from finetune.data.files.parquet_tables import (
    class_names,
    file_state,
    is_parquet,
    num_files_of_split,
)
from finetune.data.tasks import Part, Split, Task
from finetune.tagging.tag_checks import notes_on_tags
from pipeline.console import WARNING_PREFIX
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown, shown_list

if TYPE_CHECKING:
    import numpy as np

FEW_ROWS = 100  # in a smaller dev set, one row changes the scores by more than a point
# Shares that are worth a warning: of a file's rows left out, of a dev set's rows shared with train.
MANY_LEFT_OUT = 0.1
MANY_SHARED = 0.5


@dataclass(frozen=True)
class RowFacts:
    """Facts about a split's file.

    num_rows: rows in use. num_blank: rows in use without text. labels: number of rows by class or
    set of classes, of a regression just the lowest and the highest score. unlabelled, malformed:
    number of rows left out, and one of them. texts: [num_rows] int64 hashes, comparable within this
    process.
    """

    num_rows: int
    num_blank: int
    labels: Mapping[Any, int]
    unlabelled: tuple[int, str]
    malformed: tuple[int, str]
    texts: "np.ndarray"


def facts_of(task: Task, examples: Examples) -> RowFacts:
    import numpy as np

    labels = examples.labels
    ends = {min(labels): 1, max(labels): 1} if task.is_regression and labels else {}
    return RowFacts(
        num_rows=len(examples.texts),
        num_blank=sum(not any(map(str.strip, row)) for row in examples.texts),
        labels=ends if task.is_regression else Counter(labels),
        unlabelled=_number_and_one(examples.unlabelled),
        malformed=_number_and_one(examples.malformed),
        texts=np.fromiter(map(hash, examples.texts), np.int64, len(examples.texts)),
    )


def _number_and_one(rows: list[str]) -> tuple[int, str]:
    return len(rows), rows[0] if rows else ""


# --- files ------------------------------------------------------------------------------------


def row_facts(task: Task, folder: str) -> dict[Split, RowFacts]:
    """Returns the facts of each readable file. folder: as in `load_examples`."""
    found = _all_facts(task, folder)
    return {split: facts for split, facts in found.items() if isinstance(facts, RowFacts)}


def problems_of_rows(task: Task, folder: str) -> Iterator[tuple[Split, str]]:
    """Reads all rows; yields the problem of each file that cannot be used."""
    for split, facts in _all_facts(task, folder).items():
        if isinstance(facts, str):
            yield split, facts
        elif problem := problem_with_labels(task, split, facts):
            yield split, f"{find_file(split, Path(folder))}: {problem}"


def notes_on_task(task: Task, folder: str) -> Iterator[str]:
    """Yields the plan's notes: rows left out, reasons for misleading scores, and the number of rows
    in each file of a user's own task."""
    if task.train.tag_column:
        yield from (
            f"{WARNING_PREFIX * warns}{task.name}: {text}" for text, warns in notes_on_tags(task)
        )
        return
    facts = row_facts(task, folder)
    notes = list(rows_left_out(facts) if task.benchmark else _notes_on_own_rows(task, facts))
    notes += [Note(warning, True) for warning in warnings_about_labels(task, facts)]
    yield from (f"{WARNING_PREFIX * note.warns}{task.name}: {note.text}" for note in notes)


def _all_facts(task: Task, folder: str) -> dict[Split, RowFacts | str]:
    found = {split: find_file(split, Path(folder)) for split in task.splits}
    return {
        split: _facts(task, split, folder, *file_state(path))
        for split, path in found.items()
        if path
    }


@functools.cache
def _facts(task: Task, split: Split, folder: str, size: int, mtime_ns: int) -> RowFacts | str:
    """Returns the facts, or the problem of a file that cannot be used."""
    try:
        return facts_of(task, load_examples(task, split, folder))
    except StageError as error:
        return error.cause


# --- labels -----------------------------------------------------------------------------------


def problem_with_labels(task: Task, split: Split, facts: RowFacts) -> str:
    """Returns the reason why a split teaches nothing or its score means nothing, or "".

    Correlations with a constant are undefined, as is F1 of a label without rows: they count as 0,
    whatever the model. The accuracy on dev rows of one class does not.
    """
    if task.has_several_samples or not facts.labels:
        return ""
    if task.has_label_sets:
        return problem_with_sets(task, facts.labels, split == task.train)
    words, is_dev = list(task.labels), split in task.dev
    if len(facts.labels) == 1:
        [label] = facts.labels
        what = f"score {label:g}" if task.is_regression else f"label {shown(words[int(label)])}"
        if split == task.train or (is_dev and task.is_regression):
            return f"all rows have the {what}, expected different ones"
        if is_dev and "matthews_correlation" in task.metrics:
            return (
                f"all rows have the {what}, with which matthews_correlation is always 0, "
                "expected different ones"
            )
    if is_dev and "f1" in task.metrics and 1 not in facts.labels:
        return (
            f"no row has the label {shown(words[1])}, with which f1, which is that label's, is "
            "always 0, expected rows of both labels"
        )
    return ""


def warnings_about_labels(task: Task, facts: Mapping[Split, RowFacts]) -> Iterator[str]:
    """Yields reasons for a misleading score of a task that can be learned."""
    if task.is_regression or task.has_label_sets or task.has_several_samples:
        return
    words = list(map(shown, task.labels))
    dev = {split: facts[split] for split in task.dev if split in facts}
    for split, found in dev.items():
        if len(found.labels) == 1:
            word = words[int(next(iter(found.labels)))]
            yield (
                f"{_named(split)}: all rows have the label {word}, so a model that always answers "
                f"{word} scores 100"
            )
    if task.train not in facts:
        return
    unseen = [label for label in range(len(words)) if label not in facts[task.train].labels]
    if unseen:
        tested = sum(found.labels.get(label, 0) for found in dev.values() for label in unseen)
        in_dev = f"; {tested:,} dev rows have" if tested else ""
        yield (
            f"{task.train.files[0]}: no row has the label {shown_list(words[i] for i in unseen)}, "
            f"so no model can learn it{in_dev}"
        )


# --- notes ------------------------------------------------------------------------------------


class Note(NamedTuple):
    """warns: True if the user must not overlook it."""

    text: str
    warns: bool = False


def _notes_on_own_rows(task: Task, facts: Mapping[Split, RowFacts]) -> Iterator[Note]:
    """Yields row counts, rows left out, and limits of the scores."""
    counts = ", ".join(f"{split.name} {_rows(found.num_rows)}" for split, found in facts.items())
    yield Note(counts)
    if k := task.num_folds:
        grouped = f", no {task.group_column} in two of them" if task.group_column else ""
        yield Note(f"dev: each of {k} folds of TRAIN in turn, stratified{grouped}")
    if not task.is_regression:
        yield Note(f"classes: {shown_list(task.labels)}")
        yield from _notes_on_class_names(task)
    if task.has_label_sets:
        train = (_named(task.train), facts[task.train].labels) if task.train in facts else None
        dev = {_named(split): facts[split].labels for split in task.dev if split in facts}
        yield from (Note(*note) for note in notes_on_sets(task, train, dev))
    yield from rows_left_out(facts)
    for file in dict.fromkeys(split.files[0] for split in facts):
        if (total := num_files_of_split(Path(file))) > 1:
            yield Note(f"{file}: one of {total} files; name a folder with all of them", True)
    for split, found in facts.items():
        if found.num_blank:
            yield Note(f"{_named(split)}: {_rows(found.num_blank)} without any text")
    for split in task.dev:
        if split.part and split in facts:
            yield from _notes_on_part(task, split, split.part, facts)
        yield from _notes_on_dev(task, split, facts)


def _notes_on_class_names(task: Task) -> Iterator[Note]:
    for split in (task.train, *task.dev):
        path = Path(split.files[0])
        if is_parquet(path) and (words := class_names(path).get(task.label_column)):
            numbers = f"0 to {len(words) - 1}"
            named = f"the classes {numbers} of {task.label_column} are named in the file"
            yield Note(f"{path}: {named}: {shown_list(words)}")


def _notes_on_part(
    task: Task, split: Split, part: Part, facts: Mapping[Split, RowFacts]
) -> Iterator[Note]:
    grouped = f", no {part.group_column} is in train too" if part.group_column else ""
    yield Note(f"{split.name}: {_rows(facts[split].num_rows)} of TRAIN, stratified{grouped}")
    if not (task.is_regression or task.has_label_sets):
        parts = {found.name: facts[found].labels for found in (task.train, split)}
        yield from (Note(warning, True) for warning in classes_missing(parts, list(task.labels)))


def _named(split: Split) -> str:
    """Returns the file, or the part of it."""
    return f"{split.name} of {split.files[0]}" if split.part else split.files[0]


def rows_left_out(facts: Mapping[Split, RowFacts]) -> Iterator[Note]:
    for found in facts.values():
        left_out = found.unlabelled[0] + found.malformed[0]
        are_many = left_out > MANY_LEFT_OUT * (left_out + found.num_rows)
        for (number, one), what in (
            (found.unlabelled, "without a label"),
            (found.malformed, "that cannot be read"),
        ):
            if number:
                verb = "is" if number == 1 else "are"
                yield Note(f"{_rows(number)} {what} {verb} left out, e.g. {one}", are_many)


def _notes_on_dev(task: Task, split: Split, facts: Mapping[Split, RowFacts]) -> Iterator[Note]:
    import numpy as np

    found, file = facts[split], _named(split)
    num_shared = int(np.isin(found.texts, facts[task.train].texts).sum())
    if num_shared:
        yield Note(
            f"{file}: {num_shared:,} of {_rows(found.num_rows)} have the same text as a row of "
            f"{task.train.files[0]}, which makes scores too high",
            num_shared >= MANY_SHARED * found.num_rows,
        )
    if found.num_rows < FEW_ROWS and not task.is_regression:
        steps = f"accuracy moves in steps of {100 / found.num_rows:.1f} points"
        effect = "threshold and scores depend on each of them" if task.has_label_sets else steps
        yield Note(f"{file}: {_rows(found.num_rows)} only, so {effect}")
    if "f1" in task.metrics:
        yield Note(f"f1 is that of the label {shown(list(task.labels)[1])}, the second of LABELS")


def _rows(number: int) -> str:
    return f"{number:,} row{'s' if number != 1 else ''}"
