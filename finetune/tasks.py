"""The GLUE tasks, one row each: files, columns, labels, metrics and submission files.

Row counts and the layout of the submission are those of https://gluebenchmark.com; the metrics
are those of the GLUE paper (arXiv 1804.07461, table 1).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Split:
    """A part of a task's data.

    files: its file below the GLUE folder; the first one that exists is read. hub_config and
    hub_split: where it is in nyu-mll/glue. header: the columns of a file without a header line,
    empty if it has one. submission and num_rows: name of the submitted TSV (without its ending)
    and the lines that the server expects in it; only for test sets.
    """

    name: str
    files: tuple[str, ...]
    hub_config: str
    hub_split: str
    header: tuple[str, ...] = ()
    submission: str = ""
    num_rows: int = 0


@dataclass(frozen=True)
class Task:
    """A row of the table.

    text_columns: one or two columns of the TSV files; hub_columns: the same on the Hub, where
    the label column is always `label`. labels: label word -> its spelling in TSV files and in
    submissions; empty for regression, whose scores lie within `score_range`. num_train_rows: in
    GLUE's own train file. dev: the splits that the score is the mean of. test: those that are
    predicted.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    hub_columns: tuple[str, ...]
    metrics: tuple[str, ...]
    num_train_rows: int
    train: Split
    dev: tuple[Split, ...]
    test: tuple[Split, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    score_range: tuple[float, float] = (0.0, 0.0)
    aliases: tuple[str, ...] = ()
    benchmark: str = "GLUE"

    def __hash__(self) -> int:
        return hash((self.benchmark, self.name))

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def splits(self) -> tuple[Split, ...]:
        return (self.train, *self.dev, *self.test)


def _row(
    name: str,
    columns: tuple[str, ...],
    *,
    num_test_rows: int,
    label_column: str = "label",
    hub_config: str,
    hub_columns: tuple[str, ...],
    header: tuple[str, ...] = (),
    **rest,
) -> Task:
    """A task with the files train.tsv, dev.tsv and test.tsv."""
    return Task(
        name=name,
        text_columns=columns,
        label_column=label_column,
        hub_columns=hub_columns,
        train=Split("train", (f"{name}/train.tsv",), hub_config, "train", header),
        dev=(Split("dev", (f"{name}/dev.tsv",), hub_config, "validation", header),),
        test=(
            Split(
                "test",
                (f"{name}/test.tsv",),
                hub_config,
                "test",
                submission=name,
                num_rows=num_test_rows,
            ),
        ),
        **rest,
    )


def _mnli() -> Task:
    def dev(kind: str) -> Split:
        return Split(f"dev_{kind}", (f"MNLI/dev_{kind}.tsv",), "mnli", f"validation_{kind}")

    def test(kind: str, submission: str, num_rows: int) -> Split:
        files = (f"MNLI/test_{kind}.tsv",)
        name = f"test_{kind}"
        return Split(name, files, "mnli", name, submission=submission, num_rows=num_rows)

    diagnostic = ("AX/diagnostic.tsv", "diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv")
    return Task(
        name="MNLI",
        text_columns=("sentence1", "sentence2"),
        label_column="gold_label",
        hub_columns=("premise", "hypothesis"),
        metrics=("accuracy",),
        num_train_rows=392702,
        train=Split("train", ("MNLI/train.tsv",), "mnli", "train"),
        dev=(dev("matched"), dev("mismatched")),
        test=(
            test("matched", "MNLI-m", 9796),
            test("mismatched", "MNLI-mm", 9847),
            Split("diagnostic", diagnostic, "ax", "test", submission="AX", num_rows=1104),
        ),
        labels=_words("entailment", "neutral", "contradiction"),
    )


def _words(*words: str) -> dict[str, str]:
    """Labels that are spelled out in the TSV files."""
    return {word: word for word in words}


def _binary(zero: str, one: str) -> dict[str, str]:
    """Labels that are 0 and 1 in the TSV files."""
    return {zero: "0", one: "1"}


_SENTENCES = ("sentence1", "sentence2")

TASKS = (
    _row(
        "CoLA",
        ("sentence",),
        num_train_rows=8551,
        num_test_rows=1063,
        hub_config="cola",
        hub_columns=("sentence",),
        header=("source", "label", "original_label", "sentence"),
        labels=_binary("unacceptable", "acceptable"),
        metrics=("matthews_correlation",),
    ),
    _row(
        "SST-2",
        ("sentence",),
        num_train_rows=67349,
        num_test_rows=1821,
        hub_config="sst2",
        hub_columns=("sentence",),
        labels=_binary("negative", "positive"),
        metrics=("accuracy",),
        aliases=("sst",),
    ),
    _row(
        "MRPC",
        ("#1 String", "#2 String"),
        num_train_rows=3668,
        num_test_rows=1725,
        label_column="Quality",
        hub_config="mrpc",
        hub_columns=_SENTENCES,
        labels=_binary("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
    ),
    _row(
        "STS-B",
        _SENTENCES,
        num_train_rows=5749,
        num_test_rows=1379,
        label_column="score",
        hub_config="stsb",
        hub_columns=_SENTENCES,
        score_range=(0.0, 5.0),
        metrics=("pearson", "spearman"),
        aliases=("sts",),
    ),
    _row(
        "QQP",
        ("question1", "question2"),
        num_train_rows=363846,
        num_test_rows=390965,
        label_column="is_duplicate",
        hub_config="qqp",
        hub_columns=("question1", "question2"),
        labels=_binary("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
    ),
    _mnli(),
    _row(
        "QNLI",
        ("question", "sentence"),
        num_train_rows=104743,
        num_test_rows=5463,
        hub_config="qnli",
        hub_columns=("question", "sentence"),
        labels=_words("entailment", "not_entailment"),
        metrics=("accuracy",),
    ),
    _row(
        "RTE",
        _SENTENCES,
        num_train_rows=2490,
        num_test_rows=3000,
        hub_config="rte",
        hub_columns=_SENTENCES,
        labels=_words("entailment", "not_entailment"),
        metrics=("accuracy",),
    ),
    _row(
        "WNLI",
        _SENTENCES,
        num_train_rows=635,
        num_test_rows=146,
        hub_config="wnli",
        hub_columns=_SENTENCES,
        labels=_binary("not_entailment", "entailment"),
        metrics=("accuracy",),
    ),
)


def find_task(name: str) -> Task:
    """The task of that name in any usual spelling (`STS-B`, `stsb`, `sst2`); KeyError if none."""
    wanted = _plain(name)
    for task in TASKS:
        if wanted in (_plain(task.name), *task.aliases):
            return task
    raise KeyError(f"{name} is not a task, expected one of {', '.join(t.name for t in TASKS)}")


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def submission_splits() -> dict[str, tuple[Task, Split]]:
    """The eleven submitted files, by name without ending, in the order of the tasks."""
    return {split.submission: (task, split) for task in TASKS for split in task.test}
