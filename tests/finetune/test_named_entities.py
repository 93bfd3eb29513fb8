"""Named entities from files to predictions, with a tiny model of our own architecture."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from configs.defaults import custom_task_node, get_default_config
from finetune import predict
from finetune.evaluation.prediction_files import read_dev_predictions
from finetune.search.job_folder import model_path, predictions_path
from finetune.stage import finetune
from finetune.tagging.char_spans import words_of
from finetune.tagging.tag_schemes import Span, spans_of, tags_of
from finetune.tagging.tagged_files import iter_sentences, read_tagged
from pipeline.store.record_files import read_json
from result_collection.stage import collect_test_result
from tests.plans import finetune_artifact, load_search, result_artifact

pytestmark = pytest.mark.slow

NAMES = ["Ann", "Lee", "Mary", "Bo", "Paris"]
PLACES = ["Oslo", "Rome", "St. Ives", "Paris"]
WORDS = ["sang", "in", "the", "rain", "and", "went", "to", "see", ".", ",", "(", ")"]
LENGTH = 16

PIPELINE = """
import json, sys
from transformers import pipeline
folder, texts = sys.argv[1], json.load(sys.stdin)
model = pipeline("token-classification", model=folder, aggregation_strategy="first",
                 trust_remote_code=True)
assert "pretrain" not in sys.modules and model.tokenizer.model_max_length == 16
found = [[(e["start"], e["end"], e["entity_group"]) for e in model(text)] for text in texts]
print(json.dumps(found))
"""


def sentence(rng: random.Random) -> tuple[list[str], list[Span]]:
    """Words, as BERT's tokenizer splits them, and entities; some texts are too long for the model.

    Paris is of both types.
    """
    words, spans = [], []
    for _ in range(rng.choice([4, 6, 9, 40])):
        kind, known = rng.choice([("PER", NAMES), ("LOC", PLACES), ("", WORDS), ("", WORDS)])
        phrase = rng.choice(known)
        parts = [phrase[start:stop] for start, stop in words_of(phrase)]
        if kind:
            spans.append(Span(kind, len(words), len(words) + len(parts)))
        words += parts
    return words, spans


def conll(number: int, seed: int) -> str:
    rng, blocks = random.Random(seed), []
    for _ in range(number):
        words, spans = sentence(rng)
        tags = tags_of(spans, len(words), "IOBES")
        lines = zip(words, tags, strict=True)
        blocks.append("".join(f"{word}\t{tag}\n" for word, tag in lines))
    return "\n".join(blocks)


def make_model(folder: Path) -> str:
    from transformers import BertTokenizerFast, set_seed

    from pretrain.model.modeling_extremebert import (
        ExtremeBertConfig,
        ExtremeBertForMaskedLM,
        register,
    )

    register()
    set_seed(0)
    folder.mkdir()
    words = {word for phrase in (*NAMES, *PLACES, *WORDS) for word in phrase.split()}
    words = {part[a:b] for part in words for a, b in words_of(part)} - {"Mary"}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Ma", "##ry", *sorted(words)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    config = ExtremeBertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        norm_type="rmsnorm",
        pad_token_id=0,
    )
    ExtremeBertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.search.local_workers.num_cores", lambda: 1)
    monkeypatch.chdir(tmp_path)
    Path("train").mkdir()
    for number in range(2):
        Path(f"train/{number}.conll").write_text(conll(150, number))
    Path("dev.conll").write_text(conll(60, 2))
    texts = [" ".join(one.tokens) for one in read_tagged(Path("dev.conll")).sentences]
    Path("test.jsonl").write_text("".join(json.dumps({"text": t, "id": 7}) + "\n" for t in texts))
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.NUM_GPUS = str(tmp_path / "out"), 0
    config.FINETUNE.MODEL_NAME_OR_PATH = make_model(tmp_path / "bert")
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["names"], []
    config.FINETUNE.MAX_SEQ_LENGTH = 64  # more than the model has
    node = custom_task_node()
    node.TYPE = "token_classification"
    node.TRAIN, node.DEV, node.TEST = "train", "dev.conll", "test.jsonl"
    config.FINETUNE.CUSTOM_TASKS["names"] = node
    grid = config.FINETUNE.GRID.DEFAULT
    grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = [3], [16], [3e-3]
    return config


def test_entities_are_found_and_written_in_the_format_of_the_test_set(
    config, capsys, tmp_path, monkeypatch
):
    finetune(config)
    collect_test_result(config)
    said = capsys.readouterr().out
    [run] = read_json(finetune_artifact(config).directory / "summary.json")["runs"]
    assert run["score"] == run["dev"]["dev"]["entity_f1"] > 0.8
    assert 0 < run["majority"]["score"] < 1 and run["num_train_rows"] == 300
    assert "names: at most 16 tokens per sample; truncated: none" in said
    assert "names: precision" in said and "the entities of TRAIN are looked up" in said

    folder = load_search(config).task_dir("names") / run["setting"]
    predictions = read_dev_predictions(folder / "dev.tsv")
    sentences = read_tagged(Path("dev.conll")).sentences
    assert predictions.gold == [tag for one in sentences for tag in one.tags]
    report = read_json(result_artifact(config).directory / "report.json")
    [row], tables = report["summary"]["tasks"], report["predictions"]["names"]["sets"]["dev"]
    assert row["interval"][0] < run["score"] < row["interval"][1]
    per_type = run["details"]["dev"]["per_type"]
    assert {one["label"]: one["f1"] for one in tables["classes"]} == pytest.approx(
        {kind: scores["f1"] for kind, scores in per_type.items()}, abs=1e-6
    )
    for mistake in tables["mistakes"]:
        sentence = sentences[int(mistake["row"])]
        assert mistake["place"] == f"dev.conll:{sentence.line}"
        assert mistake["label"] == sentence.tags[mistake["token"]] != mistake["prediction"]
    assert (tables["reliability"]["error"] < 0.2) and "Ma" not in str(tables)

    folder = result_artifact(config).directory
    written = folder / "names.predicted.jsonl"
    assert f"names: predictions in {written}" in said
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in lines_of(Path("test.jsonl"))]
    assert {row["id"] for row in rows} == {7}
    check_scores(run, written)

    search = load_search(config)
    [task] = search.tasks
    best = search.job_dir(search.jobs[0])
    lines = predictions_path(best, task.test[0]).read_text().splitlines()[1:]
    tags = [line.split("\t")[1].split(" ") for line in lines]
    assert tags == [list(one.tags) for one in iter_sentences(written)]
    check_pipeline(model_path(best), rows, tmp_path)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    check_predict(model_path(best), rows, tmp_path)

    written.write_text(written.read_text().replace("LOC", "PER", 1))
    assert result_artifact(config).status().reason.startswith("names.predicted.jsonl")


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_scores(run: dict, written: Path) -> None:
    """The test set has the texts of the dev set, so its score is the same, by seqeval too."""
    from seqeval.metrics import f1_score, precision_score

    true = [list(one.tags) for one in read_tagged(Path("dev.conll")).sentences]
    found = [list(one.tags) for one in iter_sentences(written)]
    assert f1_score(true, found) == pytest.approx(run["score"])
    assert precision_score(true, found) == pytest.approx(run["details"]["dev"]["precision"])
    of_type = {kind: value["f1"] for kind, value in run["details"]["dev"]["per_type"].items()}
    assert list(of_type.values()) == pytest.approx(list(f1_score(true, found, average=None)))
    assert list(of_type) == ["LOC", "PER"]
    assert sum(len(spans_of(tags)) for tags in true) == sum(
        value["entities"] for value in run["details"]["dev"]["per_type"].values()
    )


def check_predict(model: Path, rows: list[dict], folder: Path) -> None:
    """The command finds the entities of the search in texts, and in files of any scheme's lines."""
    output = folder / "texts.jsonl"
    assert predict.main([str(model), "test.jsonl", "--output", str(output)]) == 0
    found = lines_of(output)
    for row in found:
        assert all(0 < span.pop("probability") <= 1 for span in row["spans"])
    assert found == rows
    assert predict.main([str(model), "dev.conll", "--output", str(folder / "tags.conll")]) == 0
    lines = (folder / "tags.conll").read_text()
    assert "S-PER" in lines and "E-LOC" in lines  # as in training
    tags = [spans_of(one.tags) for one in iter_sentences(folder / "tags.conll")]
    of_search = Path(output.parent / "out").rglob("names.predicted.jsonl")
    assert tags == [spans_of(one.tags) for one in iter_sentences(next(of_search))]


def check_pipeline(model: Path, rows: list[dict], folder: Path) -> None:
    """A process without this project finds the same entities in the short texts."""
    short = [row for row in rows if len(words_of(row["text"])) <= LENGTH // 2 - 1]
    assert len(short) > 10
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(model)],
        input=json.dumps([row["text"] for row in short]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "cache"), "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    wanted = [[[s["start"], s["end"], s["label"]] for s in row["spans"]] for row in short]
    assert found == wanted
    assert "trust_remote_code=True" in (model / "README.md").read_text()
