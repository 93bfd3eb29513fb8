"""Predictions of tables: whatever the format and the model, the same as elsewhere."""

import json
import random

import numpy as np
import pytest

from finetune import run_glue
from finetune.data.demo_glue import write_demo_glue
from finetune.prediction import answering, text_jobs
from tests.finetune.classifiers import WORDS, build_classifier_of_transformers
from tests.finetune.predictions import ENDINGS, as_text, read_rows, run, texts, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
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
