"""Predictions of files: whatever the format, the kill and the model, the same as elsewhere."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from finetune import predict, run_glue
from finetune.data.demo_glue import write_demo_glue
from finetune.prediction import answering, text_jobs
from finetune.prediction.text_jobs import TextJob
from finetune.prediction.unfinished import ANSWERS, RECORD, Unfinished
from pipeline.console import Console
from pipeline.runtime.memory import PeakMemory
from tests.finetune.classifiers import WORDS, build_classifier_of_transformers

pytestmark = pytest.mark.usefixtures("one_thread")
PROJECT = Path(predict.__file__).resolve().parents[1]
PIECE = 16  # rows, in place of thousands
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A stock BERT with random weights that tells texts apart, of three labels."""
    return build_classifier_of_transformers(
        tmp_path_factory.mktemp("model"), ["low", "mid", "high"]
    )


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("finetune.data.batches.TOGETHER", PIECE)
    monkeypatch.setattr(answering, "TOGETHER", PIECE)


def texts(number: int) -> list[str]:
    chosen = random.Random(number)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 20))) for _ in range(number)]


def write_rows(path: Path, number: int) -> list[dict[str, str]]:
    """A table of a file, with cells that its format has to quote."""
    rows = [
        {"id": str(i), "note": 'a "b", ü', "text": text} for i, text in enumerate(texts(number))
    ]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    else:
        with open(path, "w", newline="") as file:
            if path.suffix == ".csv":
                lines = csv.DictWriter(file, list(rows[0]))
                lines.writeheader()
                lines.writerows(rows)
            else:
                file.writelines(
                    "\t".join(cells) + "\n" for cells in [rows[0], *map(dict.values, rows)]
                )
    return rows


def read_rows(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    with open(path, newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        header, *lines = [line.rstrip("\n").split("\t") for line in file]
        return [dict(zip(header, line, strict=True)) for line in lines]


def as_text(row: dict) -> dict[str, str]:
    return {k: f"{v:.6f}" if isinstance(v, float) else str(v) for k, v in row.items()}


def run(model: str, file: Path, output: Path, *flags: str) -> int:
    return predict.main([model, str(file), "--output", str(output), "--use_cpu", *flags])


# --- answers ----------------------------------------------------------------------------------


def test_every_format_has_the_same_rows_and_answers(model, tmp_path, capsys):
    """Each of the four formats as input and as output; the answers are those of transformers."""
    expected = None
    for source in ENDINGS:
        rows = write_rows(tmp_path / f"in{source}", 20)
        for target in ENDINGS:
            output = tmp_path / f"{source[1:]}{target}"
            assert run(model, tmp_path / f"in{source}", output) == 0, capsys.readouterr().err
            found = [as_text(row) for row in read_rows(output)]
            assert [{k: row[k] for k in rows[0]} for row in found] == rows
            expected = expected or found
            assert found == expected
            assert output.stat().st_mode & 0o077 == 0
    assert list(expected[0]) == [
        *("id", "note", "text", "label", "probability"),
        *("probability_low", "probability_mid", "probability_high"),
    ]
    assert len({row["label"] for row in expected}) > 1
    check_against_transformers(model, [row["text"] for row in expected], expected)
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))
    assert "20 rows in" in capsys.readouterr().out


def check_against_transformers(model: str, inputs: list, answers: list[dict[str, str]]) -> None:
    from transformers import pipeline

    theirs = pipeline("text-classification", model=model, device="cpu", top_k=None)(inputs)
    for row, scores in zip(answers, theirs, strict=True):
        assert row["label"] == scores[0]["label"]
        assert float(row["probability"]) == pytest.approx(scores[0]["score"], abs=2e-6)
        for score in scores:
            ours = float(row[f"probability_{score['label']}"])
            assert ours == pytest.approx(score["score"], abs=2e-6)


def test_a_folder_of_parquet_files_and_its_types(model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    for number in range(2):
        table = pa.table({"text": texts(3), "when": pa.array([1, 2, None], pa.timestamp("ms"))})
        features = {"text": {"dtype": "string", "_type": "Value"}}
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        pq.write_table(table.replace_schema_metadata(about), tmp_path / "in" / f"{number}.parquet")
    assert run(model, tmp_path / "in", tmp_path / "out.parquet") == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("when").type == pa.timestamp("ms") and found.num_rows == 6
    assert found.schema.field("probability_low").type == pa.float64()
    described = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    assert described.keys() == set(found.schema.names) - {"when"}


def test_pairs_and_scores(tmp_path, capsys):
    """A cross-encoder of transformers: a model with one output gives the score of a pair."""
    model = build_classifier_of_transformers(tmp_path / "model", ["score"])
    rows = [{"a": one, "b": other} for one, other in zip(texts(9), texts(18)[9:], strict=True)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--text_columns", "a", "b", "--prefix", "own_")
    assert run(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", *flags) == 0
    found = read_rows(tmp_path / "out.jsonl")
    assert [list(row) for row in found] == [["a", "b", "own_score"]] * 9
    from transformers import pipeline

    theirs = pipeline("text-classification", model=model, function_to_apply="none", device="cpu")
    for row in found:
        score = theirs({"text": row["a"], "text_pair": row["b"]})["score"]
        assert row["own_score"] == pytest.approx(score, abs=1e-5)
    assert "scores: " in capsys.readouterr().out


def test_a_table_without_rows(model, tmp_path):
    for ending in ENDINGS:
        (tmp_path / "in.csv").write_text("id,text\n")
        assert run(model, tmp_path / "in.csv", tmp_path / f"out{ending}") == 0
        assert read_rows(tmp_path / f"out{ending}") == []


def test_long_texts_are_truncated_or_read_in_windows(model, tmp_path, capsys, monkeypatch):
    """The probabilities of a text in windows are the means of those of its windows."""
    from transformers import AutoTokenizer

    long = " ".join(random.Random(1).choices(WORDS, k=100))
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": long}) + '\n{"text": "the string"}\n')
    assert run(model, tmp_path / "in.jsonl", tmp_path / "cut.jsonl") == 0
    printed = capsys.readouterr().out
    assert "WARNING: 50.0 % of the rows are truncated to 40 tokens" in printed
    assert "--windows reads all of it" in printed
    assert run(model, tmp_path / "in.jsonl", tmp_path / "whole.jsonl", "--windows") == 0
    assert "WARNING" not in capsys.readouterr().out
    cut, whole = read_rows(tmp_path / "cut.jsonl"), read_rows(tmp_path / "whole.jsonl")
    assert cut[0] != whole[0] and cut[1] == whole[1]

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(long, add_special_tokens=False)["input_ids"]
    windows = [ids[start : start + 38] for start in (0, 28, 56, 84)]  # 10 tokens overlap
    parts = [tokenizer.decode(part) for part in windows if len(part) > 10]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in parts))
    assert run(model, tmp_path / "parts.jsonl", tmp_path / "parts_out.jsonl") == 0
    of_parts = read_rows(tmp_path / "parts_out.jsonl")
    for name in ("low", "mid", "high"):
        mean = np.mean([part[f"probability_{name}"] for part in of_parts])
        assert whole[0][f"probability_{name}"] == pytest.approx(mean, abs=3e-6)


def test_pieces_do_not_change_the_answers(model, tmp_path, monkeypatch):
    """The tokenizer gets long texts in small numbers, which is no business of the answers."""
    write_rows(tmp_path / "in.csv", 50)
    assert run(model, tmp_path / "in.csv", tmp_path / "a.csv") == 0
    monkeypatch.setattr(text_jobs, "PIECE_CHARACTERS", 100)
    assert run(model, tmp_path / "in.csv", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, column", [("SST-2", "label"), ("MRPC", "label"), ("STS-B", "score")]
)
def test_answers_are_the_predictions_of_the_training(
    tiny_model, tmp_path, monkeypatch, task, column
):
    """To the last digit, whatever the number of pieces: both have the same batches."""
    monkeypatch.setattr("finetune.data.batches.TOGETHER", 32)
    monkeypatch.setattr(answering, "TOGETHER", 32)
    write_demo_glue(tmp_path / "glue")
    command = f"""--model_name_or_path {tiny_model} --task_name {task} --do_train --do_predict
        --glue_dir {tmp_path / "glue"} --output_dir {tmp_path / "run"} --max_seq_length 32
        --num_train_epochs 3 --learning_rate 2e-3 --use_cpu"""
    assert run_glue.main(command.split()) == 0
    output = tmp_path / "out.tsv"
    assert run(str(tmp_path / "run"), tmp_path / "glue" / task / "test.tsv", output) == 0
    predictions = (tmp_path / "run" / "predictions_test.tsv").read_text().splitlines()[1:]
    assert len(predictions) == 90 and len({line.split("\t")[1] for line in predictions}) > 1
    found = [row[column] for row in read_rows(output)]
    assert found == [line.split("\t")[1] for line in predictions]


# --- interruptions ----------------------------------------------------------------------------


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_kill_at_any_point_changes_no_byte(model, tmp_path, monkeypatch, ending):
    """Four pieces; after each, answers are half written, and at the end the output."""
    write_rows(tmp_path / "in.csv", 4 * PIECE - 3)
    output = tmp_path / f"out{ending}"
    assert run(model, tmp_path / "in.csv", tmp_path / f"expected{ending}") == 0
    expected = (tmp_path / f"expected{ending}").read_bytes()
    add = Unfinished.add
    for kill_after in range(5):
        left = [kill_after]

        def add_or_die(self, answers, *rest, left=left):
            if not left[0]:
                with open(self.folder / ANSWERS, "ab") as file:
                    file.write(b'["lo')
                raise Killed
            left[0] -= 1
            add(self, answers, *rest)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Unfinished, "add", add_or_die)
            patch.setattr("finetune.prediction.predicting.delete_tree", die)
            run(model, tmp_path / "in.csv", output)
        assert output.exists() == (kill_after == 4)
        assert run(model, tmp_path / "in.csv", output) == 2  # never begins anew by mistake
        assert run(model, tmp_path / "in.csv", output, "--resume") == 0
        assert output.read_bytes() == expected
        assert not (tmp_path / f"out{ending}.part").exists()
        output.unlink()


def die(*_):
    raise Killed


@pytest.mark.usefixtures("small_pieces")
def test_what_an_interrupted_prediction_does_not_go_on_with(model, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "in.csv", 3 * PIECE)
    output, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    with monkeypatch.context() as patch:
        patch.setattr(Console, "progress", lambda *_: die())
        with pytest.raises(Killed):
            run(model, tmp_path / "in.csv", output)
    assert json.loads((part / RECORD).read_text())["rows"] == 0
    other = build_classifier_of_transformers(tmp_path / "other", ["low", "mid", "high"])
    for command, changed in (
        ((other, tmp_path / "in.csv", output), "MODEL"),
        ((model, tmp_path / "in.csv", output, "--windows"), "--windows"),
        ((model, tmp_path / "in.csv", output, "--text_columns", "note"), "--text_columns"),
    ):
        assert run(*command, "--resume") == 2
        assert f"was begun with another {changed};" in capsys.readouterr().err
    with open(tmp_path / "in.csv", "a") as file:
        file.write("x,y,z\n")
    assert run(model, tmp_path / "in.csv", output, "--resume") == 2
    assert "another FILE; --overwrite without --resume begins anew" in capsys.readouterr().err
    (part / "own.txt").write_text("of the user")
    assert run(model, tmp_path / "in.csv", output, "--overwrite") == 2
    assert "is no unfinished prediction, and not deleted" in capsys.readouterr().err
    (part / "own.txt").unlink()
    assert run(model, tmp_path / "in.csv", output, "--overwrite") == 0
    assert len(read_rows(output)) == 3 * PIECE + 1


def test_a_file_that_changes_meanwhile(model, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "in.csv", 5)
    answers = Unfinished.answers

    def answers_and_a_change(unfinished):
        yield from answers(unfinished)
        os.utime(tmp_path / "in.csv", (0, 0))

    monkeypatch.setattr(Unfinished, "answers", answers_and_a_change)
    assert run(model, tmp_path / "in.csv", tmp_path / "out.csv") == 3
    assert "in.csv: has changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_signals_end_it_and_it_goes_on(model, tmp_path):
    write_rows(tmp_path / "in.csv", 10_000)
    outputs = [tmp_path / "out.csv", tmp_path / "undisturbed.csv"]
    command = [sys.executable, "-m", "finetune.predict", model, str(tmp_path / "in.csv")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number in (signal.SIGTERM, signal.SIGKILL, None):
        resume = ["--output", str(outputs[0]), "--resume", "--use_cpu"]
        process = subprocess.Popen(
            [*command, *resume],
            cwd=PROJECT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        record, before = tmp_path / "out.csv.part" / RECORD, rows_done(tmp_path)
        while number and rows_done(tmp_path) <= before and process.poll() is None:
            time.sleep(0.02)
        if number:
            assert record.exists()
            process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == {signal.SIGTERM: 130, signal.SIGKILL: -9, None: 0}[number]
        if number == signal.SIGTERM:
            assert errors.splitlines()[-1] == "predict: interrupted; --resume goes on from here"
    assert run(model, tmp_path / "in.csv", outputs[1]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def rows_done(folder: Path) -> int:
    try:
        return json.loads((folder / "out.csv.part" / RECORD).read_text())["rows"]
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(model, tmp_path, monkeypatch):
    """Pieces are small against the file, of which any copy would show."""
    monkeypatch.setattr(TextJob, "piece_characters", 1 << 17)
    row = {"text": " ".join(random.Random(1).choices(WORDS, k=60)), "note": "abc " * 4000}
    peaks = []
    for number in (500, 3000):
        with open(tmp_path / f"{number}.jsonl", "w") as file:
            file.writelines(json.dumps(row | {"id": i}) + "\n" for i in range(number))
        with PeakMemory(0.02) as memory:
            assert run(model, tmp_path / f"{number}.jsonl", tmp_path / f"{number}.csv") == 0
        peaks.append(memory.peak_bytes)
    assert (tmp_path / "3000.jsonl").stat().st_size > 48e6
    assert peaks[1] - peaks[0] < 24e6  # the memory of libraries still grows a little


# --- errors -----------------------------------------------------------------------------------


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
