"""Public data of three kinds of tasks, read in the usual way, with none of our own readers.

The rows of a text classification are (text, label), of a multi-label one (text, labels), of a token
classification (tokens, tags).
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = tuple[Any, Any]

CLASSIFICATION, MULTI_LABEL, TOKENS = "classification", "multi_label", "token_classification"


@dataclass(frozen=True)
class Task:
    """A task and its files, below the folder of the data.

    kind: one of the three above. metric: the one to compare. test: empty without a third file.
    label_column: of files with a header or keys. labels_file: the names of the label numbers.
    """

    name: str
    kind: str
    metric: str
    train: str
    dev: str
    test: str = ""
    label_column: str = "label"
    labels_file: str = ""

    @property
    def files(self) -> dict[str, str]:
        files = {"train": self.train, "dev": self.dev, "test": self.test}
        return {split: file for split, file in files.items() if file}


def _tokens(name: str, suffix: str) -> Task:
    files = [f"ner/{name}/{split}{suffix}" for split in ("train", "dev", "test")]
    return Task(name, TOKENS, "entity_f1", *files)


TASKS = {
    task.name: task
    for task in (
        _tokens("wnut17", ".conll"),
        _tokens("ncbi_disease", ".tsv"),
        _tokens("bc5cdr", ".tsv"),
        _tokens("litbank", ""),  # a folder per split, a file per document
        Task(
            "goemotions",
            MULTI_LABEL,
            "f1_micro",
            *(f"multi_label/goemotions/{split}.tsv" for split in ("train", "dev", "test")),
            labels_file="multi_label/goemotions/labels.txt",
        ),
        Task(
            "banking77",
            CLASSIFICATION,
            "accuracy",
            "classification/banking77/train.csv",
            "classification/banking77/test.csv",  # it has no dev file
            label_column="category",
        ),
        Task(
            "sci_cite",
            CLASSIFICATION,
            "f1_macro",
            *(f"classification/sci_cite/{split}.jsonl" for split in ("train", "dev", "test")),
        ),
    )
}


def read_rows(task: Task, path: Path) -> list[Row]:
    """Returns the rows of a split. Raises OSError, KeyError or ValueError for a wrong file."""
    if task.kind == TOKENS:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [row for file in files for row in _tagged_sentences(_text(file))]
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            return [(row["text"], row[task.label_column]) for row in csv.DictReader(file)]
    lines = _text(path).removesuffix("\n").split("\n")
    if path.suffix == ".jsonl":
        return [(row["text"], row[task.label_column]) for row in map(json.loads, lines)]
    cells = [line.split("\t") for line in lines]
    return [(text, tuple(labels.split(","))) for text, labels, _ in cells]


def _text(path: Path) -> str:
    """Returns the content with its line ends as they are: tokens may have a CR or U+2028."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def _tagged_sentences(text: str) -> list[Row]:
    """Splits lines of token, TAB, tag, and maybe more, with blank lines after sentences."""
    sentences = []
    for block in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")):
        if block.strip():
            tokens, tags = zip(*(line.split("\t")[:2] for line in block.split("\n")), strict=True)
            sentences.append((tokens, tags))
    return sentences


def write_rows(task: Task, rows: Sequence[Row], path: Path) -> None:
    """Writes rows as `read_rows` reads them, in the format of the task's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if task.kind == TOKENS:
            for tokens, tags in rows:
                pairs = zip(tokens, tags, strict=True)
                file.write("".join(f"{token}\t{tag}\n" for token, tag in pairs) + "\n")
        elif path.suffix == ".csv":
            csv.writer(file).writerows([("text", task.label_column), *rows])
        elif path.suffix == ".jsonl":
            for text, label in rows:
                file.write(json.dumps({"text": text, task.label_column: label}) + "\n")
        else:
            for number, (text, labels) in enumerate(rows):
                file.write(f"{text}\t{','.join(labels)}\t{number}\n")


def labels_of(task: Task, folder: Path) -> list[str]:
    """Returns the classes of the whole train file, sorted; for a multi-label task, the numbers of
    the names."""
    if task.labels_file:
        return [str(i) for i in range(len(_text(folder / task.labels_file).split()))]
    found = [label for _, label in read_rows(task, folder / task.train)]
    if task.kind == TOKENS:
        return sorted({tag for tags in found for tag in tags})
    return sorted(set(found))


def some_of(rows: Sequence[Row], number: int) -> list[Row]:
    """Returns rows from all over a file: the first ones of a sorted file have only one class."""
    number = min(number, len(rows))
    return [rows[i * len(rows) // number] for i in range(number)]
