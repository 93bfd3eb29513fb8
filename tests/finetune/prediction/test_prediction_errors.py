"""Errors name the file, the line or the flag, and nothing is left behind."""

import shutil

import pytest

from pipeline.store.atomic_files import write_json
from pipeline.store.record_files import read_json
from tests.finetune.predictions import read_rows, run, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_cannot_be_predicted(model, tiny_model, tmp_path, capsys):
    """Errors name the file, the line or the flag; nothing is left behind."""
    write_rows(tmp_path / "in.csv", 3)
    files = {
        "malformed.csv": "text,b\none,two\nthree\nfour\n",
        "other.csv": "content,id\na,b\n",
        "label.csv": "text,label\nthe string,low\n",
        "null.jsonl": '{"text": "the string"}\n{"text": null}\n',
        "twice.csv": "text,a,a\nx,y,z\n",
        "tab.jsonl": '{"text": "the\\tstring"}\n',
        "strange.csv": "text\n" + "Ζεύς Ἥρα\n" * 9,
        "array.json": "[]",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    for name, flags, code, problem in (
        ("malformed.csv", (), 3, "malformed.csv:3: 1 fields, expected 2, and 1 more rows are"),
        ("other.csv", (), 3, "no column text; it has content, id; --text_columns names others"),
        ("label.csv", (), 3, "has a column label itself; with --prefix predicted_ the new one"),
        ("null.jsonl", (), 3, "null.jsonl:2: no text or number as text; no row can be left out"),
        ("twice.csv", (), 3, "column a appears twice"),
        ("strange.csv", (), 3, "100.0 % of the characters of"),
        ("array.json", (), 2, "its ending is none of .csv, .tsv, .jsonl, .parquet"),
        ("missing.csv", (), 2, "cannot be read (No such file or directory)"),
        ("in.csv", ("--text_columns", "id", "note", "text"), 2, "expected one or two"),
        ("in.csv", ("--text_columns", "id", "text", "--windows"), 2, "is for single texts"),
        ("null.jsonl", ("--columns", "text"), 2, "names its columns itself"),
    ):
        assert run(model, tmp_path / name, tmp_path / "out.csv", *flags) == code
        assert problem in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before, name
    assert run(model, tmp_path / "tab.jsonl", tmp_path / "out.tsv") == 3
    assert "row 1 has a TAB or a line break as text, which .tsv" in capsys.readouterr().err
    assert run(tiny_model, tmp_path / "in.csv", tmp_path / "out.csv") == 3
    assert "has no trained weights for classifier" in capsys.readouterr().err
    assert run(str(tmp_path), tmp_path / "in.csv", tmp_path / "out.csv") == 2
    assert "MODEL: no config.json in" in capsys.readouterr().err
    (tmp_path / "out.csv").touch()
    assert run(model, tmp_path / "in.csv", tmp_path / "out.csv") == 2
    assert "out.csv is there already; --overwrite replaces it" in capsys.readouterr().err
    assert run(model, tmp_path / "in.csv", tmp_path / "out.txt") == 2
    assert "out.txt, expected one of .csv, .tsv, .jsonl, .parquet" in capsys.readouterr().err


def test_a_file_without_a_header_line(model, tmp_path):
    (tmp_path / "in.tsv").write_text('the "string"\t1\n')
    flags = ("--columns", "text", "id")
    assert run(model, tmp_path / "in.tsv", tmp_path / "out.tsv", *flags) == 0
    assert (tmp_path / "out.tsv").read_text().startswith("text\tid\tlabel\t")
    assert read_rows(tmp_path / "out.tsv")[0]["text"] == 'the "string"'


def test_a_model_whose_weights_do_not_fit(model, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("text\nthe string\n")
    shutil.copytree(model, tmp_path / "model")
    config = read_json(tmp_path / "model" / "config.json")
    more = {str(number): f"label {number}" for number in range(5)}
    write_json(tmp_path / "model" / "config.json", config | {"id2label": more})
    assert run(str(tmp_path / "model"), tmp_path / "in.csv", tmp_path / "out.csv") == 3
    assert "its weights are damaged or do not fit its config.json" in capsys.readouterr().err
    (tmp_path / "model" / "model.safetensors").write_bytes(b"junk")
    assert run(str(tmp_path / "model"), tmp_path / "in.csv", tmp_path / "out.csv") == 3
    assert "header too small" in capsys.readouterr().err
    facts = {"type": "of a later version", "name": "own", "text_columns": []}
    write_json(tmp_path / "model" / "config.json", config | {"finetuned_task": facts})
    assert run(str(tmp_path / "model"), tmp_path / "in.csv", tmp_path / "out.csv") == 3
    assert "its task is of the type of a later version" in capsys.readouterr().err
