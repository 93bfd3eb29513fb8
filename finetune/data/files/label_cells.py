"""Reads rows with labels, and turns the labels' cells into classes, sets of classes or scores."""

import math
from collections.abc import Sequence
from pathlib import Path

from finetune.data.files.label_files import label_position
from finetune.data.tables import Table, TableRow, collected, iter_table
from finetune.data.tasks import Task
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown, shown_list

Label = float | tuple[int, ...]  # a class, a score, or the sorted classes of a set


def read_labelled(
    path: Path,
    label_column: str,
    columns: Sequence[str] = (),
    *,
    header: Sequence[str] = (),
    optional: Sequence[str] = (),
    separator: str = "",
) -> Table[TableRow]:
    """Reads the columns of a file, and its label column for `words_of_row`; see `collected`.

    separator: between the labels of a row, empty if each row has one label.
    """
    single, lists = ((), (label_column,)) if separator else ((label_column,), ())
    rows = iter_table(
        path,
        (*columns, *single),
        (*optional, *single),
        header,
        lists=lists,
        separator=separator,
    )
    return collected(path, rows)


def words_of_row(row: TableRow) -> tuple[str, ...] | None:
    """Returns the words in a row's label column, without the spaces around them.

    An empty cell is no label (None), but the empty set if rows may have several labels.
    """
    if row.lists:
        return row.lists[0] and tuple(map(str.strip, row.lists[0]))
    word = row.cells[-1].strip()
    return (word,) if word else None


def label_of_row(task: Task, row: TableRow, where: str) -> Label | None:
    """Returns the label, or None if the row has none.

    Raises StageError for an unknown label or an invalid score.
    """
    words = words_of_row(row)
    if words is None:
        return None
    if task.has_label_sets:
        return tuple(sorted({_class(task, word, where) for word in words}))
    return score_of(task, words[0], where) if task.is_regression else _class(task, words[0], where)


def _class(task: Task, word: str, where: str) -> int:
    spellings = list(task.labels.values())
    if (position := label_position(word, spellings, task.has_numbers)) is not None:
        return position
    expected = shown_list(spellings)
    if task.has_numbers:
        expected += f", or a number from 0 to {len(spellings) - 1}"
    elif not task.benchmark:  # without the key they are those of TRAIN
        expected += f" (FINETUNE.CUSTOM_TASKS.{task.name}.LABELS can name more)"
    raise StageError(f"{where}: label {shown(word)!r}, expected one of {expected}")


def score_of(task: Task, text: str, where: str) -> float:
    """Raises StageError for a text that is no number within the task's range."""
    low, high = task.score_range
    try:
        score = math.nan if "_" in text else float(text)  # Python reads 1_0 as ten
    except ValueError:
        score = math.nan
    if not low <= score <= high:
        raise StageError(f"{where}: score {shown(text)!r}, expected a number from {low} to {high}")
    return score
