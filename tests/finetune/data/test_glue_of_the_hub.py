"""GLUE_DIR as a copy of nyu-mll/glue: the same examples as in GLUE's own layout."""

from dataclasses import replace

import pytest

from finetune.data.demo_glue import write_demo_glue
from finetune.data.examples import Examples, has_split, hub_files, load_examples, num_train_rows
from finetune.data.row_checks import problems_of_rows
from finetune.data.task_data import check_files, task_inputs
from finetune.data.tasks import GLUE, Split, Task, find_task
from pipeline.errors import ConfigError, StageError
from result_collection.estimate import num_rows
from tests.finetune.data.test_parquet_tables import classes, write


def write_split(folder, task: Task, split: Split, examples: Examples, names=None) -> None:
    """names: of the classes by number, by default in another order than the task's."""
    import pyarrow

    [file] = hub_files(split)
    columns = dict(zip(task.hub_columns, zip(*examples.texts, strict=True), strict=True))
    words = list(task.labels)
    names = sorted(words, reverse=True) if names is None else names
    if task.is_regression:
        labels = pyarrow.array(examples.labels or [-1.0] * len(examples.texts), "float32")
    else:
        found = [names.index(words[int(label)]) for label in examples.labels]
        labels = pyarrow.array(found or [-1] * len(examples.texts))
    score = {"dtype": "float32", "_type": "Value"}
    features = {"label": score if task.is_regression else classes(*names)}
    write(folder / file, {**columns, "label": labels}, features)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The demo in both layouts."""
    tsv, parquet = tmp_path_factory.mktemp("tsv"), tmp_path_factory.mktemp("parquet")
    write_demo_glue(tsv)
    for task in GLUE:
        for split in task.splits:
            write_split(parquet, task, split, load_examples(task, split, str(tsv)))
    return tsv, parquet


@pytest.mark.parametrize("task", GLUE, ids=lambda task: task.name)
def test_the_examples_are_the_same(both, task):
    tsv, parquet = map(str, both)
    for split in task.splits:
        assert has_split(split, parquet)
        found, expected = (load_examples(task, split, place) for place in (parquet, tsv))
        assert replace(found, lines=[]) == replace(expected, lines=[])  # places in the files differ
        assert num_rows(task, split, both[1] / hub_files(split)[0]) > 50
    assert num_train_rows(task, parquet) == num_train_rows(task, tsv)
    assert list(problems_of_rows(task, parquet)) == []
    inputs = task_inputs(task, parquet, is_demo=False)["task_files"]
    assert list(inputs) == [split.name for split in task.splits]
    assert all(digest.endswith(".parquet") for digest in inputs.values())
    check_files([task], {"GLUE": parquet, "SuperGLUE": ""})


def test_a_folder_in_neither_layout_names_both(tmp_path):
    with pytest.raises(ConfigError) as raised:
        check_files([find_task("CoLA")], {"GLUE": str(tmp_path), "SuperGLUE": ""})
    file = "CoLA/train.tsv or cola/train-00000-of-00001.parquet"
    assert raised.value.problems[0] == f"FINETUNE.GLUE_DIR: no file {file} in {tmp_path}"


@pytest.mark.parametrize(
    "names, problem",
    [
        ((), "does not name its classes, expected the labels unacceptable, acceptable"),
        (
            ("acceptable", "wrong", "unacceptable"),
            "names acceptable, wrong, unacceptable, exp",
        ),
    ],
)
def test_labels_that_nobody_can_tell(tmp_path, names, problem):
    cola = find_task("CoLA")
    examples = Examples([("a",), ("b",)], [] if not names else [0, 1])
    write_split(tmp_path, cola, cola.train, examples, list(names))
    with pytest.raises(StageError, match=rf"train-00000-of-00001\.parquet: {problem}"):
        load_examples(cola, cola.train, str(tmp_path))


def test_rows_without_a_class_are_left_out(tmp_path):
    cola = find_task("CoLA")
    columns = {"sentence": ["a", "b", "c"], "label": [1, -1, 0]}
    [file] = hub_files(cola.dev[0])
    features = {"label": classes("unacceptable", "acceptable")}
    write(tmp_path / file, columns, features)
    examples = load_examples(cola, cola.dev[0], str(tmp_path))
    assert examples.labels == [1, 0]
    assert examples.unlabelled == [f"{tmp_path / file}, row 1: no label"]
