"""The user's own tasks: labels, sets of labels, or scores of texts or pairs of texts."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.finetune_rules import MULTI_LABEL
from finetune.data.files.label_cells import read_labelled, words_of_row
from finetune.data.files.label_files import label_names
from finetune.data.files.parquet_tables import file_state, problem_with_table
from finetune.data.tasks import Part, Split, Task
from pipeline.errors import ConfigError, StageError
from pipeline.user_files.file_checks import shown, shown_list

FOLDER = "."  # the files' names are relative to it
MAX_CLASSES = 1000  # in a train file; a column with more rarely holds labels
USUAL_METRICS = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    MULTI_LABEL: ("f1_micro",),
}


@dataclass(frozen=True)
class TaskKeys:
    """The values of FINETUNE.CUSTOM_TASKS.<name>. dev: empty with `dev_share` or `folds`."""

    train: str
    dev: str
    text_columns: Sequence[str]
    test: str = ""
    label_column: str = "label"
    labels: Sequence[str] = ()
    score_range: Sequence[float] = ()
    metrics: Sequence[str] = ()
    labels_file: str = ""
    columns: Sequence[str] = ()
    dev_share: float = 0.0
    folds: int = 0
    class_weights: str = ""
    group_column: str = ""
    type: str = ""
    tag_column: int = -1
    label_separator: str = ","

    @property
    def task_type(self) -> str:
        """The type of the task, by the other keys if `type` is empty."""
        return self.type or ("regression" if self.score_range else "classification")


def custom_task(name: str, keys: TaskKeys) -> Task:
    """Returns FINETUNE.CUSTOM_TASKS.<name> as a task; its data_dir is the working directory.

    The classes, which a regression has none of, are `labels`, the lines of `labels_file`, or the
    sorted labels of `train`. Reads all rows and raises ConfigError for a file without the columns,
    with a row that `load_examples` refuses or with nothing to learn.
    """
    optional = ("TEST", "DEV") if keys.dev_share or keys.folds else ("TEST",)
    for key, file in (("TRAIN", keys.train), ("DEV", keys.dev), ("TEST", keys.test)):
        if (file or key not in optional) and (problem := problem_with_table(file)):
            raise _error(name, key, f"{file or 'no file'}: {problem}")
    words = () if keys.score_range else _classes(name, keys)
    train, dev, test = _splits(keys)
    low, high = keys.score_range or (0.0, 0.0)
    task = Task(
        name=name,
        text_columns=tuple(keys.text_columns),
        label_column=keys.label_column,
        metrics=_metrics(name, keys, words),
        num_train_rows=0,
        train=train,
        dev=() if keys.folds else (dev,),
        test=(test,) if keys.test else (),
        labels={word: word for word in words},
        score_range=(low, high),
        benchmark="",
        type=keys.task_type,
        has_numbers=bool(keys.labels_file),
        num_folds=keys.folds,
        group_column=keys.group_column,
        class_weights=keys.class_weights,
        separator=keys.label_separator,
    )
    from finetune.data.row_checks import problems_of_rows  # needs numpy

    found = [
        problem
        for some in dict.fromkeys((task, task.in_fold(1)))
        for problem in problems_of_rows(some, FOLDER)
    ]
    if problems := [
        f"{_key(name, _key_of(split))}: {problem}"
        for split, problem in found
        if split == train or not split.part or (train, problem) not in found  # told once
    ]:
        raise ConfigError(problems)
    return task


def _splits(keys: TaskKeys) -> tuple[Split, Split, Split]:
    """Returns train, dev and test, with parts of the train file as train and dev by `dev_share`."""
    header = tuple(keys.columns)
    train = Split("train", (keys.train,), header=header)
    dev = Split("dev", (keys.dev,), header=header)
    if keys.dev_share:
        part = Part(keys.dev_share, True, keys.group_column)
        train = replace(train, part=replace(part, is_dev=False))
        dev = replace(train, name="dev", part=part)
    return train, dev, Split("test", (keys.test,), header=header)


def _key_of(split: Split) -> str:
    if split.part and split.part.is_dev:
        return "FOLDS" if split.part.num_folds else "DEV_SHARE"
    return split.name.upper()


def _key(name: str, key: str) -> str:
    return f"FINETUNE.CUSTOM_TASKS.{name}.{key}"


def _error(name: str, key: str, problem: str) -> ConfigError:
    return ConfigError([f"{_key(name, key)}: {problem}"])


def _metrics(name: str, keys: TaskKeys, words: Sequence[str]) -> tuple[str, ...]:
    """Returns the given metrics, or the usual ones. words: the classes, none for a regression."""
    if "f1" in keys.metrics and len(words) != 2:
        problem = f"f1 is that of the second of two labels, got {len(words)} labels"
        raise _error(name, "METRICS", f"{problem}, expected f1_macro")
    return tuple(keys.metrics) or USUAL_METRICS[keys.task_type]


def _classes(name: str, keys: TaskKeys) -> tuple[str, ...]:
    words, separator = _words(name, keys), keys.label_separator
    if keys.type == MULTI_LABEL:
        for word in words:
            if f"{separator}{word}{separator}".split(separator) != ["", word, ""]:
                problem = f"got {separator!r}, which is within the label {shown(word)!r}"
                expected = "another one, to tell the labels in predictions apart"
                raise _error(name, "LABEL_SEPARATOR", f"{problem}, expected {expected}")
    return words


def _words(name: str, keys: TaskKeys) -> tuple[str, ...]:
    if keys.labels_file:
        try:
            return label_names(Path(keys.labels_file))
        except StageError as error:
            raise _error(name, "LABELS_FILE", error.cause) from error
    words = tuple(keys.labels) or _labels_of_train(name, keys)
    # Labels are written to predictions, a line each.
    if wrong := [word for word in words if re.search(r"[\t\r\n]", word)]:
        where = "" if keys.labels else f" in {keys.train}"
        raise _error(name, "LABELS", f"got {wrong[0]!r}{where}, expected words on one line")
    return words


def _labels_of_train(name: str, keys: TaskKeys) -> tuple[str, ...]:
    train, column, header = keys.train, keys.label_column, tuple(keys.columns)
    separator = keys.label_separator if keys.type == MULTI_LABEL else ""
    state = file_state(Path(train))
    try:
        words, malformed = _distinct_words(train, column, header, separator, *state)
    except StageError as error:
        raise _error(name, "TRAIN", error.cause) from error
    if len(words) < 2:
        left_out = f" ({len(malformed)} rows left out: {malformed[0]})" if malformed else ""
        found, expected = (
            f"{shown_list(words) or 'none'} in column {column}{left_out}",
            "at least two",
        )
    elif len(words) > MAX_CLASSES:
        found = f"{len(words):,} in column {column}, like {shown(words[0])}"
        expected = f"at most {MAX_CLASSES:,}, or LABELS that names them"
    elif not separator and _are_scores(words):
        found = f"numbers like {shown(words[0])} in column {column}"
        expected = "SCORE_RANGE (a regression), or LABELS if they are names of classes"
    else:
        return words
    raise _error(name, "LABELS", f"got none and {train} has {found}, expected {expected}")


def _are_scores(words: Sequence[str]) -> bool:
    return all(map(_is_number, words)) and not all(map(str.isdigit, words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@functools.cache
def _distinct_words(
    path: str, column: str, header: tuple[str, ...], separator: str, size: int, mtime_ns: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the sorted labels and the malformed rows."""
    table = read_labelled(Path(path), column, header=header, separator=separator)
    words = {word for _, row in table.rows for word in words_of_row(row) or ()} - {""}
    return tuple(sorted(words)), tuple(table.malformed)
