"""Submission files byte for byte, the zips, and the checker on planted defects."""

import json
import zipfile
from pathlib import Path

import pytest

from finetune.data.tasks import find_task, submission_splits
from finetune.search.job_folder import write_predictions
from pipeline.errors import StageError
from result_collection.submission import check, find_problems, main, submission_text
from result_collection.submissions.archive import file_name, read_submission, write_zip, zip_path

NUM_PASSAGES = 166


def multirc_keys():
    """9693 answers of 166 passages; numbers of questions and answers run on within a passage."""
    for i in range(9693):
        passage, place = i % NUM_PASSAGES, i // NUM_PASSAGES
        yield passage, place // 5, place


def predictions(task, split) -> list[tuple[str, str]]:
    """Rows of a predictions file for a whole test set."""
    if task.layout == "answers":
        keys = sorted(multirc_keys())
        return [("-".join(map(str, key)), ("wrong", "right")[key[2] % 2]) for key in keys]
    words = {"choices": ["0", "1"], "entities": ["New York", "Zoë"]}.get(task.layout)
    words = words or list(task.labels) or ["2.5", "0.1234567"]
    return [(str(i), words[i % len(words)]) for i in range(split.num_rows)]


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> dict[str, dict[str, str]]:
    """A correct submission to each benchmark, made from predictions."""
    path = tmp_path_factory.mktemp("predictions") / "predictions_test.tsv"
    made: dict[str, dict[str, str]] = {"GLUE": {}, "SuperGLUE": {}}
    for benchmark, files in made.items():
        for name, (task, split) in submission_splits(benchmark).items():
            write_predictions(path, predictions(task, split))
            files[file_name(name, benchmark)] = submission_text(task, path)
    return made


# --- making ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, values, expected",
    [
        ("CoLA", "acceptable unacceptable", "1 0"),
        ("MRPC", "not_equivalent equivalent", "0 1"),
        ("MNLI", "entailment neutral contradiction", "entailment neutral contradiction"),
        ("RTE", "not_entailment entailment", "not_entailment entailment"),
        ("WNLI", "entailment not_entailment", "1 0"),
        ("STS-B", "-0.2 3.14159 5.7 2.0", "0.000 3.142 5.000 2.000"),
    ],
)
def test_glue_files_are_byte_exact(tmp_path, name, values, expected):
    rows = [(str(i), value) for i, value in enumerate(values.split())]
    write_predictions(tmp_path / "p.tsv", rows)
    lines = [f"{i}\t{cell}\n" for i, cell in enumerate(expected.split())]
    made = submission_text(find_task(name), tmp_path / "p.tsv")
    assert made == "index\tprediction\n" + "".join(lines)


@pytest.mark.parametrize(
    "name, rows, expected",
    [
        ("BoolQ", {"0": "true", "1": "false"}, '{"idx": 0, "label": "true"}\n'),
        ("WiC", {"0": "false"}, '{"idx": 0, "label": "false"}\n'),
        ("WSC", {"0": "true"}, '{"idx": 0, "label": "True"}\n'),
        ("CB", {"0": "neutral"}, '{"idx": 0, "label": "neutral"}\n'),
        ("COPA", {"0": "1"}, '{"idx": 0, "label": 1}\n'),
        ("SuperGLUE-RTE", {"0": "not_entailment"}, '{"idx": 0, "label": "not_entailment"}\n'),
        ("ReCoRD", {"7": "London", "2": "a b"}, '{"idx": 2, "label": "a b"}\n'),
        (
            "MultiRC",
            {"0-0-0": "wrong", "0-0-1": "right", "0-3-5": "right", "1-0-0": "wrong"},
            '{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 0}, '
            '{"idx": 1, "label": 1}]}, {"idx": 3, "answers": [{"idx": 5, "label": 1}]}]}}\n',
        ),
    ],
)
def test_superglue_files_are_byte_exact(tmp_path, name, rows, expected):
    write_predictions(tmp_path / "p.tsv", rows.items())
    made = submission_text(find_task(name), tmp_path / "p.tsv")
    assert made.startswith(expected)
    assert made.count("\n") == (2 if name == "MultiRC" else len(rows))


def test_words_that_a_task_lacks_name_file_and_line(tmp_path):
    path = tmp_path / "p.tsv"
    write_predictions(path, [("0", "1")])
    with pytest.raises(StageError, match=r"p\.tsv:2: '1', expected one of unacceptable, accept"):
        submission_text(find_task("CoLA"), path)
    with pytest.raises(StageError, match=r"p\.tsv:2: '1', expected one of wrong, right"):
        submission_text(find_task("MultiRC"), path)
    write_predictions(path, [("0", "2")])
    with pytest.raises(StageError, match=r"p\.tsv:2: '2', expected one of 0, 1"):
        submission_text(find_task("COPA"), path)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["GLUE", "SuperGLUE"])
def test_a_correct_submission_passes_as_zip_and_as_folder(tmp_path, complete, benchmark, capsys):
    files = complete[benchmark]
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    for path in (first, second):
        write_zip(path, files)
    assert first.read_bytes() == second.read_bytes()
    assert zipfile.ZipFile(first).namelist() == list(files)
    assert read_submission(first) == ({name: text.encode() for name, text in files.items()}, [])
    assert main(["check", str(first)]) == 0
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text.removesuffix("\n"))  # the last line may lack its end
    (folder / "summary.tsv").write_text("the result stage's own")
    (folder / "summary.json").write_text("{}")
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out.count("ready for submission") == 2


def test_names_of_the_zips():
    folder = Path("x") / "bert-1.5"
    assert zip_path(folder, partial=False).name == "bert-1.5.zip"
    assert zip_path(folder, partial=True).name == "bert-1.5-partial-not-for-submission.zip"
    assert zip_path(folder, partial=False, benchmark="SuperGLUE").name == "bert-1.5-superglue.zip"


# --- defects of lines ------------------------------------------------------------------------

GLUE_DEFECTS = [
    ("CoLA", "index\tprediction\n", "id\tlabel\n", r"the header is 'id\tlabel', expected 'index\t"),
    ("CoLA", "index\tprediction\n", "", "there is no header"),
    ("CoLA", "\n", "\r\n", "lines end in CRLF, expected LF"),
    ("CoLA", "\n", "\r", "lines end in CR, expected LF"),
    ("CoLA", "index", "\ufeffindex", "starts with a byte order mark"),
    ("CoLA", "\n5\t1\n", "\n5\tacceptable\n", "line 7: 'acceptable', expected one of 0, 1"),
    ("CoLA", "\n5\t1\n", "\n5\t1.0\n", "line 7: '1.0', expected one of 0, 1"),
    ("CoLA", "\n5\t1\n", "\n5\t 1\n", "line 7: ' 1', expected one of 0, 1"),
    ("CoLA", "\n5\t1\n", "\n4\t1\n", "line 7: index 4, as in line 6, expected 5"),
    ("CoLA", "\n5\t1\n", "\n50000\t1\n", "line 7: index 50000, expected 5"),
    ("CoLA", "\n5\t1\n", "\n5.0\t1\n", "line 7: index '5.0', expected a whole number"),
    ("CoLA", "\n5\t1\n", "\n05\t1\n", "line 7: index '05', expected a whole number"),
    ("CoLA", "\n5\t1\n", "\n5\t1\tx\n", "line 7: 3 columns, expected 2"),
    ("CoLA", "\n5\t1\n", "\n5 1\n", "line 7: 1 columns, expected 2"),
    ("CoLA", "\n5\t1\n", "\n5\t1\n\n", "line 8: empty"),
    ("WNLI", "\n145\t1", "", "145 rows, expected 146"),
    ("WNLI", "\n145\t1", "\n145\t1\n146\t0", "147 rows, expected 146"),
    ("RTE", "\n0\tentailment", "\n0\t0", "line 2: '0', expected one of entailment"),
    ("RTE", "\n0\tentailment", "\n0\tEntailment", "line 2: 'Entailment', expected one of"),
    ("RTE", "\n0\tentailment", "\n0\t", "line 2: '', expected one of entailment"),
    ("AX", "\n1\tneutral", "\n1\tnot_entailment", "line 3: 'not_entailment', expected one of"),
    ("STS-B", "\n0\t2.500", "\n0\t5.1", "line 2: '5.1', expected one number from 0 to 5"),
    ("STS-B", "\n0\t2.500", "\n0\t-0.01", "line 2: '-0.01', expected one number"),
    ("STS-B", "\n0\t2.500", "\n0\tnan", "line 2: 'nan', expected one number"),
    ("STS-B", "\n0\t2.500", "\n0\tinf", "line 2: 'inf', expected one number"),
    ("STS-B", "\n0\t2.500", "\n0\t2,5", "line 2: '2,5', expected one number"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name, old, new, problem", GLUE_DEFECTS)
def test_each_defect_of_a_table_is_named(complete, name, old, new, problem):
    name = f"{name}.tsv"
    text = complete["GLUE"][name]
    broken = text.replace(old, new, 1 if len(old) > 1 else -1)
    assert broken != text
    found = [line for line in find_problems({name: broken}) if line.startswith(f"{name}: ")]
    assert any(problem in line for line in found)
    assert len(found) == 1 or "rows, expected" in "".join(found)


def test_a_gap_and_an_inserted_row_are_one_problem_each(complete):
    text = complete["GLUE"]["CoLA.tsv"]
    gap = text.replace("\n7\t1\n", "\n")
    [count, order] = [p for p in find_problems({"CoLA.tsv": gap}) if "missing" not in p]
    assert count == "CoLA.tsv: 1062 rows, expected 1063"
    assert order == "CoLA.tsv: line 9: index 8, expected 7"
    twice = text.replace("\n7\t1\n", "\n7\t1\n7\t1\n")
    [count, order] = [p for p in find_problems({"CoLA.tsv": twice}) if "missing" not in p]
    assert order == "CoLA.tsv: line 10: index 7, as in line 9, expected 8"


SUPERGLUE_DEFECTS = [
    ("BoolQ", '"idx": 0, "label": "false"', '"idx": 0, "label": false',
     'line 1: label false, expected a word in quotes, one of false, true'),
    ("BoolQ", '"idx": 0, "label": "false"', '"idx": 0, "label": "0"',
     "line 1: '0', expected one of false, true"),
    ("BoolQ", '"idx": 0,', '"idx": "0",', 'line 1: idx "0", expected a whole number'),
    ("BoolQ", '"idx": 1,', '"idx": 0,', "line 2: index 0, as in line 1, expected 1"),
    ("BoolQ", '{"idx": 1, ', '{"idx": 1, "score": 1, ', "keys idx, score, label; expected idx, "),
    ("BoolQ", '{"idx": 1, ', '{"id": 1, ', "line 2: keys id, label; expected idx, label"),
    ("BoolQ", '{"idx": 1, ', '{idx: 1, ', "line 2: no JSON object"),
    ("CB", '"label": "neutral"}\n', '"label": "neutral"}\n\n', "empty"),
    ("CB", '{"idx": 249, "label": "entailment"}\n', "", "249 rows, expected 250"),
    ("COPA", '"idx": 0, "label": 0', '"idx": 0, "label": "0"',
     'line 1: label "0", expected the number 0 or 1'),
    ("COPA", '"idx": 0, "label": 0', '"idx": 0, "label": 2', "expected the number 0 or 1"),
    ("COPA", '"idx": 0, "label": 0', '"idx": 0, "label": false', "expected the number 0 or 1"),
    ("ReCoRD", '"label": "New York"', '"label": ""', 'line 1: label "", expected the text of an'),
    ("AX-g", '{"idx": 0, "label": "entailment"}\n', "", "line 1: index 1, expected 0"),
    ("MultiRC", '{"idx": 0, "label": 0}, ', "", "9692 answers, expected 9693"),
    ("MultiRC", '{"idx": 0, "label": 0}', '{"idx": 0, "label": "0"}',
     'line 1: question 0, answer 0: label "0", expected the number 0 or 1'),
    ("MultiRC", '{"idx": 1, "label": 1}', '{"idx": 0, "label": 1}',
     "line 1: answer idx 0 appears twice"),
    ("MultiRC", '{"questions": ', '{"question": ', "line 1: passage is not nested like"),
    ("MultiRC", '"passage"', '"label"', "line 1: keys idx, label; expected idx, passage"),
]  # fmt: skip


@pytest.mark.parametrize("name, old, new, problem", SUPERGLUE_DEFECTS)
def test_each_defect_of_a_jsonl_file_is_named(complete, name, old, new, problem):
    name = f"{name}.jsonl"
    text = complete["SuperGLUE"][name]
    broken = text.replace(old, new, 1)
    assert broken != text
    problems = find_problems({name: broken}, "SuperGLUE")
    assert any(line.startswith(f"{name}: ") and problem in line for line in problems)


def test_lower_case_words_of_wsc_are_taken(complete):
    text = complete["SuperGLUE"]["WSC.jsonl"]
    assert '"True"' in text
    problems = find_problems({"WSC.jsonl": text.lower()}, "SuperGLUE")
    assert [line for line in problems if "is missing" not in line] == []


# --- defects of the whole --------------------------------------------------------------------


@pytest.mark.slow
def test_everything_that_is_wrong_with_a_zip_is_said_at_once(tmp_path, complete, capsys):
    files = {name: text.encode() for name, text in complete["GLUE"].items()}
    files["cola.tsv"] = files.pop("CoLA.tsv").replace(b"\n9\t1\n", b"\n9\t2\n")
    files["glue/RTE.tsv"] = files.pop("RTE.tsv")
    files["SST2.tsv"] = files.pop("SST-2.tsv").replace(b"\n", b"\r\n")
    files["QNLI.tsv"] += b"".join(b"%d\tentailment\n" % i for i in range(5463, 5740))
    files["MRPC.tsv"] = files["MRPC.tsv"].replace(b"\n8\t0", b"\n8\t\xff")
    files["WNLI.tsv"] = b"\xff\xfe" + files["WNLI.tsv"].decode().encode("utf-16-le")
    files["STS-B.tsv"] = b""
    files["MNLI-m.tsv"] = files["MNLI-m.tsv"].replace(b"neutral", b"1")
    files["QQP.tsv"] = files["QQP.tsv"].replace(b"\n390000\t0", b"\n390000\t0.0")
    del files["AX.tsv"]
    files |= {"glue/": b"", "__MACOSX/._RTE.tsv": b"", ".DS_Store": b"", "README": b"hello"}
    path = tmp_path / "broken.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning):
            archive.writestr("QNLI.tsv", b"again")
    assert main(["check", str(path)]) == 1
    expected = [
        "QNLI.tsv is in the zip twice",
        "cola.tsv is meant to be CoLA.tsv",
        "cola.tsv: line 11: '2', expected one of 0, 1",
        "SST2.tsv is meant to be SST-2.tsv",
        "SST2.tsv: lines end in CRLF, expected LF",
        "MRPC.tsv: line 10: not UTF-8",
        "MRPC.tsv: line 10: '\ufffd', expected one of 0, 1",
        "STS-B.tsv: the file is empty",
        "QQP.tsv: line 390002: '0.0', expected one of 0, 1",
        "MNLI-m.tsv: line 3: '1', expected one of entailment, neutral, contradiction "
        "(and 3264 more such lines)",
        "AX.tsv is missing",
        "QNLI.tsv: 5740 rows, expected 5463 (these are the rows of QNLIv1, which GLUE replaced)",
        "glue/RTE.tsv is meant to be RTE.tsv, not in a folder",
        "WNLI.tsv: UTF-16, expected UTF-8",
        "glue/ does not belong to a submission",
        "__MACOSX/._RTE.tsv does not belong to a submission",
        ".DS_Store does not belong to a submission",
        "README does not belong to a submission",
        "cannot be submitted",
    ]
    assert capsys.readouterr().out.splitlines() == [f"{path}: {line}" for line in expected]


def test_the_wrong_benchmarks_files_are_told(tmp_path, complete):
    files = dict(complete["SuperGLUE"])
    files["CB.tsv"] = files.pop("CB.jsonl")
    problems = find_problems(files, "SuperGLUE")
    assert "CB.tsv is meant to be CB.jsonl" in problems
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "RTE.tsv").write_text(complete["GLUE"]["RTE.tsv"])
    (folder / "RTE.jsonl").write_text(complete["SuperGLUE"]["RTE.jsonl"])
    assert main(["check", str(folder)]) == 1


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"PK\x03\x04 but no more", "not a zip file"),
        (b"", "not a zip file"),
        (None, "No such file"),
    ],
)
def test_what_is_no_zip(tmp_path, capsys, content, problem):
    path = tmp_path / "glue.zip"
    if content is not None:
        path.write_bytes(content)
    assert main(["check", str(path)]) == 1
    assert problem in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == 1


@pytest.mark.parametrize(("place", "value"), [(6, 99), (46, 0xE4)])
def test_a_zip_whose_index_cannot_be_read(tmp_path, place, value):
    """Of an unknown version, or with a name that is no UTF-8."""
    path = tmp_path / "glue.zip"
    write_zip(path, {"CoL\u00e4.tsv": "index\tprediction\n"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + place] = value
    path.write_bytes(content)
    (problem,) = check(path)
    assert problem.startswith("cannot be read: ")


def test_members_that_cannot_be_read(tmp_path, monkeypatch):
    """A flipped byte, a password, a bomb, and a bomb that lies about its size."""
    path = tmp_path / "broken.zip"
    write_zip(path, {"CoLA.tsv": "index\tprediction\n" * 99})
    whole = path.read_bytes()
    for place, value, problem in (
        (60, whole[60] ^ 0xFF, "cannot be unpacked"),
        (whole.index(b"PK\1\2") + 8, 1, "encrypted"),
        (whole.index(b"PK\1\2") + 27, 0x7F, "MB unpacked, no submission"),
    ):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        files, problems = read_submission(path)
        assert files == {"CoLA.tsv": None}
        assert problem in problems[0] and problems[0].startswith("CoLA.tsv: ")
    monkeypatch.setattr("result_collection.submissions.archive.MAX_BYTES", 100)
    path.write_bytes(whole)
    assert "MB unpacked" in read_submission(path)[1][0]


def test_the_original_toolkits_example_has_an_obsolete_qnli(shared_data, capsys):
    folder = shared_data / "glue_submission_example"
    assert main(["check", str(folder)]) == 1
    assert [line.removeprefix(f"{folder}: ") for line in capsys.readouterr().out.splitlines()] == [
        "QQP.tsv is missing",
        "QNLI.tsv: 5740 rows, expected 5463 (these are the rows of QNLIv1, which GLUE replaced)",
        "cannot be submitted",
    ]


def test_all_files_of_superglue_have_the_official_rows(complete):
    counts = {name: text.count("\n") for name, text in complete["SuperGLUE"].items()}
    assert counts == {
        "BoolQ.jsonl": 3245, "CB.jsonl": 250, "COPA.jsonl": 500, "MultiRC.jsonl": 166,
        "ReCoRD.jsonl": 10000, "RTE.jsonl": 3000, "AX-b.jsonl": 1104, "AX-g.jsonl": 356,
        "WiC.jsonl": 1400, "WSC.jsonl": 146,
    }  # fmt: skip
    passages = [json.loads(line) for line in complete["SuperGLUE"]["MultiRC.jsonl"].splitlines()]
    questions = [q for row in passages for q in row["passage"]["questions"]]
    assert sum(len(question["answers"]) for question in questions) == 9693
