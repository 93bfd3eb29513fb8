"""Names of labels from a file, their numbers in cells, and files without a header line."""

import pytest

from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import load_examples
from finetune.data.files.label_files import label_names, label_position
from finetune.data.task_data import task_inputs
from pipeline.errors import ConfigError, StageError


def write(path, content: str) -> str:
    path.write_text(content)
    return str(path)


def test_names_have_the_order_of_the_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffjoy \r\nadmiration\r\n naïve wonder\r\n\r\n".encode())
    names = label_names(path)
    assert names == ("joy", "admiration", "naïve wonder")
    assert [label_position(name, names) for name in names] == [0, 1, 2]
    assert [label_position(str(n), names, may_be_number=True) for n in range(4)] == [0, 1, 2, None]
    others = ("-1", "01", "1.0", "²", "", "Joy", "٣")
    assert {label_position(text, names, may_be_number=True) for text in others} == {None}
    assert label_position("1", names) is None


@pytest.mark.parametrize(
    "content, problem",
    [
        ("a\n\nb\n", ":2: no name, expected one in every line"),
        ("a\nb\na\n", ":3: label a, as in line 1"),
        ("a\tx\nb\n", r":1: 'a\\tx', expected a name without tabs"),
        ("a\n", ": 1 names of labels, expected at least two"),
        ("", ": 0 names of labels"),
        (
            "1\n2\n3\n",
            ":1: 1 is the name of the label with the number 0, expected other",
        ),
        ("a\n0\n", ":2: 0 is the name of the label with the number 1"),
        ("a\0\nb\n", ":1: NUL byte"),
    ],
)
def test_files_that_number_nothing(tmp_path, content, problem):
    path = tmp_path / "labels.txt"
    path.write_text(content)
    with pytest.raises(StageError, match=rf"labels\.txt{problem}"):
        label_names(path)


def test_digits_that_are_their_own_numbers_and_other_digits(tmp_path):
    path = tmp_path / "labels.txt"
    for names in (("0", "1", "2"), ("2020", "0.5", "01")[1:], ("0", "one")):
        path.write_text("\n".join(names))
        assert label_names(path) == names


def make(tmp_path, train: str, dev: str, labels="low\nhigh\nnone\n", **keys):
    files = {"train": write(tmp_path / "train.tsv", train), "dev": write(tmp_path / "dev.tsv", dev)}
    labels_file = write(tmp_path / "labels.txt", labels) if labels else ""
    columns = ["text", "level", "id"]
    given = {"text_columns": ["text"], "label_column": "level", "columns": columns}
    return custom_task("mine", TaskKeys(**(files | {"labels_file": labels_file} | given | keys)))


ROWS = "a\t0\tx\nb\thigh\tx\nc\t1\tx\nd\t2\tx\n"


def test_a_task_without_a_header_line_with_names_or_numbers(tmp_path):
    test = write(tmp_path / "test.tsv", ROWS)
    task = make(tmp_path, ROWS, ROWS, test=test)
    assert list(task.labels) == ["low", "high", "none"]
    train = load_examples(task, task.train, ".")
    assert train.texts == [("a",), ("b",), ("c",), ("d",)] and train.labels == [0, 1, 1, 2]
    assert load_examples(task, task.test[0], ".").texts == train.texts
    expected = "one of low, high, none, or a number from 0 to 2"
    with pytest.raises(ConfigError, match=rf"dev\.tsv:1: label '3', expected {expected}"):
        make(tmp_path, ROWS, "a\t3\tx\n")
    with pytest.raises(ConfigError, match=r"LABELS_FILE: .*labels\.txt:2: label low, as in line 1"):
        make(tmp_path, ROWS, ROWS, labels="low\nlow\n")
    with pytest.raises(ConfigError, match=r"TRAIN: .*train\.tsv:1: the names of the columns, exp"):
        make(tmp_path, "Text\tLevel\tID\n" + ROWS, ROWS)


def test_the_classes_of_a_train_file_without_a_header_line(tmp_path):
    rows = ROWS.replace("\t0\t", "\tlow\t")
    task = make(tmp_path, rows, rows, labels="")
    assert list(task.labels) == ["1", "2", "high", "low"]
    with pytest.raises(ConfigError, match=r"dev\.tsv:2: label '0', .*LABELS can name more"):
        make(tmp_path, rows, "a\tlow\tx\nb\t0\tx\n", labels="")


def test_the_identity_has_the_columns_and_the_labels(tmp_path):
    def keys(task):
        return task_inputs(task, ".", is_demo=False)["task_keys"]

    plain = keys(make(tmp_path, ROWS, ROWS))
    assert plain["columns"] == ["text", "level", "id"] and plain["labels"] == [
        "low",
        "high",
        "none",
    ]
    assert keys(make(tmp_path, ROWS, ROWS, columns=["text", "level", "other"])) != plain
    assert keys(make(tmp_path, ROWS, ROWS, labels="none\nhigh\nlow\n")) != plain


def test_the_identity_of_older_results_stays(tmp_path, monkeypatch):
    """A literal, as such results lie on users' disks."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.tsv", "text\tlabel\na\tno\nb\tyes\n")
    files = {"train": "train.tsv", "dev": "train.tsv", "test": "train.tsv"}
    task = custom_task("mine", TaskKeys(**files, text_columns=["text"]))
    digest = "d93d442daadacdaea246324ce52c9a65.tsv"
    assert task_inputs(task, ".", is_demo=False) == {
        "task_files": dict.fromkeys(("train", "dev", "test"), digest),
        "task_keys": {
            "text_columns": ["text"],
            "label_column": "label",
            "labels": ["no", "yes"],
            "score_range": [0.0, 0.0],
            "metrics": ["accuracy"],
        },
    }
