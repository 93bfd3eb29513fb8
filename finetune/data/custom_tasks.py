"""Tasks of the user's own: classification or regression of one text or a pair of texts."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.row_checks import problems_of_rows
from finetune.data.tables import column_positions, read_table, table_columns
from finetune.data.tasks import Split, Task
from pipeline.errors import ConfigError, StageError
from pipeline.user_files.file_checks import shown, shown_list

FOLDER = "."  # where the names of a user's own files begin
MAX_CLASSES = 1000  # that a train file may bring; a column with more is hardly one of labels


def custom_task(
    name: str,
    *,
    train: str,
    dev: str,
    text_columns: Sequence[str],
    test: str = "",
    label_column: str = "label",
    labels: Sequence[str] = (),
    score_range: Sequence[float] = (),
    metrics: Sequence[str] = (),
) -> Task:
    """FINETUNE.CUSTOM_TASKS.<name> as a task; its data_dir is the working directory.

    The classes of a classification are `labels`, or the distinct labels of `train`, sorted. All
    rows are read, so that no mistake in them is found after hours of work. Raises ConfigError for
    a file without the columns, with a row that `load_examples` refuses or with nothing to learn.
    """
    _check_columns(name, {"TRAIN": train, "DEV": dev}, (*text_columns, label_column))
    _check_columns(name, {"TEST": test} if test else {}, text_columns)
    words = [] if score_range else list(labels) or _labels_of_train(name, train, label_column)
    _check_words(name, words, "" if labels else f" in {train}")
    task = Task(
        name=name,
        text_columns=tuple(text_columns),
        label_column=label_column,
        metrics=_metrics(name, metrics, words),
        num_train_rows=0,
        train=Split("train", (train,)),
        dev=(Split("dev", (dev,)),),
        test=(Split("test", (test,)),) if test else (),
        labels={word: word for word in words},
        score_range=tuple(score_range) or (0.0, 0.0),
        benchmark="",
    )
    if problems := list(_problems_of_rows(task)):
        raise ConfigError(problems)
    return task


def _key(name: str, key: str) -> str:
    return f"FINETUNE.CUSTOM_TASKS.{name}.{key}"


def _metrics(name: str, metrics: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The given ones, or the usual ones. words: the classes, none for a regression."""
    if "f1" in metrics and len(words) != 2:
        raise ConfigError(
            [
                f"{_key(name, 'METRICS')}: f1 is that of the second of two labels, "
                f"got {len(words)} labels, expected f1_macro"
            ]
        )
    return tuple(metrics) or (("accuracy",) if words else ("pearson", "spearman"))


def _check_columns(name: str, files: dict[str, str], columns: Sequence[str]) -> None:
    for key, file in files.items():
        try:
            column_positions(Path(file), table_columns(Path(file), columns), columns)
        except StageError as error:
            raise ConfigError([f"{_key(name, key)}: {error.cause}"]) from error


def _labels_of_train(name: str, train: str, column: str) -> list[str]:
    try:
        words, malformed = _distinct_words(train, column, *_state(train))
    except StageError as error:
        raise ConfigError([f"{_key(name, 'TRAIN')}: {error.cause}"]) from error
    key = _key(name, "LABELS")
    if len(words) < 2:
        left_out = f" ({len(malformed)} rows left out: {malformed[0]})" if malformed else ""
        raise ConfigError(
            [
                f"{key}: got none and {train} has {shown_list(words) or 'none'} in column {column}"
                f"{left_out}, expected at least two"
            ]
        )
    if len(words) > MAX_CLASSES:
        raise ConfigError(
            [
                f"{key}: got none and {train} has {len(words):,} in column {column}, like "
                f"{shown(words[0])}, expected at most {MAX_CLASSES:,}, or LABELS that names them"
            ]
        )
    if all(map(_is_number, words)) and not all(map(str.isdigit, words)):
        raise ConfigError(
            [
                f"{key}: got none and {train} has numbers like {shown(words[0])} in column "
                f"{column}, expected SCORE_RANGE (a regression), or LABELS if they are names of "
                "classes"
            ]
        )
    return list(words)


def _check_words(name: str, words: Sequence[str], where: str) -> None:
    """They stand in predictions, a line each."""
    wrong = [word for word in words if re.search(r"[\t\r\n]", word)]
    if wrong:
        raise ConfigError(
            [f"{_key(name, 'LABELS')}: got {wrong[0]!r}{where}, expected words on one line"]
        )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


# --- rows --------------------------------------------------------------------------------------


def _problems_of_rows(task: Task) -> Iterator[str]:
    for split, problem in problems_of_rows(task, FOLDER):
        yield f"{_key(task.name, split.name.upper())}: {problem}"


def _state(file: str) -> tuple[int, int]:
    """A process reads a file again only when this has changed."""
    state = Path(file).stat()
    return state.st_size, state.st_mtime_ns


@functools.cache
def _distinct_words(
    path: str, column: str, size: int, mtime_ns: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels, sorted, and the rows that cannot be read."""
    table = read_table(Path(path), (column,), optional=(column,))
    words = sorted({label.strip() for _, (label,) in table.rows} - {""})
    return tuple(words), tuple(table.malformed)
