"""The tasks of GLUE and SuperGLUE, one row each: files, columns, labels, metrics, submission files.

Row counts and the layout of the submissions are those of https://gluebenchmark.com and
https://super.gluebenchmark.com; the metrics are those of the papers (arXiv 1804.07461, table 1,
and arXiv 1905.00537, table 1).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Split:
    """A part of a task's data.

    files: its file below the benchmark's folder; the first one that exists is read. hub_config
    and hub_split: where it is in nyu-mll/glue. header: the columns of a file without a header
    line, empty if it has one. text_columns: its own, if they are not the task's. submission and
    num_rows: name of the submitted file (without its ending) and the rows that the server expects
    in it; only for the benchmarks' test sets.
    """

    name: str
    files: tuple[str, ...]
    hub_config: str = ""
    hub_split: str = ""
    header: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    submission: str = ""
    num_rows: int = 0


@dataclass(frozen=True)
class Task:
    """A row of the table.

    text_columns: one or two columns of the files; hub_columns: the same on the Hub, where the
    label column is always `label`. labels: label word -> its spelling in TSV files and in
    submissions; empty for regression, whose scores lie within `score_range`. num_train_rows: in
    the benchmark's own train file (MultiRC: its answers, ReCoRD: its queries). dev: the splits
    that the score is the mean of. test: those that are predicted. layout: how a row of the file
    becomes samples, see finetune/data/superglue.py. benchmark: empty for a task of the user's own.
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

    def __hash__(self) -> int:
        return hash((self.benchmark, self.name))

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def has_several_samples(self) -> bool:
        """Whether a row of the file becomes several samples."""
        return self.layout in ("choices", "answers", "entities")

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
    header: tuple[str, ...] = (),
    **rest,
) -> Task:
    """A task of GLUE with the files train.tsv, dev.tsv and test.tsv."""
    return Task(
        name=name,
        text_columns=columns,
        label_column=label_column,
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


def _superglue(
    name: str,
    *,
    num_train_rows: int,
    num_test_rows: int,
    folder: str = "",
    columns: tuple[str, ...] = (),
    metrics: tuple[str, ...] = ("accuracy",),
    diagnostics: tuple[Split, ...] = (),
    **rest,
) -> Task:
    """A task of SuperGLUE with the files train.jsonl, val.jsonl and test.jsonl."""
    folder = folder or name
    test = Split("test", (f"{folder}/test.jsonl",), submission=folder, num_rows=num_test_rows)
    return Task(
        name=name,
        text_columns=columns,
        label_column="label",
        metrics=metrics,
        num_train_rows=num_train_rows,
        train=Split("train", (f"{folder}/train.jsonl",)),
        dev=(Split("dev", (f"{folder}/val.jsonl",)),),
        test=(test, *diagnostics),
        benchmark="SuperGLUE",
        **rest,
    )


def _diagnostic(name: str, num_rows: int, columns: tuple[str, ...]) -> Split:
    """A test set for the model of SuperGLUE's RTE; gold labels that its file has are not read."""
    file = f"{name}/{name}.jsonl"
    return Split(name, (file,), text_columns=columns, submission=name, num_rows=num_rows)


_SENTENCES = ("sentence1", "sentence2")
_PREMISE = ("premise", "hypothesis")
_TRUTH = _words("false", "true")
# Classes of the samples of tasks that have several per row.
_JUDGEMENT = _binary("wrong", "right")

GLUE = (
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

SUPERGLUE = (
    _superglue(
        "BoolQ",
        columns=("passage", "question"),
        num_train_rows=9427,
        num_test_rows=3245,
        labels=_TRUTH,
    ),
    _superglue(
        "CB",
        columns=_PREMISE,
        num_train_rows=250,
        num_test_rows=250,
        labels=_words("entailment", "contradiction", "neutral"),
        metrics=("accuracy", "f1_macro"),
        aliases=("commitmentbank",),
    ),
    _superglue(
        "COPA",
        layout="choices",
        num_train_rows=400,
        num_test_rows=500,
        labels=_JUDGEMENT,
    ),
    _superglue(
        "MultiRC",
        layout="answers",
        num_train_rows=27243,
        num_test_rows=9693,
        labels=_JUDGEMENT,
        metrics=("f1a", "exact_match"),
    ),
    _superglue(
        "ReCoRD",
        layout="entities",
        num_train_rows=100730,
        num_test_rows=10000,
        labels=_JUDGEMENT,
        metrics=("token_f1", "exact_match"),
    ),
    _superglue(
        "SuperGLUE-RTE",
        folder="RTE",
        columns=_PREMISE,
        num_train_rows=2490,
        num_test_rows=3000,
        labels=_words("entailment", "not_entailment"),
        diagnostics=(
            _diagnostic("AX-b", 1104, _SENTENCES),
            _diagnostic("AX-g", 356, _PREMISE),
        ),
        aliases=("rtesuperglue",),
    ),
    _superglue(
        "WiC",
        layout="word_senses",
        num_train_rows=5428,
        num_test_rows=1400,
        labels=_TRUTH,
    ),
    _superglue(
        "WSC",
        layout="pronouns",
        num_train_rows=554,
        num_test_rows=146,
        # Capitalised in submissions, unlike BoolQ's and WiC's: so write it those who submit.
        labels={"false": "False", "true": "True"},
    ),
)

TASKS = (*GLUE, *SUPERGLUE)


def find_task(name: str) -> Task:
    """The task of that name in any usual spelling (`STS-B`, `stsb`, `sst2`); KeyError if none."""
    wanted = _plain(name)
    for task in TASKS:
        if wanted in (_plain(task.name), *task.aliases):
            return task
    raise KeyError(f"{name} is not a task, expected one of {', '.join(t.name for t in TASKS)}")


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def submission_splits(benchmark: str = "GLUE") -> dict[str, tuple[Task, Split]]:
    """The submitted files, by name without ending, in the order of the tasks: eleven or ten."""
    tasks = [task for task in TASKS if task.benchmark == benchmark]
    return {split.submission: (task, split) for task in tasks for split in task.test}
