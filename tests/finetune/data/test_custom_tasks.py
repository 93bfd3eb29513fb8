"""Tasks of the user's own out of TSV, CSV and JSON lines; SICK as such a task and as STS-B."""

import gzip
import shutil

import numpy as np
import pytest

from configs.defaults import custom_task_node
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import has_split, load_examples
from finetune.data.tables import read_table
from finetune.data.tasks import find_task
from finetune.task_types.label_metrics import majority_baseline, predicted_rows, score_predictions
from pipeline.errors import ConfigError, StageError

FILES = {
    "tsv": 'text\tlabel\n"Good\tyes\nBad\tno\nFine\tyes\n',
    "csv": 'text,label\n"""Good",yes\nBad,no\n"Fine",yes\n',
    "jsonl": '{"text": "\\"Good", "label": "yes"}\n{"text": "Bad", "label": "no", "x": 1}\n'
    '{"text": "Fine", "label": "yes"}\n',
}


def write(path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def make(tmp_path, train: str | bytes, ending="tsv", **keys):
    """A task whose training and dev files have the same content."""
    path = write(tmp_path / f"train.{ending}", train)
    files = {"train": path, "dev": path, "text_columns": ["text"]}
    return custom_task("mine", TaskKeys(**(files | keys)))


@pytest.mark.parametrize("ending", FILES)
def test_the_three_formats_hold_the_same(tmp_path, ending):
    test = write(tmp_path / f"test.{ending}", FILES[ending])
    task = make(tmp_path, FILES[ending], ending, test=test)
    assert list(task.labels) == ["no", "yes"] and task.metrics == ("accuracy",)
    train = load_examples(task, task.train, ".")
    assert train.texts == [('"Good',), ("Bad",), ("Fine",)] and train.labels == [1, 0, 1]
    assert majority_baseline(task, train, {"dev": train}) == {"label": "yes", "score": 2 / 3}
    examples = load_examples(task, task.test[0], ".")
    assert examples.texts == train.texts and examples.labels == []
    rows = predicted_rows(task, np.eye(2)[[1, 0, 1]], examples)
    assert rows == [("0", "yes"), ("1", "no"), ("2", "yes")]
    assert task.test[0].submission == "" and task.test[0].num_rows == 0 and task.benchmark == ""
    assert has_split(task.test[0], ".")


def test_the_keys_of_the_config_are_the_arguments(tmp_path):
    path = write(tmp_path / "train.tsv", FILES["tsv"])
    node = custom_task_node()
    node.TRAIN = node.DEV = path
    node.TEXT_COLUMNS, node.LABELS, node.METRICS = ["text"], ["yes", "no"], ["f1", "f1_macro"]
    task = custom_task("mine", TaskKeys(**{key.lower(): value for key, value in node.items()}))
    assert list(task.labels) == ["yes", "no"] and task.metrics == ("f1", "f1_macro")
    assert task.test == () and hash(task) == hash(task)
    dev = load_examples(task, task.dev[0], ".")
    assert dev.labels == [0, 1, 0]
    assert score_predictions(task, np.eye(2)[[0, 1, 1]], dev)["f1"] == pytest.approx(2 / 3)


def test_json_labels_may_be_numbers_and_truth_values(tmp_path):
    content = '{"text": "a", "label": true}\n{"text": 7, "label": false}\n'
    task = make(tmp_path, content, "jsonl")
    assert list(task.labels) == ["false", "true"]
    assert load_examples(task, task.train, ".").texts == [("a",), ("7",)]
    task = make(tmp_path, '{"text": "a", "label": 2}\n{"text": "b", "label": 1}\n', "jsonl")
    assert load_examples(task, task.train, ".").labels == [1, 0]
    task = make(tmp_path, '{"text": "a", "label": 2.0}\n{"text": "b", "label": 1}\n', "jsonl")
    write(tmp_path / "train.jsonl", '{"text": "a", "label": "2"}\n{"text": "b", "label": 1.0}\n')
    assert load_examples(task, task.train, ".").labels == [1, 0]


def test_csv_is_quoted(tmp_path):
    content = b'\xef\xbb\xbf text , "label"\r\n"a, b","1"\r\n"two\r\nlines",2\r\nc,"say ""2"""\r\n'
    path = tmp_path / "a.csv"
    write(path, content.replace(b', "label"', b',"label"'))
    assert read_table(path, ("text", "label")).rows == [
        (2, ("a, b", "1")),
        (3, ("two\r\nlines", "2")),
        (5, ("c", 'say "2"')),
    ]


def test_csv_with_quotes_escaped_by_backslashes(tmp_path):
    path = tmp_path / "a.csv"
    rows = ['"she said \\"yes\\", twice",1', '"a \\"b\\" c",0', '"C:\\new",1', "plain,0"]
    path.write_text("\n".join(["text,label", *rows]))
    table = read_table(path, ("text", "label"))
    texts = ['she said "yes", twice', 'a "b" c', "C:\\new", "plain"]
    assert [fields[0] for _, fields in table.rows] == texts and table.malformed == []


def test_a_cr_within_a_line_of_csv_ends_no_row(tmp_path):
    """Its second half would have as many fields as a row."""
    path = tmp_path / "a.csv"
    write(path, b'text,label\ngood one,1\ngreat\rmovie,0\n"in\rquotes",1\r\nbad one,0\n')
    table = read_table(path, ("text", "label"))
    assert table.rows == [(2, ("good one", "1")), (4, ("in\rquotes", "1")), (5, ("bad one", "0"))]
    assert table.malformed == [f"{path}:3: CR within the line"]
    write(path, b"text,label\rgood one,1\r")
    with pytest.raises(StageError, match=r"a\.csv: lines end with CR alone, expected LF or CRLF"):
        read_table(path, ("text", "label"))


def test_malformed_rows_are_named_and_left_out_but_not_of_a_test_file(tmp_path):
    csv = b'text,label\na,1\nb\n\n"x\ny",2,3\nc,\xff\nd\0,1\n"e"f,1\ng,2\n\n'
    path = tmp_path / "train.csv"
    task = make(tmp_path, csv, "csv")
    train = load_examples(task, task.train, ".")
    assert train.texts == [("a",), ("g",)]
    assert [line.removeprefix(f"{path}:") for line in train.malformed][:4] == [
        "3: 1 fields, expected 2",
        "4: 0 fields, expected 2",
        "5: 3 fields, expected 2 in lines 5 to 6",
        "7: not UTF-8",
    ]
    assert [line.split(":")[1] for line in train.malformed] == ["3", "4", "5", "7", "8", "9"]
    test = write(tmp_path / "test.csv", b"text\na\n\nb\n")
    with pytest.raises(ConfigError, match=r"TEST: .*test\.csv:3: 0 fields.* cannot be left out"):
        make(tmp_path, csv, "csv", test=test)
    jsonl = '{"text": "a", "label": 1}\n{"text": null, "label": 1}\n{"text": "b", "label": 2}\n'
    task = make(tmp_path, jsonl + '{"text": "c"}\n{"text": "d", "label": " "}\n', "jsonl")
    path = tmp_path / "train.jsonl"
    train = load_examples(task, task.train, ".")
    assert train.malformed == [f"{path}:2: no text or number as text"]
    assert train.unlabelled == [f"{path}:4: no label", f"{path}:5: no label"]


def test_a_quote_that_is_never_closed_would_swallow_the_rest(tmp_path):
    task = make(tmp_path, "text,label\na,1\nb,2\n", "csv")
    write(tmp_path / "train.csv", 'text,label\na,1\n"b,2\nc,1\n')
    with pytest.raises(StageError, match=r"train\.csv:3: a quote is never closed"):
        load_examples(task, task.train, ".")


def test_an_unclosed_quote_before_other_quotes_swallows_no_row(tmp_path):
    path = tmp_path / "a.csv"
    write(path, 'text,label\r\na,1\r\n"b,2\r\nc,1\r\n"d, d",2\r\n')
    with pytest.raises(StageError, match=r"a\.csv:3: a quote is never closed"):
        read_table(path, ("text", "label"))


@pytest.mark.parametrize(
    "content",
    [
        'text;label\n"a; b, c";1\nd;2\n',
        'sep=;\ntext;label\n"a; b, c";1\nd;2\n',
        'text, label\n"a; b, c", "1"\nd, "2"\n',
    ],
)
def test_csv_with_other_delimiters_and_spaces(tmp_path, content):
    path = tmp_path / "a.csv"
    write(path, content)
    table = read_table(path, ("text", "label"))
    assert [cells for _, cells in table.rows] == [("a; b, c", "1"), ("d", "2")]
    assert table.malformed == []


def test_an_unknown_label_in_dev_names_file_and_line(tmp_path):
    dev = write(tmp_path / "dev.csv", "text,label\na,no\nb,perhaps\n")
    problem = r"mine\.DEV: .*dev\.csv:3: label 'perhaps', expected one of no, yes"
    with pytest.raises(ConfigError, match=problem):
        make(tmp_path, FILES["tsv"], dev=dev)
    write(tmp_path / "dev.csv", "text,label\na,no\nb,yes\nc,no\n")
    assert make(tmp_path, FILES["tsv"], dev=dev).dev  # a file that has changed is read again


def test_all_files_with_mistakes_are_named_at_once(tmp_path):
    other = write(tmp_path / "other.csv", "text,label\n")
    with pytest.raises(ConfigError) as raised:
        make(tmp_path, FILES["csv"], "csv", dev=other, test=other)
    assert [problem.split(":")[0].rpartition(".")[2] for problem in raised.value.problems] == [
        *("DEV", "TEST")
    ]


@pytest.mark.parametrize(
    "content, keys, problem",
    [
        (FILES["tsv"], {"text_columns": ["txt"]}, "TRAIN: .* no column txt; it has text, label"),
        (FILES["tsv"], {"label_column": "y"}, "TRAIN: .* no column y"),
        (FILES["tsv"], {"test": "no/such.tsv"}, "TEST: .*such.tsv: cannot be read"),
        ("", {}, "TRAIN: .* the file is empty"),
        ("text\tlabel\na\t1\nb\t1\n", {}, "LABELS: got none and .* has 1 in column label"),
        (FILES["tsv"], {"labels": ["a", "b", "c"], "metrics": ["f1"]}, "METRICS: f1 is that of"),
        (
            FILES["tsv"],
            {"labels": ["a\tb", "c"]},
            r"LABELS: got 'a\\tb', expected words on one line",
        ),
        ("text\tlabel\na\t1\nb\t0.5\n", {}, "LABELS: .* numbers like 0.5 .* SCORE_RANGE"),
        ("text\tlabel\na\t1\n\tb\t0\n", {}, r"LABELS: .*\(1 rows left out: .*:3: 3 fields"),
        ("text\tlabel\na\tyes\n", {"labels": ["no", "yes"]}, "TRAIN: .* have the label yes"),
        ("text\tlabel\na\t1\nb\t1\n", {"score_range": [0, 1]}, "TRAIN: .* the score 1, expected"),
        ("text,label\na,b\n", {}, "TRAIN: .* it has text,label .* tabs in .tsv, not by ','"),
        (b"t\xe4xt\tlabel\na\tb\n", {}, "TRAIN: .*:1: not UTF-8, expected the names of"),
    ],
)
def test_mistakes_name_the_key(tmp_path, content, keys, problem):
    with pytest.raises(ConfigError, match=rf"FINETUNE\.CUSTOM_TASKS\.mine\.{problem}"):
        make(tmp_path, content, **keys)


@pytest.mark.parametrize("ending", FILES)
def test_a_file_that_is_compressed_is_no_text(tmp_path, ending):
    with pytest.raises(ConfigError, match=r"train.*:1: (not UTF-8|NUL byte)"):
        make(tmp_path, gzip.compress(FILES[ending].encode(), mtime=0), ending)


def test_a_regression_of_ones_own(tmp_path):
    task = make(tmp_path, "text\tlabel\na\t-1\nb\t0.5\n", score_range=[-1, 1])
    assert task.is_regression and task.metrics == ("pearson", "spearman")
    examples = load_examples(task, task.dev[0], ".")
    assert examples.labels == [-1, 0.5] and majority_baseline(task, examples, {}) == {}
    assert predicted_rows(task, np.array([[3.0]]), examples) == [("0", "1.000000")]
    write(tmp_path / "train.tsv", "text\tlabel\na\t2\n")
    with pytest.raises(StageError, match=r"train\.tsv:2: score '2', expected a number from -1 to"):
        load_examples(task, task.train, ".")


def test_sick_as_stsb_and_as_ones_own(tmp_path, shared_data):
    files = shared_data / "extra_tasks" / "SICK_in_STS-B_layout"
    shutil.copytree(files, tmp_path / "STS-B")
    stsb = find_task("STS-B")
    keys = TaskKeys(
        train=str(files / "train.tsv"),
        dev=str(files / "dev.tsv"),
        test=str(files / "test.tsv"),
        text_columns=["sentence1", "sentence2"],
        label_column="score",
        score_range=[0, 5],
    )
    own = custom_task("sick", keys)
    for split, own_split, num_rows in zip(stsb.splits, own.splits, (4422, 494, 4847), strict=True):
        examples = load_examples(stsb, split, str(tmp_path))
        assert load_examples(own, own_split, ".") == examples
        assert len(examples.texts) == num_rows and not examples.malformed
    gold = read_table(files / "test_gold.tsv", ("score",)).rows
    outputs = np.array([[float(score)] for _, (score,) in gold])
    dev = load_examples(own, own.dev[0], ".")
    perfect = np.array(dev.labels)[:, None]
    assert score_predictions(own, perfect, dev) == {
        "pearson": pytest.approx(1), "spearman": pytest.approx(1)
    }  # fmt: skip
    assert len(predicted_rows(own, outputs, load_examples(own, own.test[0], "."))) == 4847
