"""Labels that make a score misleading, and rows that are left out or shared, told in the plan."""

import json

import pytest

from configs.defaults import custom_task_node, get_default_config
from configs.loading import load_config
from finetune.checks import check_machine
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.demo_glue import write_demo_glue
from finetune.data.examples import load_examples, num_train_rows
from finetune.data.row_checks import notes_on_task
from finetune.data.tasks import find_task
from finetune.estimate import run_notes
from finetune.plan import plan
from finetune.stage import finetune
from pipeline.errors import ConfigError, StageError
from pipeline.orchestrator import plan_steps, run_pipeline
from tests.plans import finetune_estimate


def make(tmp_path, train: str, dev: str, ending="csv", **keys):
    """A task of these rows: text and label, separated by a comma or tab."""
    paths = {}
    for name, rows in (("train", train), ("dev", dev)):
        path = tmp_path / f"{name}.{ending}"
        path.write_text(rows if ending == "jsonl" else f"text,label\n{rows}")
        paths[name] = str(path)
    return custom_task("mine", TaskKeys(**paths, text_columns=["text"], **keys))


def notes(task) -> list[str]:
    """Without the name of the task and the folders."""
    folder = task.train.files[0].removesuffix("train.csv").removesuffix("train.jsonl")
    return [note.replace(folder, "").replace("mine: ", "", 1) for note in notes_on_task(task, ".")]


BOTH = "a,no\nb,yes\n" * 60
NO = "".join(f"n{number},no\n" for number in range(120))
YES = NO.replace("no", "yes")


# --- dev sets of one class --------------------------------------------------------------------


@pytest.mark.parametrize(
    "dev, metrics, problem",
    [
        (
            NO,
            ["f1"],
            r"no row has the label yes, with which f1, .* always 0, expected rows of both",
        ),
        (NO, ["accuracy", "f1"], "no row has the label yes"),
        (NO, ["matthews_correlation"], "all rows have the label no, with which matthews_corr"),
        (YES, ["matthews_correlation"], "all rows have the label yes, with which matthews_corr"),
    ],
)
def test_a_metric_that_is_0_whatever_the_model_is_refused(tmp_path, dev, metrics, problem):
    with pytest.raises(ConfigError, match=rf"TASKS\.mine\.DEV: .*dev\.csv: {problem}"):
        make(tmp_path, BOTH, dev, metrics=metrics)


@pytest.mark.parametrize("dev, metric", [(YES, "f1"), (NO, "accuracy"), (NO, "f1_macro")])
def test_a_metric_that_a_constant_answer_wins_is_warned_of(tmp_path, dev, metric):
    task = make(tmp_path, BOTH, dev, metrics=[metric])
    word = "yes" if dev == YES else "no"
    assert notes(task)[-1] == (
        f"WARNING: dev.csv: all rows have the label {word}, so a model that always answers {word} "
        "scores 100"
    )


def test_a_class_that_cannot_be_learned_is_warned_of(tmp_path):
    task = make(tmp_path, BOTH, "x,no\ny,maybe\n" * 60, labels=["no", "yes", "maybe", "never"])
    assert notes(task) == [
        "train 120 rows, dev 120 rows",
        "classes: no, yes, maybe, never",
        "WARNING: train.csv: no row has the label maybe, never, so no model can learn it; "
        "60 dev rows have",
    ]


# --- benchmarks in folders --------------------------------------------------------------------


@pytest.fixture
def cola(tmp_path, tiny_model):
    """The config of a search over CoLA in a folder, `glue`."""
    write_demo_glue(tmp_path / "glue")
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.NUM_GPUS = str(tmp_path / "out"), 0
    config.FINETUNE.MODEL_NAME_OR_PATH, config.FINETUNE.GLUE_DIR = tiny_model, f"{tmp_path}/glue"
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["CoLA"], []
    return config


def edit_rows(tmp_path, name: str, edit) -> None:
    """edit: fields of a row of the demo's CoLA -> fields, or None."""
    path = tmp_path / "glue" / "CoLA" / f"{name}.tsv"
    rows = [edit(line.split("\t")) for line in path.read_text().splitlines()]
    path.write_text("".join("\t".join(row) + "\n" for row in rows if row))


@pytest.mark.parametrize(
    "name, edit, problem",
    [
        (
            "dev",
            lambda row: row if row[1] == "1" else None,
            r"CoLA/dev\.tsv: all rows have the label acceptable, with",
        ),
        (
            "train",
            lambda row: [row[0], "yes", *row[2:]],
            r"CoLA/train\.tsv:1: label 'yes', expected one of 0, 1$",
        ),
        (
            "dev",
            lambda row: [row[0], "", *row[2:]],
            r"CoLA/dev\.tsv: no row that has a label, the first is .*:1: no label",
        ),
    ],
)
def test_the_plan_and_the_run_refuse_a_benchmarks_file_alike(tmp_path, cola, name, edit, problem):
    edit_rows(tmp_path, name, edit)
    for refusing in (
        lambda config: check_machine(config, plan(config)),
        finetune,
        lambda config: plan_steps(config, ["finetune"]),
    ):
        with pytest.raises(ConfigError, match=r"^FINETUNE\.GLUE_DIR: .*" + problem):
            refusing(cola)


def test_the_plan_says_what_is_odd_about_a_benchmarks_rows(tmp_path, cola, capsys):
    assert list(run_notes(cola, plan(cola))) == []
    edit_rows(tmp_path, "train", lambda row: [row[0], "", *row[2:]] if row[1] == "0" else row)
    path = tmp_path / "glue" / "CoLA" / "train.tsv"
    num_empty = sum(line.split("\t")[1] == "" for line in path.read_text().splitlines())
    with open(path, "a") as file:  # without which there would be one label
        file.write("gj04\t0\t*\tbooks read she\n")
    run_pipeline(cola, ["finetune"], dry_run=True)
    warning = f"  WARNING: CoLA: {num_empty} rows without a label are left out, e.g. "
    assert warning in capsys.readouterr().out
    cola.FINETUNE.GLUE_DIR = "builtin:demo"  # which is as it shall be, and not written yet
    assert list(run_notes(cola, plan(cola))) == []


# --- other things that mislead ----------------------------------------------------------------


def test_few_rows_shared_rows_and_rows_without_text_are_noted(tmp_path):
    task = make(tmp_path, "a,no\nb,yes\nc,no\n,no\n", "a,no\nd,yes\nc,yes\nb,no\n", metrics=["f1"])
    assert notes(task) == [
        "train 4 rows, dev 4 rows",
        "classes: no, yes",
        "train.csv: 1 row without any text",
        "WARNING: dev.csv: 3 of 4 rows have the same text as a row of train.csv, which makes "
        "scores too high",
        "dev.csv: 4 rows only, so accuracy moves in steps of 25.0 points",
        "f1 is that of the label yes, the second of LABELS",
    ]


def test_some_shared_rows_are_a_note_and_half_of_them_a_warning(tmp_path):
    few = make(tmp_path, BOTH, "a,no\n" * 59 + "x,yes\n" * 61)
    assert notes(few)[2].startswith("dev.csv: 59 of 120 rows have the same text")
    half = make(tmp_path, BOTH, "a,no\n" * 60 + "x,yes\n" * 60)
    assert notes(half)[2].startswith("WARNING: dev.csv: 60 of 120 rows have the same text")


@pytest.mark.parametrize("number, begin", [(13, "13 rows"), (14, "WARNING: 14 rows")])
def test_more_than_a_tenth_of_rows_left_out_is_a_warning(tmp_path, number, begin):
    task = make(tmp_path, BOTH + "x,no,\n" * number, "c,no\nd,yes\n" * 60)
    assert notes(task)[2].startswith(f"{begin} that cannot be read are left out, e.g. ")


def test_the_classes_found_are_shown(tmp_path):
    rows = "a,Yes\nb,yes\nc,nan\nd,None\n" * 30
    assert notes(make(tmp_path, rows, "x,yes\n" * 120))[1] == "classes: None, Yes, nan, yes"
    many = "".join(f"t{number},c{number:02}\n" for number in range(99))
    shown = notes(make(tmp_path, many, many.replace("t", "d")))[1]
    assert shown.startswith("classes: c00, c01, ") and shown.endswith(" more")


def test_a_label_that_only_the_dev_file_has_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(
        ConfigError, match=r"DEV: .*dev\.csv:3: label 'maybe', expected one of no, "
    ) as error:
        make(tmp_path, BOTH, "c,no\nd,maybe\n")
    assert error.value.problems[0].endswith(
        "no, yes (FINETUNE.CUSTOM_TASKS.mine.LABELS can name more)"
    )


def test_a_sound_task_has_nothing_but_its_rows(tmp_path):
    assert notes(make(tmp_path, BOTH, NO + YES.replace("n", "y"))) == [
        "train 120 rows, dev 240 rows",
        "classes: no, yes",
    ]


# --- rows, not lines --------------------------------------------------------------------------


def test_quoted_cells_that_span_lines_are_one_row(tmp_path):
    cells = '"one\ntwo\n\nthree",no\n"a ""b""\nc",yes\n'
    task = make(tmp_path, cells * 50, cells.replace("one", "1") * 60)
    assert notes(task)[0] == "train 100 rows, dev 120 rows"
    config = get_default_config()
    node = custom_task_node()
    node.TRAIN, node.DEV, node.TEXT_COLUMNS = task.train.files[0], task.dev[0].files[0], ["text"]
    config.FINETUNE.CUSTOM_TASKS["mine"] = node
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["mine"], []
    config.FINETUNE.MODEL_NAME_OR_PATH = "bert-base-uncased"
    total = 100 * (3 + 5 + 10) * 8
    assert (
        f"{total:,} rows to train on, over all runs and epochs" in finetune_estimate(config).notes
    )


def test_rows_without_a_label_are_counted_apart_from_those_that_cannot_be_read(tmp_path):
    rows = [{"text": f"t{i}", "label": ("no", "yes")[i % 2]} for i in range(120)]
    odd = [{"text": "x"}, {"text": "y", "label": None}, {"text": "z", "label": ""}, {"label": "no"}]
    train = "".join(json.dumps(row) + "\n" for row in rows + odd) + "{\n"
    dev = "".join(json.dumps({**row, "text": row["text"] + "d"}) + "\n" for row in rows)
    task = make(tmp_path, train, dev, "jsonl")
    assert notes(task) == [
        "train 120 rows, dev 120 rows",
        "classes: no, yes",
        "3 rows without a label are left out, e.g. train.jsonl:121: no label",
        "2 rows that cannot be read are left out, e.g. train.jsonl:124: no text or number as text",
    ]
    (tmp_path / "train.jsonl").write_text(json.dumps(odd[0]) + "\n")
    with pytest.raises(StageError, match="no column label; it has text"):
        load_examples(task, task.train, ".")


def test_an_object_without_a_label_may_be_the_first(tmp_path):
    """As may one without text; the keys of all tell the columns."""
    rows = [{"text": f"t{i}", "label": ("no", "yes")[i % 2]} for i in range(120)]
    lines = [{"text": "x"}, {"label": "no"}, {"text": "y", "label": None}, *rows]
    text = "".join(json.dumps(row) + "\n" for row in lines)
    task = make(tmp_path, text, text.replace(' "t', ' "d'), "jsonl")
    assert notes(task)[0] == "train 120 rows, dev 120 rows"
    assert "2 rows without a label are left out, e.g. train.jsonl:1: no label" in notes(task)
    with pytest.raises(ConfigError, match="no column label; it has text"):
        make(tmp_path, text.replace("label", "class"), text, "jsonl")


@pytest.mark.parametrize("name", ["CoLA", "RTE", "STS-B"])
def test_rows_of_a_benchmark_are_counted_by_their_fields(tmp_path, name):
    write_demo_glue(tmp_path)
    task = find_task(name)
    path = tmp_path / name / "train.tsv"
    path.write_text(path.read_text().rstrip("\n") + "\n1\t2\n\n\n")  # a malformed row, empty lines
    examples = load_examples(task, task.train, str(tmp_path))
    assert num_train_rows(task, str(tmp_path)) == len(examples.texts) == 400
    assert len(examples.malformed) == 1
    path.write_text(path.read_text().rstrip("\n").removesuffix("\n1\t2"))  # no end of line
    assert num_train_rows(task, str(tmp_path)) == 400


# --- yes and no -------------------------------------------------------------------------------


def test_labels_that_yaml_takes_for_truth_values_stay_words(tmp_path):
    task = make(tmp_path, BOTH, "c,no\nd,yes\n" * 60)
    (tmp_path / "c.yaml").write_text(
        "FINETUNE:\n  TASKS: [mine]\n  STILT_TASKS: []\n  MODEL_NAME_OR_PATH: bert-base-uncased\n"
        f"  CUSTOM_TASKS:\n    mine:\n      TRAIN: {task.train.files[0]}\n"
        f"      DEV: {task.dev[0].files[0]}\n      TEXT_COLUMNS: [text]\n      LABELS: [no, yes]\n"
        "      METRICS: [f1]\n"
    )
    config = load_config(tmp_path / "c.yaml", stages=["finetune"])
    assert config.FINETUNE.CUSTOM_TASKS.mine.LABELS == ["no", "yes"]
    assert "mine: f1 is that of the label yes, the second of LABELS" in (
        finetune_estimate(config).notes
    )
