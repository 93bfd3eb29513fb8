"""Reads the texts and labels of a task's split from a folder of files or from the Hub."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from finetune.data.files.label_cells import label_of_row, read_labelled, score_of
from finetune.data.files.parquet_tables import (
    ENDING,
    class_names,
    is_parquet,
    num_parquet_rows,
    problem_with_table,
)
from finetune.data.superglue import NoLabel, query_answers, samples_of
from finetune.data.tables import (
    Table,
    iter_lines,
    place,
    read_objects,
    read_table,
    table_columns,
)
from finetune.data.tasks import Part, Split, Task
from pipeline.errors import StageError
from pipeline.hub.dataset_files import check_split, look_up
from pipeline.hub.repository import Repository, cached_commit
from pipeline.hub.requests import first_line
from pipeline.user_files.file_checks import shown, shown_list

if TYPE_CHECKING:
    import datasets
    import numpy as np

HUB_DATASET = "nyu-mll/glue"
HUB_GLUE = Repository(HUB_DATASET, "dataset")
READ_BYTES = 1 << 20
# One per row, in files with several rows per line.
_ROW_MARKS = {"answers": b'"label"', "entities": b'"query"'}


@dataclass(frozen=True)
class Examples:
    """The samples of a split: one per row of the file, or several (COPA's choices, say).

    texts: one or two sentences each. labels: positions in `task.labels`, sorted tuples of them in a
    task with several labels per row, or the scores of a regression; empty for a split without
    labels. malformed, unlabelled: the rows left out.
    keys: for SuperGLUE's tasks, the `idx` of each sample's row and its place in the row: COPA
    (row, choice), MultiRC (passage, question, answer), ReCoRD (query, entity), others (row,); for
    dev rows held out of a train file (row,), from 0 among those with a label.
    answers: for ReCoRD, query -> the right texts. words, tags: of a text to tag, the characters
    [start, stop) of each word as [n, 2] int32, and their tags in IOB2. lines: of a dev set's
    samples, as `TableRow.number`; empty on the Hub, and for a folder of tagged files.
    """

    texts: list[tuple[str, ...]]
    labels: list[Any] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    keys: list[tuple] = field(default_factory=list)
    answers: dict[int, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    words: list["np.ndarray"] = field(default_factory=list)
    tags: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def load_examples(task: Task, split: Split, data_dir: str) -> Examples:
    """Returns the examples in the file's order.

    data_dir: folder of the task's benchmark in its official layout, or of GLUE as on the Hub; empty
    for the Hub itself (GLUE only).
    Raises StageError for a missing file or column, an unknown label, a split without rows and a
    malformed test row (leaving it out would shift the predictions of the next rows).
    """
    if not data_dir:
        return _from_hub(task, split)
    path = find_file(split, Path(data_dir))
    if path is None:
        raise StageError(f"{Path(data_dir) / split.files[0]}: no such file")
    load = _from_objects if task.benchmark == "SuperGLUE" else _from_table
    load = _from_sentences if split.tag_column else load
    is_of_hub = task.benchmark == "GLUE" and is_parquet(path)
    examples = load(_as_on_the_hub(task, split, path) if is_of_hub else task, split, path)
    if split in task.test and examples.malformed:
        raise StageError(f"{examples.malformed[0]}; a test row cannot be left out")
    if not examples.texts:
        left_out = examples.malformed or examples.unlabelled
        lacks = "can be read" if examples.malformed or not left_out else "has a label"
        first = f", the first is {left_out[0]}" if left_out else ""
        raise StageError(f"{path}: no row that {lacks}{first}")
    return examples if split in task.dev else replace(examples, lines=[])


def find_file(split: Split, data_dir: Path) -> Path | None:
    """Returns the file of a split, or its folder of files, if there is one."""
    paths = (data_dir / name for name in (*split.files, *hub_files(split)))
    if split.tag_column:
        return next(filter(Path.exists, paths), None)
    return next((path for path in paths if not problem_with_table(str(path))), None)


def hub_files(split: Split) -> tuple[str, ...]:
    """Returns the file of a split of GLUE in a copy of nyu-mll/glue, as `Split.files`."""
    if not split.hub_config:
        return ()
    return (f"{split.hub_config}/{split.hub_split}-00000-of-00001{ENDING}",)


def has_split(split: Split, data_dir: str) -> bool:
    """True if the split can be loaded; the Hub (an empty `data_dir`) has all splits."""
    return not data_dir or find_file(split, Path(data_dir)) is not None


def num_train_rows(task: Task, data_dir: str) -> int:
    """Counts the rows of a benchmark's train file, in a quick look; the Hub's count is known."""
    path = find_file(task.train, Path(data_dir)) if data_dir else None
    return task.num_train_rows if path is None else num_rows(task, task.train, path)


def num_rows(task: Task, split: Split, path: Path) -> int:
    """Counts the rows of a benchmark's file, in a quick look."""
    if mark := _ROW_MARKS.get(task.layout):
        with open(path, "rb") as file:
            return sum(block.count(mark) for block in iter(lambda: file.read(READ_BYTES), b""))
    if is_parquet(path):
        return num_parquet_rows(path)
    lines = (line or b"" for _, line in iter_lines(path))
    return num_tsv_rows(lines, split) if task.benchmark == "GLUE" else sum(1 for _ in lines)


def num_tsv_rows(lines: Iterable[bytes], split: Split) -> int:
    """Counts the lines of one of GLUE's files with as many fields as its header."""
    lines = iter(lines)
    num_tabs = len(split.header) - 1 if split.header else next(lines, b"").count(b"\t")
    return sum(line.count(b"\t") == num_tabs for line in lines)


# --- tables -----------------------------------------------------------------------------------


def _from_table(task: Task, split: Split, path: Path) -> Examples:
    columns = split.text_columns or task.text_columns
    return (_of_test if split in task.test else _of_labelled)(task, split, path, columns)


def _of_test(task: Task, split: Split, path: Path, columns: Sequence[str]) -> Examples:
    numbered = _id_columns(path) if task.benchmark == "GLUE" else []
    table = read_table(path, (*columns, *numbered), header=split.header)
    if numbered:
        _check_ids(table)
    texts = [cells[: len(columns)] for _, cells in table.rows]
    return Examples(texts, malformed=table.malformed)


def _of_labelled(task: Task, split: Split, path: Path, columns: Sequence[str]) -> Examples:
    grouped = [split.part.group_column] if split.part and split.part.group_column else []
    table = read_labelled(
        path,
        task.label_column,
        (*columns, *grouped),
        header=split.header,
        optional=grouped,
        separator=task.separator if task.has_label_sets else "",
    )
    examples, groups = Examples([], malformed=table.malformed), list[str]()
    for number, row in table.rows:
        where = place(path, number)
        label = label_of_row(task, row, where)
        if label is None:
            examples.unlabelled.append(f"{where}: no label")
            continue
        examples.texts.append(row.cells[: len(columns)])
        examples.labels.append(label)
        examples.lines.append(number)
        if grouped:
            groups.append(row.cells[len(columns)])
            if not groups[-1].strip():
                problem = f"no group in column {grouped[0]}, expected one in each row with a label"
                raise StageError(f"{where}: {problem}")
    return _part(task, split.part, examples, groups, path) if split.part else examples


def _part(
    task: Task, part: Part, examples: Examples, groups: Sequence[str], path: Path
) -> Examples:
    """Returns the examples of dev, or the others with the rows left out.

    Rows with the same texts are on the same side.
    """
    from finetune.data.dev_split import linked_rows, rows_of_part

    labels = examples.labels
    try:
        rows = rows_of_part(task, part, labels, linked_rows(examples.texts, groups))
    except ValueError as error:
        key = f"FOLDS is {part.num_folds}" if part.num_folds else f"DEV_SHARE is {part.share:g}"
        raise StageError(f"{path}: {error} ({key})") from error
    texts, labels = [examples.texts[row] for row in rows], [labels[row] for row in rows]
    if part.is_dev:
        lines = [examples.lines[row] for row in rows]
        return Examples(texts, labels, keys=[(row,) for row in rows], lines=lines)
    return replace(examples, texts=texts, labels=labels)


def _id_columns(path: Path) -> list[str]:
    """Returns the column with the row numbers of a test file, if there is one."""
    return [name for name in table_columns(path) if name in ("index", "id")][:1]


def _check_ids(table: Table[tuple[str, ...]]) -> None:
    """Raises StageError for a duplicate id: it identifies a prediction."""
    lines: dict[str, int] = {}
    for number, (*_, row_id) in table.rows:
        if (first := lines.setdefault(row_id, number)) != number:
            raise StageError(f"{table.path}:{number}: id {shown(row_id)}, as in line {first}")


# --- tagged sentences -------------------------------------------------------------------------


def _from_sentences(task: Task, split: Split, path: Path) -> Examples:
    """Reads a file or a folder. Among the tags may be types that no training text has."""
    from finetune.tagging.tagged_files import running_texts

    texts, words, tags, lines = running_texts(path, split.tag_column, split not in task.test)
    return Examples(texts, words=words, tags=tags, lines=[] if path.is_dir() else lines)


# --- SuperGLUE --------------------------------------------------------------------------------


def _from_objects(task: Task, split: Split, path: Path) -> Examples:
    objects = read_objects(path)
    examples = Examples([], malformed=objects.malformed)
    labelled, words = split not in task.test, list(task.labels)
    lines: dict[tuple, int] = {}
    for position, (number, row) in enumerate(objects.rows):
        try:
            samples = samples_of(task, split, row, position)
            answers = query_answers(row) if labelled and task.layout == "entities" else {}
        except NoLabel as error:
            examples.unlabelled.append(f"{path}:{number}: {error}")
            continue
        except ValueError as error:
            objects.leave_out(number, error)
            continue
        except StageError as error:
            raise StageError(f"{path}:{number}: {error.cause}") from error
        for sample in samples:
            if split is not task.train and lines.setdefault(sample.key, number) != number:
                first = lines[sample.key]
                raise StageError(f"{path}:{number}: idx {sample.key[0]}, as in line {first}")
            examples.keys.append(sample.key)
            examples.texts.append(sample.texts)
            examples.lines.append(number)
            if labelled:
                examples.labels.append(words.index(sample.label))
        examples.answers.update(answers)
    return examples


# --- the Hub ----------------------------------------------------------------------------------


def _from_hub(task: Task, split: Split) -> Examples:
    """Reads a split of nyu-mll/glue; the dataset's own label names identify its label ids."""
    if task.benchmark != "GLUE":
        raise StageError(f"{task.name}: is not in {HUB_DATASET}, expected a folder with its files")
    with _hub_rows(split) as data:
        needed = task.hub_columns if split in task.test else (*task.hub_columns, "label")
        if missing := [column for column in needed if column not in data.column_names]:
            there = shown_list(data.column_names)
            raise StageError(
                f"{HUB_DATASET}, {split.hub_config}: has no column {missing[0]}, it has {there}"
            )
        texts = list(zip(*(data[column] for column in task.hub_columns), strict=True))
        return Examples(texts, [] if split in task.test else _hub_labels(task, data))


@contextmanager
def _hub_rows(split: Split) -> Iterator["datasets.Dataset"]:
    """Yields the rows of a split at the commit in the Hub's cache, else at the present one.

    Raises StageError with the first line of any error of `datasets`.
    """
    with TemporaryDirectory() as folder:
        try:
            tables = look_up(HUB_DATASET, split.hub_config, Path(folder), cached_commit(HUB_GLUE))
            check_split(f"{HUB_DATASET} {split.hub_config}", split.hub_split, tables.files)
            data = tables.load(split.hub_split)
        except StageError as error:
            raise StageError(
                f"FINETUNE.GLUE_DIR (--glue_dir of run_glue) is empty, and {error.cause}"
            ) from error
        except Exception as error:  # many readers, each with errors of its own
            raise StageError(f"{HUB_DATASET} cannot be read: {first_line(error)}") from error
        yield data


def _as_on_the_hub(task: Task, split: Split, path: Path) -> Task:
    """Returns a task of GLUE with the columns and labels of nyu-mll/glue's files.

    Raises StageError if the file does not name the classes of its labels, and no others.
    """
    names = class_names(path).get("label", ())
    if not task.is_regression and split not in task.test and sorted(names) != sorted(task.labels):
        named = f"names {shown_list(names)}" if names else "does not name its classes"
        raise StageError(f"{path}: {named}, expected the labels {shown_list(task.labels)}")
    words = {word: word for word in task.labels}
    return replace(task, text_columns=task.hub_columns, label_column="label", labels=words)


def _hub_labels(task: Task, data: "datasets.Dataset") -> list[float]:
    place = f"{HUB_DATASET}, {task.name}"
    if task.is_regression:
        scores = enumerate(data["label"])
        return [score_of(task, str(score), f"{place}, row {row}") for row, score in scores]
    names, words = data.features["label"].names, list(task.labels)
    if sorted(names) != sorted(words):
        raise StageError(f"{place}: labels {names}, expected {words}")
    for row, label in enumerate(data["label"]):
        if label not in range(len(names)):
            raise StageError(f"{place}, row {row}: label {label!r}")
    return [words.index(names[label]) for label in data["label"]]
