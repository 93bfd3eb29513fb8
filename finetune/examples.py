"""The sentences and labels of a task's split, out of a folder of TSV files or from the Hub."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from finetune.tasks import Split, Task
from finetune.tsv import Table, read_tsv
from pipeline.artifacts import file_digest
from pipeline.errors import StageError

HUB_DATASET = "nyu-mll/glue"


@dataclass(frozen=True)
class Examples:
    """The samples of a split: one per row of the file, or several (COPA's choices, say).

    texts: one or two sentences each. labels: positions in `task.labels`, or the scores of a
    regression task; empty for a split without labels. malformed: rows that were left out. keys:
    what a sample belongs to in the file, for tasks that have several samples per row or whose rows
    are named; answers: what dev metrics need beside the labels; both empty for other tasks.
    """

    texts: list[tuple[str, ...]]
    labels: list[float] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    keys: list[tuple] = field(default_factory=list)
    answers: dict = field(default_factory=dict)


def load_examples(task: Task, split: Split, data_dir: str) -> Examples:
    """Examples in the file's order. data_dir: folder in GLUE's TSV layout, empty for the Hub.

    Raises StageError for a missing file or column, an unknown label, a test row that cannot be
    read (leaving it out would shift the predictions of all that follow).
    """
    if not data_dir:
        return _from_hub(task, split)
    path = find_file(split, Path(data_dir))
    if path is None:
        raise StageError(f"{Path(data_dir) / split.files[0]}: no such file")
    return _from_tsv(task, split, path)


def find_file(split: Split, data_dir: Path) -> Path | None:
    """The file of a split, or None if there is none."""
    return next((data_dir / name for name in split.files if (data_dir / name).is_file()), None)


def has_split(split: Split, data_dir: str) -> bool:
    """Whether the split can be loaded; the Hub has all of them."""
    return not data_dir or find_file(split, Path(data_dir)) is not None


def num_train_rows(task: Task, data_dir: str) -> int:
    """About as many rows as the train file has; GLUE's own count for the Hub."""
    path = find_file(task.train, Path(data_dir)) if data_dir else None
    return path.read_bytes().count(b"\n") if path else task.num_train_rows


def file_digests(task: Task, data_dir: Path) -> dict[str, str]:
    """Digest of each file of a task that is there, by its path below `data_dir`."""
    found = [find_file(split, data_dir) for split in task.splits]
    return {path.relative_to(data_dir).as_posix(): file_digest(path) for path in found if path}


def _from_tsv(task: Task, split: Split, path: Path) -> Examples:
    if split.submission:
        table = read_tsv(path, task.text_columns, split.header)
        if table.malformed:
            raise StageError(f"{table.malformed[0]}; a test row cannot be left out")
        return Examples([texts for _, texts in table.rows])
    table = read_tsv(path, (*task.text_columns, task.label_column), split.header)
    texts = [fields[:-1] for _, fields in table.rows]
    return Examples(texts, _labels(task, table), table.malformed)


def _labels(task: Task, table: Table) -> list[float]:
    read = _read_score if task.is_regression else _read_label
    return [read(task, fields[-1], f"{table.path}:{number}") for number, fields in table.rows]


def _read_label(task: Task, text: str, place: str) -> int:
    spellings = list(task.labels.values())
    if text not in spellings:
        raise StageError(f"{place}: label {text!r}, expected one of {', '.join(spellings)}")
    return spellings.index(text)


def _read_score(task: Task, text: str, place: str) -> float:
    low, high = task.score_range
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not low <= score <= high:
        raise StageError(f"{place}: score {text!r}, expected a number from {low} to {high}")
    return score


def _from_hub(task: Task, split: Split) -> Examples:
    """The split of nyu-mll/glue; label ids are mapped by the names that the dataset gives them."""
    from datasets import load_dataset

    data = load_dataset(HUB_DATASET, split.hub_config, split=split.hub_split)
    texts = list(zip(*(data[column] for column in task.hub_columns), strict=True))
    if split.submission:
        return Examples(texts)
    if task.is_regression:
        return Examples(texts, [float(score) for score in data["label"]])
    return Examples(texts, _labels_by_name(task, data))


def _labels_by_name(task: Task, data) -> list[int]:
    names, words = data.features["label"].names, list(task.labels)
    if sorted(names) != sorted(words):
        raise StageError(f"{HUB_DATASET}, {task.name}: labels {names}, expected {words}")
    return [words.index(names[label]) for label in data["label"]]
