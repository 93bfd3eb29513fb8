"""Rows with several labels: their cells in each format, mistakes, and the notes of the plan."""

import json

import numpy as np
import pytest

from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import load_examples
from finetune.data.row_checks import notes_on_task
from finetune.data.task_data import task_inputs
from finetune.task_types.task_types import type_of
from pipeline.errors import ConfigError
from tests.finetune.data.test_parquet_tables import write as write_parquet

ROWS = [("a", ["joy", "love"]), ("b", []), ("c", ["anger"]), ("d", ["love", "joy", "love"])]
SETS = [(1, 2), (), (0,), (1, 2)]  # of anger, joy, love


def make(train, dev=None, **keys):
    given = {"train": str(train), "dev": str(dev or train), "text_columns": ["text"]}
    return custom_task("moods", TaskKeys(**(given | {"type": "multi_label"} | keys)))


def write(path, content: str):
    path.write_text(content)
    return path


def in_format(tmp_path, ending: str, rows=ROWS, name="train"):
    path = tmp_path / f"{name}.{ending}"
    if ending == "parquet":
        write_parquet(path, {"text": [row[0] for row in rows], "label": [row[1] for row in rows]})
    elif ending == "jsonl":
        write(path, "".join(json.dumps({"text": t, "label": found}) + "\n" for t, found in rows))
    else:
        mark = "\t" if ending == "tsv" else ";"
        lines = [f"text{mark}label", *(f"{t}{mark}{', '.join(found)}" for t, found in rows)]
        write(path, "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "parquet"])
def test_the_formats_hold_the_same(tmp_path, ending):
    path = in_format(tmp_path, ending)
    task = make(path, test=str(path))
    assert list(task.labels) == ["anger", "joy", "love"] and task.metrics == ("f1_micro",)
    train = load_examples(task, task.train, ".")
    assert train.texts == [("a",), ("b",), ("c",), ("d",)] and train.labels == SETS
    assert load_examples(task, task.test[0], ".").labels == []
    array = type_of(task).label_array(task, train)
    assert array.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert array.dtype == np.float32


def test_a_missing_label_is_not_the_empty_set(tmp_path):
    content = '{"text": "e"}\n{"text": "f", "label": null}\n{"text": "g", "label": ""}\n'
    path = in_format(tmp_path, "jsonl")
    path.write_text(path.read_text() + content + '{"text": "h", "label": [["joy"]]}\n')
    task = make(path)
    train = load_examples(task, task.train, ".")
    assert train.texts[4:] == [("g",)] and train.labels[4:] == [()]
    assert train.unlabelled == [f"{path}:{line}: no label" for line in (5, 6)]
    assert train.malformed == [f"{path}:8: no list of texts or numbers as label"]


def test_names_and_numbers_with_another_separator(tmp_path):
    labels = write(tmp_path / "labels.txt", "low, cold\nhigh\ndry\n")
    path = write(tmp_path / "train.tsv", "a\t0|2\tx\nb\tdry|low, cold\tx\nc\t\tx\nd\thigh|1\tx\n")
    keys = {"labels_file": str(labels), "columns": ["text", "label", "id"]}
    task = make(path, label_separator="|", **keys)
    assert load_examples(task, task.train, ".").labels == [(0, 2), (0, 2), (), (1,)]
    with pytest.raises(ConfigError) as raised:
        make(path, **keys)
    [problem] = raised.value.problems
    assert problem == (
        "FINETUNE.CUSTOM_TASKS.moods.LABEL_SEPARATOR: got ',', which is within the label "
        "'low, cold', expected another one, to tell the labels in predictions apart"
    )
    with pytest.raises(
        ConfigError, match=r"SEPARATOR: got '\|\|', which is within the label 'b\|'"
    ):
        make(path, columns=keys["columns"], labels=["a", "b|"], label_separator="||")


def test_unknown_labels_name_the_line(tmp_path):
    path = in_format(tmp_path, "csv")
    dev = write(tmp_path / "dev.csv", 'text,label\na,joy\nb,"joy, fear"\n')
    with pytest.raises(ConfigError) as raised:
        make(path, dev)
    assert raised.value.problems == [
        f"FINETUNE.CUSTOM_TASKS.moods.DEV: {dev}:3: label 'fear', expected one of anger, joy, love "
        "(FINETUNE.CUSTOM_TASKS.moods.LABELS can name more)"
    ]
    dev.write_text("text,label\na,\nb,\n")
    with pytest.raises(ConfigError, match=r"DEV: .*no row has a label, with which f1_micro is"):
        make(path, dev)
    for content in ("text,label\na,\nb,\n", 'text,label\na,"y, x"\nb,"x,y"\n'):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"TRAIN: .*all rows have (no label|the labels x, y)"):
            make(path, in_format(tmp_path, "jsonl"), labels=["x", "y", "anger", "joy", "love"])


def test_the_plan_tells_what_the_rows_have(tmp_path):
    path = in_format(tmp_path, "jsonl")
    dev = in_format(tmp_path, "csv", [ROWS[0], ("e", ["joy"])], "dev")
    task = make(path, dev, labels=["joy", "love", "anger", "fear"], metrics=["f1_macro"])
    notes = [note.replace(str(tmp_path), "") for note in notes_on_task(task, ".")]
    assert notes == [
        "moods: train 4 rows, dev 2 rows",
        "moods: classes: joy, love, anger, fear",
        "moods: /train.jsonl: 1.25 labels per row, none in 1; rows by label: fear 0, anger 1, joy "
        "2, love 2",
        "moods: /dev.csv: 1.50 labels per row; rows by label: anger 0, fear 0, love 1, joy 2",
        "WARNING: moods: /train.jsonl: no row has the label fear, so no model can learn it",
        "WARNING: moods: /dev.csv: no row has the label anger, fear, which counts as 0 in f1_macro "
        "and is left out of average_precision",
        "WARNING: moods: /dev.csv: 1 of 2 rows have the same text as a row of /train.jsonl, which "
        "makes scores too high",
        "moods: /dev.csv: 2 rows only, so threshold and scores depend on each of them",
    ]


def test_a_wrong_separator_is_suspected(tmp_path):
    path = in_format(tmp_path, "tsv", [("a", ["joy;love"]), ("b", ["joy"])])
    notes = list(notes_on_task(make(path), "."))
    mark = "is LABEL_SEPARATOR, ',', the right one?"
    assert f"WARNING: moods: {path}: no row has several labels; {mark}" in notes


@pytest.mark.parametrize("keys", [{"dev_share": 0.25}, {"folds": 4}])
def test_parts_of_train_have_the_same_mix_of_labels(tmp_path, keys):
    sets = [["joy"], ["joy", "love"], [], ["anger", "joy"]]
    rows = [(f"text {number}", sets[number % 4]) for number in range(80)]
    path = in_format(tmp_path, "jsonl", rows)
    task = custom_task(
        "moods",
        TaskKeys(train=str(path), dev="", text_columns=["text"], type="multi_label", **keys),
    )
    run = task.in_fold(2)
    train, dev = (load_examples(run, split, ".") for split in (run.train, *run.dev))
    assert not set(train.texts) & set(dev.texts) and len(train.texts) == 60
    assert [dev.labels.count(found) for found in [(1,), (1, 2), (), (0, 1)]] == [5] * 4


def test_the_identity_has_type_and_separator(tmp_path):
    path = in_format(tmp_path, "csv", [("a", ["x"]), ("b", ["y"])])

    def identity(**keys):
        return task_inputs(make(path, **keys), ".", is_demo=False)["task_keys"]

    assert identity() != identity(label_separator="|") != identity(type="")
    assert "type" not in identity(type="") and identity(type="classification") == identity(type="")
