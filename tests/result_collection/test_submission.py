"""Submission files byte for byte, the zip, and the checker."""

import zipfile

import numpy as np
import pytest

from finetune.jobs import write_predictions
from finetune.tasks import find_task, submission_splits
from pipeline.errors import StageError
from result_collection.submission import (
    find_problems,
    main,
    read_submission,
    submission_text,
    write_zip,
    zip_path,
)


@pytest.fixture(scope="module")
def complete() -> dict[str, str]:
    """A correct submission."""
    files = {}
    for name, (task, split) in submission_splits().items():
        value = "2.500" if task.is_regression else next(iter(task.labels.values()))
        rows = "".join(f"{i}\t{value}\n" for i in range(split.num_rows))
        files[f"{name}.tsv"] = f"index\tprediction\n{rows}"
    return files


@pytest.mark.parametrize(
    "name, values, expected",
    [
        ("CoLA", [1, 0, 1], "1 0 1"),
        ("MRPC", [0, 1], "0 1"),
        ("MNLI", [0, 1, 2], "entailment neutral contradiction"),
        ("RTE", [1, 0], "not_entailment entailment"),
        ("WNLI", [1, 0], "1 0"),
        ("STS-B", [-0.2, 3.14159, 5.7, 2.0], "0.000 3.142 5.000 2.000"),
    ],
)
def test_files_are_byte_exact(tmp_path, name, values, expected):
    task = find_task(name)
    write_predictions(tmp_path / "p.tsv", task, np.array(values))
    lines = [f"{i}\t{cell}\n" for i, cell in enumerate(expected.split())]
    assert submission_text(task, tmp_path / "p.tsv") == "index\tprediction\n" + "".join(lines)


def test_labels_are_mapped_by_name(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("index\tprediction\n0\tacceptable\n1\tunacceptable\n")
    assert submission_text(find_task("CoLA"), path).split("\n")[1:3] == ["0\t1", "1\t0"]
    path.write_text("index\tprediction\n0\t1\n")
    with pytest.raises(StageError, match=r"p\.tsv:2: '1', expected one of unacceptable, accept"):
        submission_text(find_task("CoLA"), path)


def test_the_zip_is_flat_and_deterministic(tmp_path, complete):
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    write_zip(first, complete)
    write_zip(second, complete)
    assert first.read_bytes() == second.read_bytes()
    assert zipfile.ZipFile(first).namelist() == list(complete)
    assert read_submission(first) == complete
    assert main(["check", str(first)]) == 0


def test_names_of_the_zip(tmp_path):
    folder = tmp_path / "bert-1.5"
    assert zip_path(folder, partial=False).name == "bert-1.5.zip"
    assert zip_path(folder, partial=True).name == "bert-1.5-partial-not-for-submission.zip"


@pytest.mark.parametrize(
    "name, old, new, problem",
    [
        ("CoLA", "index\tprediction", "id\tlabel", r"CoLA.tsv: the header is 'id\tlabel'"),
        ("CoLA", "\n", "\r\n", "CoLA.tsv: lines end in CRLF"),
        ("CoLA", "\n5\t0", "\n5\tacceptable", "line 7: ['acceptable'], expected one of 0, 1"),
        ("CoLA", "\n5\t0", "\n4\t0", "line 7: index '4', expected 5"),
        ("RTE", "\n0\tentailment", "\n0\t0", "RTE.tsv: line 2: ['0'], expected one of entail"),
        ("STS-B", "\n0\t2.500", "\n0\t5.1", "line 2: ['5.1'], expected one number from 0 to 5"),
        ("STS-B", "\n0\t2.500", "\n0\t-0.01", "line 2: ['-0.01']"),
        ("STS-B", "\n0\t2.500", "\n0\tnan", "line 2: ['nan']"),
        ("WNLI", "\n145\t0", "", "WNLI.tsv: 145 rows, expected 146"),
    ],
)
def test_each_defect_is_named(complete, name, old, new, problem):
    text = complete[f"{name}.tsv"].replace(old, new)
    assert text != complete[f"{name}.tsv"]
    [found] = find_problems({**complete, f"{name}.tsv": text})
    assert problem in found


def test_missing_stray_and_nested_files(complete):
    assert find_problems(complete) == []
    files = {name: text for name, text in complete.items() if name != "AX.tsv"}
    problems = find_problems({**files, "glue/AX.tsv": complete["AX.tsv"], "README": ""})
    assert problems == [
        "AX.tsv is missing",
        "glue/AX.tsv does not belong to a submission",
        "README does not belong to a submission",
    ]


def test_the_original_toolkits_example_has_an_obsolete_qnli(shared_data, capsys):
    assert main(["check", str(shared_data / "glue_submission_example")]) == 1
    printed = capsys.readouterr().out
    assert "QNLI.tsv: 5740 rows, expected 5463" in printed and "QQP.tsv is missing" in printed
    for name in ("AX", "CoLA", "MNLI-m", "MRPC", "RTE", "SST-2", "STS-B", "WNLI"):
        assert f"{name}.tsv: " not in printed
