"""Entities in texts, and in files of tagged sentences."""

import csv
import json

import pytest

from finetune.prediction.unfinished import Unfinished
from finetune.tagging.tag_schemes import spans_of
from finetune.tagging.tagged_files import iter_sentences
from tests.finetune.classifiers import build_classifier_of_transformers
from tests.finetune.predictions import (
    PIECE,
    Killed,
    die,
    read_rows,
    run,
    texts,
)

pytestmark = pytest.mark.usefixtures("one_thread")


TAGS = ["B-LOC", "I-LOC", "O", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tagger")
    return build_classifier_of_transformers(folder, TAGS, "TokenClassification")


def test_entities_of_texts_are_those_of_the_pipeline(tagger, tmp_path, capsys):
    """A probability is the mean of the words', as the pipeline has it."""
    from transformers import pipeline

    rows = [{"id": i, "text": f"  {text}\n"} for i, text in enumerate(texts(20))]
    rows.insert(3, {"id": 99, "text": " \n"})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tagger, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    assert "entities: " in capsys.readouterr().out
    found = read_rows(tmp_path / "out.jsonl")
    assert [{"id": row["id"], "text": row["text"]} for row in found] == rows
    assert found[3]["spans"] == [] and sum(len(row["spans"]) for row in found) > 20
    find = pipeline("token-classification", model=tagger, aggregation_strategy="first")
    for row in found:
        theirs = find(row["text"]) if row["text"].strip() else []
        assert [(s["start"], s["end"], s["label"]) for s in row["spans"]] == [
            (e["start"], e["end"], e["entity_group"]) for e in theirs
        ]
        ours = [span["probability"] for span in row["spans"]]
        assert ours == pytest.approx([e["score"] for e in theirs], abs=2e-6)
    with open(tmp_path / "in.csv", "w", newline="") as file:
        lines = csv.DictWriter(file, ["note", "text"])
        lines.writeheader()
        lines.writerows({"note": row["text"], "text": "x"} for row in rows)
    flags = ("--text_columns", "note")
    assert run(tagger, tmp_path / "in.csv", tmp_path / "out_csv.jsonl", *flags) == 0
    spans = [row["spans"] for row in read_rows(tmp_path / "out_csv.jsonl")]
    assert spans == [row["spans"] for row in found]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("ending", [".conll", ".jsonl", ".parquet"])
def test_tagged_files_keep_their_form_and_go_on(tagger, tmp_path, monkeypatch, ending):
    sentences = [text.split() for text in texts(3 * PIECE)]
    source = tmp_path / f"in{ending}"
    if ending == ".conll":
        blocks = ["".join(f"{word} X\n" for word in words) for words in sentences]
        source.write_text("# a comment of more words\n" + "\n".join(blocks))
    elif ending == ".jsonl":
        source.write_text("".join(json.dumps({"tokens": words}) + "\n" for words in sentences))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"tokens": sentences}), source)
    assert run(tagger, source, tmp_path / f"expected{ending}", "--tag_column", "3") == 0
    found = list(iter_sentences(tmp_path / f"expected{ending}"))
    assert [list(one.tokens) for one in found] == sentences
    assert {kind for one in found for kind, *_ in spans_of(one.tags)} == {"LOC", "PER"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("finetune.prediction.predicting.delete_tree", die)
        run(tagger, source, tmp_path / f"out{ending}", "--tag_column", "3")
    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "add", die)  # all answers are there
        again = (tagger, source, tmp_path / f"out{ending}", "--tag_column", "3", "--resume")
        assert run(*again) == 0
    for name in (f"expected{ending}", f"out{ending}"):
        assert (tmp_path / name).read_bytes() == (tmp_path / f"expected{ending}").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_what_a_token_classifier_cannot_predict(tagger, tmp_path, capsys):
    speech = build_classifier_of_transformers(
        tmp_path / "m", ["NOUN", "VERB"], "TokenClassification"
    )
    (tmp_path / "in.conll").write_text("The\tO\nstring O\n")
    (tmp_path / "in.csv").write_text("text\nthe string\n")
    for model, file, output, flags, code, problem in (
        (tagger, "in.conll", "out.conll", (), 3, "in.conll:2: 1 column, expected 2"),
        (tagger, "in.conll", "out.jsonl", (), 2, "expected the ending of"),
        (tagger, "in.conll", "out.conll", ("--tag_column", "1"), 2, "the column of the tokens"),
        (tagger, "in.csv", "out.csv", (), 2, "expected one of .jsonl"),
        (tagger, "in.csv", "out.jsonl", ("--windows",), 2, "always have windows"),
        (speech, "in.csv", "out.jsonl", (), 2, "its tags NOUN, VERB have no O"),
    ):
        assert run(model, tmp_path / file, tmp_path / output, *flags) == code
        assert problem in capsys.readouterr().err
        assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*"))
