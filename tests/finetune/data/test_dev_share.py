"""Tasks of the user's own without a DEV: train and dev are parts of TRAIN."""

import json

import numpy as np
import pytest

from configs.defaults import custom_task_node, get_default_config
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import load_examples
from finetune.data.row_checks import notes_on_task
from finetune.data.task_data import task_inputs
from finetune.plan import plan
from pipeline.errors import ConfigError
from tests.finetune.data.test_parquet_tables import write

LABELS = ["no", "no", "yes"]
COLUMNS = {
    "text": [f"text {number // 2}" for number in range(600)],  # each twice
    "label": [LABELS[number // 2 % 3] for number in range(600)],
    "patient": [f"p{number // 12}" for number in range(600)],
}


def make(path, **keys):
    given = {"train": str(path), "dev": "", "text_columns": ["text"], "dev_share": 0.1}
    return custom_task("mine", TaskKeys(**(given | keys)))


def parts_of(task):
    return [load_examples(task, split, ".") for split in (task.train, *task.dev)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("group", ["", "patient", "text"])
def test_train_and_dev_are_parts_of_train(tmp_path, ending, group):
    path = tmp_path / f"train.{ending}"
    rows = list(zip(*COLUMNS.values(), strict=True))
    if ending == "parquet":
        write(path, COLUMNS)
    elif ending == "csv":
        path.write_text("".join(",".join(row) + "\n" for row in [tuple(COLUMNS), *rows]))
    else:
        objects = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
        path.write_text("".join(json.dumps(found) + "\n" for found in objects))
    task = make(path, group_column=group)
    train, dev = parts_of(task)
    assert sorted(train.texts + dev.texts) == sorted((text,) for text in COLUMNS["text"])
    assert not set(train.texts) & set(dev.texts)
    assert len(dev.texts) == 60 and dev.labels.count(0) == 40
    if group == "patient":
        patients = dict(zip(COLUMNS["text"], COLUMNS["patient"], strict=True))
        sides = [{patients[text] for (text,) in part.texts} for part in (train, dev)]
        assert not sides[0] & sides[1]
    labels = dict(zip(COLUMNS["text"], COLUMNS["label"], strict=True))
    for part in (train, dev):
        words = [list(task.labels)[label] for label in part.labels]
        assert words == [labels[text] for (text,) in part.texts]


@pytest.fixture
def train_csv(tmp_path):
    path = tmp_path / "train.csv"
    rows = zip(*COLUMNS.values(), strict=True)
    path.write_text("".join(",".join(row) + "\n" for row in [tuple(COLUMNS), *rows]))
    return path


def test_the_plan_tells_the_parts_and_rows_left_out_once(train_csv):
    path = train_csv
    path.write_text(path.read_text() + "x,,p1\ny,no,p2,\nonly,maybe,p99\n")
    notes = list(notes_on_task(make(path, group_column="patient"), "."))
    assert notes == [
        "mine: train 541 rows, dev 60 rows",
        "mine: classes: maybe, no, yes",
        f"mine: 1 row without a label is left out, e.g. {path}:602: no label",
        f"mine: 1 row that cannot be read is left out, e.g. {path}:603: 4 fields, expected 3",
        "mine: dev: 60 rows of TRAIN, stratified, no patient is in train too",
        "WARNING: mine: dev has no row with the label maybe, as there are too few",
        f"mine: dev of {path}: 60 rows only, so accuracy moves in steps of 1.7 points",
    ]


def test_a_regression_is_split_by_its_scores(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"t{n}\t{n % 50 / 10}\n" for n in range(1000)))
    train, dev = parts_of(make(path, score_range=[0, 5]))
    assert len(dev.labels) == 100 and len(train.labels) == 900
    assert abs(np.mean(dev.labels) - np.mean(train.labels)) < 0.1


def test_mistakes_name_the_keys(train_csv):
    with pytest.raises(ConfigError) as raised:
        make(train_csv, dev_share=0.0001)
    [problem] = raised.value.problems  # of both parts
    assert problem.endswith("0.0001 of 600 rows is no row, or all of them (DEV_SHARE is 0.0001)")
    train_csv.write_text(train_csv.read_text() + "x,no, \n")
    with pytest.raises(ConfigError, match=r"train\.csv:602: no group in column patient, expected"):
        make(train_csv, group_column="patient")
    with pytest.raises(ConfigError, match=r"TRAIN: .*no column room; it has text, label, patient"):
        make(train_csv, group_column="room")
    train_csv.write_text("text,label,patient\n" + "a,no,1\nb,yes,1\n" * 50)
    with pytest.raises(ConfigError, match="smallest group has 100 rows, more than the 10 to hold"):
        make(train_csv, group_column="patient")
    train_csv.write_text("text,label\n" + "".join(f"t{n},no\n" for n in range(50)) + "a,yes\n")
    with pytest.raises(ConfigError, match=r"mine\.DEV_SHARE: .*no row has the label yes, with"):
        make(train_csv, metrics=["f1"])


def test_the_identity_has_the_split(train_csv):
    def identity(**keys):
        return task_inputs(make(train_csv, **keys), ".", is_demo=False)

    plain = identity()
    assert plain["task_keys"]["dev_share"] == 0.1
    assert plain["task_files"]["dev"] == plain["task_files"]["train"]
    assert identity(dev_share=0.2) != plain != identity(group_column="patient")


def test_a_search_plans_with_a_share(train_csv, tmp_path):
    config, node = get_default_config(), custom_task_node()
    node.TRAIN, node.TEXT_COLUMNS, node.DEV_SHARE = str(train_csv), ["text"], 0.25
    config.FINETUNE.CUSTOM_TASKS["mine"] = node
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["mine"], []
    config.FINETUNE.MODEL_NAME_OR_PATH = "bert-base-uncased"
    [task] = plan(config).search.tasks
    assert [len(part.texts) for part in parts_of(task)] == [450, 150]
