"""The tasks of GLUE and SuperGLUE: files, columns, labels, metrics and submission files.

Row counts and submission layouts come from https://gluebenchmark.com and
https://super.gluebenchmark.com, metrics from table 1 of the papers (arXiv 1804.07461 and
arXiv 1905.00537).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from configs.finetune_rules import MULTI_LABEL

SPLIT_SEED = 0  # of dev shares and folds: another seed would give other scores


@dataclass(frozen=True)
class Part:
    """The rows of a train file for dev, or the others: see finetune/data/dev_split.py.

    share: of the rows, for dev. fold: from 1 to num_folds, the one for dev instead of a share.
    is_dev: True for the rows of dev. group_column: rows with the same cell there stay together; may
    be empty.
    """

    share: float
    is_dev: bool
    group_column: str = ""
    fold: int = 0
    num_folds: int = 0


@dataclass(frozen=True)
class Split:
    """A part of a task's data.

    files: paths below the benchmark's folder; the first existing one is read. hub_config and
    hub_split: its place in nyu-mll/glue. header: the columns of a file without a header line.
    text_columns: overrides the task's. submission and num_rows: name of the submitted file
    (without its ending) and the number of rows that the server expects; only for the benchmarks'
    test sets. part: the rows of the file that count, None for all. tag_column: of files of tagged
    sentences (see finetune/tagging); 0 for tables.
    """

    name: str
    files: tuple[str, ...]
    hub_config: str = ""
    hub_split: str = ""
    header: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    submission: str = ""
    num_rows: int = 0
    part: Part | None = None
    tag_column: int = 0


@dataclass(frozen=True)
class Task:
    """A task of a benchmark, or one of the user's own (`benchmark` is empty then).

    text_columns: one or two columns of the files. hub_columns: the same on the Hub, where the label
    column is always `label`. labels: label word -> its spelling in the files and in submissions;
    empty for a regression, whose scores lie within `score_range`. num_train_rows: size of the
    official train file (MultiRC: its answers, ReCoRD: its queries). dev: the splits whose mean is
    the score. test: the splits to predict. layout: maps rows to samples, see
    finetune/data/superglue.py. type: see finetune/task_types. has_numbers: the files may hold the
    labels' numbers, from 0, too. num_folds: of the train file, in place of dev splits; 0 for none.
    group_column: see `Part`, for folds. class_weights: `balanced` or empty. scheme: of the tags in
    files of tagged sentences. separator: between several labels, in files and predictions.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    metrics: tuple[str, ...]
    num_train_rows: int
    train: Split
    dev: tuple[Split, ...]
    test: tuple[Split, ...]
    hub_columns: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    score_range: tuple[float, float] = (0.0, 0.0)
    aliases: tuple[str, ...] = ()
    benchmark: str = "GLUE"
    layout: str = "columns"
    type: str = "classification"
    has_numbers: bool = False
    num_folds: int = 0
    group_column: str = ""
    class_weights: str = ""
    scheme: str = ""
    separator: str = ","

    def __hash__(self) -> int:
        return hash((self.benchmark, self.name))

    def in_fold(self, number: int) -> "Task":
        """Returns the task of a run: fold `number` is for dev, the other rows are for training.

        A number outside of 1 to num_folds gives the task itself, with all rows for training.
        """
        if not 1 <= number <= self.num_folds:
            return self
        part = Part(0.0, True, self.group_column, number, self.num_folds)
        train = replace(self.train, part=replace(part, is_dev=False))
        dev = replace(self.train, name="dev", part=part)
        return replace(self, train=train, dev=(dev,), test=())

    @property
    def is_regression(self) -> bool:
        return self.type == "regression"

    @property
    def has_label_sets(self) -> bool:
        """True if a row may have several labels, or none."""
        return self.type == MULTI_LABEL

    @property
    def has_several_samples(self) -> bool:
        """True if a row of the file becomes several samples."""
        return self.layout in ("choices", "answers", "entities")

    @property
    def splits(self) -> tuple[Split, ...]:
        return (self.train, *self.dev, *self.test)


def _glue(
    name: str,
    columns: tuple[str, ...],
    rows: tuple[int, int],
    *,
    label_column: str = "label",
    metrics: tuple[str, ...] = ("accuracy",),
    hub_columns: tuple[str, ...] = (),
    header: tuple[str, ...] = (),
    **rest: Any,
) -> Task:
    """Returns a task with train.tsv, dev.tsv and test.tsv. rows: of train and test.

    hub_columns: `columns` if they are not given. header: of train.tsv and dev.tsv.
    """
    config = _plain(name)
    file = f"{name}/test.tsv"
    return Task(
        name=name,
        text_columns=columns,
        label_column=label_column,
        metrics=metrics,
        num_train_rows=rows[0],
        train=Split("train", (f"{name}/train.tsv",), config, "train", header),
        dev=(Split("dev", (f"{name}/dev.tsv",), config, "validation", header),),
        test=(Split("test", (file,), config, "test", submission=name, num_rows=rows[1]),),
        hub_columns=hub_columns or columns,
        **rest,
    )


def _mnli() -> Task:
    def split(name: str, hub_split: str, submission: str = "", num_rows: int = 0) -> Split:
        files = (f"MNLI/{name}.tsv",)
        return Split(name, files, "mnli", hub_split, submission=submission, num_rows=num_rows)

    diagnostic = ("AX/diagnostic.tsv", "diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv")
    return Task(
        name="MNLI",
        text_columns=_SENTENCES,
        label_column="gold_label",
        hub_columns=_PREMISE,
        metrics=("accuracy",),
        num_train_rows=392702,
        train=split("train", "train"),
        dev=(
            split("dev_matched", "validation_matched"),
            split("dev_mismatched", "validation_mismatched"),
        ),
        test=(
            split("test_matched", "test_matched", "MNLI-m", 9796),
            split("test_mismatched", "test_mismatched", "MNLI-mm", 9847),
            Split("diagnostic", diagnostic, "ax", "test", submission="AX", num_rows=1104),
        ),
        labels=_words("entailment", "neutral", "contradiction"),
    )


def _words(*words: str) -> dict[str, str]:
    """Returns labels that the files spell out."""
    return {word: word for word in words}


def _binary(zero: str, one: str) -> dict[str, str]:
    """Returns labels that are 0 and 1 in the files."""
    return {zero: "0", one: "1"}


def _superglue(
    name: str,
    rows: tuple[int, int],
    labels: dict[str, str],
    *,
    folder: str = "",
    columns: tuple[str, ...] = (),
    metrics: tuple[str, ...] = ("accuracy",),
    diagnostics: tuple[Split, ...] = (),
    **rest: Any,
) -> Task:
    """Returns a task with train.jsonl, val.jsonl and test.jsonl. rows: of train and test."""
    folder = folder or name
    test = Split("test", (f"{folder}/test.jsonl",), submission=folder, num_rows=rows[1])
    return Task(
        name=name,
        text_columns=columns,
        label_column="label",
        metrics=metrics,
        num_train_rows=rows[0],
        train=Split("train", (f"{folder}/train.jsonl",)),
        dev=(Split("dev", (f"{folder}/val.jsonl",)),),
        test=(test, *diagnostics),
        labels=labels,
        benchmark="SuperGLUE",
        **rest,
    )


def _diagnostic(name: str, num_rows: int, columns: tuple[str, ...]) -> Split:
    """Returns a test set for the model of SuperGLUE's RTE; its gold labels are not read."""
    file = f"{name}/{name}.jsonl"
    return Split(name, (file,), text_columns=columns, submission=name, num_rows=num_rows)


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


_SENTENCES = ("sentence1", "sentence2")
_PREMISE = ("premise", "hypothesis")
_ENTAILMENT = _words("entailment", "not_entailment")
_TRUTH = _words("false", "true")
_JUDGEMENT = _binary("wrong", "right")  # of samples, in tasks with several per row
_ACCURACY_F1 = ("accuracy", "f1")

GLUE = (
    _glue(
        "CoLA",
        ("sentence",),
        (8551, 1063),
        header=("source", "label", "original_label", "sentence"),
        labels=_binary("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
    ),
    _glue(
        "SST-2",
        ("sentence",),
        (67349, 1821),
        labels=_binary("negative", "positive"),
        aliases=("sst",),
    ),
    _glue(
        "MRPC",
        ("#1 String", "#2 String"),
        (3668, 1725),
        label_column="Quality",
        hub_columns=_SENTENCES,
        labels=_binary("not_equivalent", "equivalent"),
        metrics=_ACCURACY_F1,
    ),
    _glue(
        "STS-B",
        _SENTENCES,
        (5749, 1379),
        label_column="score",
        score_range=(0.0, 5.0),
        type="regression",
        metrics=("pearson", "spearman"),
        aliases=("sts",),
    ),
    _glue(
        "QQP",
        ("question1", "question2"),
        (363846, 390965),
        label_column="is_duplicate",
        labels=_binary("not_duplicate", "duplicate"),
        metrics=_ACCURACY_F1,
    ),
    _mnli(),
    _glue("QNLI", ("question", "sentence"), (104743, 5463), labels=_ENTAILMENT),
    _glue("RTE", _SENTENCES, (2490, 3000), labels=_ENTAILMENT),
    _glue("WNLI", _SENTENCES, (635, 146), labels=_binary("not_entailment", "entailment")),
)

SUPERGLUE = (
    _superglue("BoolQ", (9427, 3245), _TRUTH, columns=("passage", "question")),
    _superglue(
        "CB",
        (250, 250),
        _words("entailment", "contradiction", "neutral"),
        columns=_PREMISE,
        metrics=("accuracy", "f1_macro"),
        aliases=("commitmentbank",),
    ),
    _superglue("COPA", (400, 500), _JUDGEMENT, layout="choices"),
    _superglue(
        "MultiRC", (27243, 9693), _JUDGEMENT, layout="answers", metrics=("f1a", "exact_match")
    ),
    _superglue(
        "ReCoRD",
        (100730, 10000),
        _JUDGEMENT,
        layout="entities",
        metrics=("token_f1", "exact_match"),
    ),
    _superglue(
        "SuperGLUE-RTE",
        (2490, 3000),
        _ENTAILMENT,
        folder="RTE",
        columns=_PREMISE,
        diagnostics=(
            _diagnostic("AX-b", 1104, _SENTENCES),
            _diagnostic("AX-g", 356, _PREMISE),
        ),
        aliases=("rtesuperglue",),
    ),
    _superglue("WiC", (5428, 1400), _TRUTH, layout="word_senses"),
    # Submissions spell WSC's labels with capitals, unlike BoolQ's and WiC's.
    _superglue("WSC", (554, 146), {"false": "False", "true": "True"}, layout="pronouns"),
)

TASKS = (*GLUE, *SUPERGLUE)


def find_task(name: str) -> Task:
    """Returns the task of that name in any usual spelling (`STS-B`, `stsb`, `sst2`).

    Raises KeyError if there is none.
    """
    wanted = _plain(name)
    for task in TASKS:
        if wanted in (_plain(task.name), *task.aliases):
            return task
    raise KeyError(f"{name} is not a task, expected one of {', '.join(t.name for t in TASKS)}")


def submission_splits(benchmark: str = "GLUE") -> dict[str, tuple[Task, Split]]:
    """Returns the submitted files by name without ending, in the order of the tasks: eleven of
    GLUE, ten of SuperGLUE."""
    tasks = [task for task in TASKS if task.benchmark == benchmark]
    return {split.submission: (task, split) for task in tasks for split in task.test}
