"""Several labels per text, from files to predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from configs.defaults import custom_task_node, get_default_config
from configs.key_rules import problems_of_values
from finetune import predict
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.encoding import encode, load_tokenizer
from finetune.data.examples import load_examples
from finetune.data.tokens import Tokens
from finetune.search.job_folder import model_path, predictions_path
from finetune.stage import finetune
from finetune.task_types.label_set_metrics import sigmoid
from pipeline.store.record_files import read_json
from result_collection.stage import collect_test_result
from tests.plans import finetune_artifact, load_search, result_artifact

WORDS = {"good": "praise", "bad": "blame"}
LABELS = ["praise", "blame", "never"]
REAL = Path(__file__).resolve().parents[2] / "../shared/data/multi_label/goemotions"


def rows(number: int, seed: int) -> list[dict]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(number):
        words = [word for word in WORDS if rng.random() < 0.4]
        text = " ".join(["the", *rng.permutation(3 * words).tolist()])
        found.append({"text": text, "label": [WORDS[word] for word in words]})
    return found


def write(path, objects) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in objects))
    return str(path)


def config_for(tmp_path, **keys):
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.NUM_GPUS = str(tmp_path), 0
    node = custom_task_node()
    node.TYPE, node.TEXT_COLUMNS = "multi_label", ["text"]
    node.update(keys)
    config.FINETUNE.CUSTOM_TASKS["films"] = node
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["films"], []
    config.FINETUNE.MAX_SEQ_LENGTH = 24
    grid = config.FINETUNE.GRID.DEFAULT
    grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = [6], [16], [2e-3]
    return config


@pytest.fixture
def config(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr("finetune.search.local_workers.num_cores", lambda: 1)
    files = {"TRAIN": rows(300, 0), "DEV": rows(80, 1), "TEST": rows(60, 2)}
    paths = {k: write(tmp_path / f"{k.lower()}.jsonl", found) for k, found in files.items()}
    config = config_for(tmp_path, **paths, LABELS=LABELS, LABEL_SEPARATOR=" + ")
    config.FINETUNE.MODEL_NAME_OR_PATH = tiny_model
    return config


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_search_and_its_model(config, capsys, tmp_path, monkeypatch):
    from transformers import pipeline

    from finetune.training.device_model import DeviceModel

    assert problems_of_values(config, ["finetune"]) == []
    finetune(config)
    collect_test_result(config)
    said, search = capsys.readouterr().out, load_search(config)
    [setting] = read_json(finetune_artifact(config).directory / "summary.json")["best"].values()
    folder, [task] = search.task_dir("films") / setting, search.tasks
    result = read_json(folder / "result.json")
    threshold = result["decision"]["threshold"]
    assert result["score"] == result["dev"]["dev"]["f1_micro"] > 0.9
    assert result["majority"]["score"] < 0.8

    # transformers' pipeline has the probabilities of the search, and so its predictions
    answer = pipeline("text-classification", model=str(model_path(folder)), top_k=None)
    texts = [row["text"] for row in rows(60, 2)]
    found = [{one["label"]: one["score"] for one in row} for row in answer(texts)]
    shares = np.array([[row[label] for label in LABELS] for row in found])
    columns, offsets, *_ = encode(answer.tokenizer, [(text,) for text in texts], 24, True)
    tokenizer = load_tokenizer(str(model_path(folder)))
    logits = DeviceModel(answer.model, tokenizer).predict(Tokens(columns, offsets), 999)
    np.testing.assert_allclose(shares, sigmoid(logits), atol=1e-6)
    sets = [[label for label in LABELS if row[label] >= threshold] for row in found]
    lines = predictions_path(folder, task.test[0]).read_text().splitlines()
    assert lines == ["index\tprediction"] + [f"{i}\t{' + '.join(s)}" for i, s in enumerate(sets)]

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    output = tmp_path / "answers.jsonl"
    command = [str(folder), str(tmp_path / "test.jsonl"), "--output", str(output)]
    assert predict.main([*command, "--prefix", "predicted_"]) == 0
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["predicted_label"] for row in answers] == [" + ".join(s) for s in sets]
    for label, column in zip(LABELS, shares.T, strict=True):
        ours = [row[f"predicted_probability_{label}"] for row in answers]
        np.testing.assert_allclose(ours, column, atol=2e-6)

    # the scores are those of the predictions
    details = result["details"]["dev"]
    labels = np.array([[label in row["label"] for label in LABELS] for row in rows(60, 2)])
    assert f1_score(labels, shares >= threshold, average="micro") > 0.9
    assert details["per_label"]["never"]["average_precision"] is None
    assert details["f1_macro"] < 0.67 and details["average_precision"] > 0.9

    report = read_json(result_artifact(config).directory / "report.json")
    [row], tables = report["summary"]["tasks"], report["predictions"]["films"]["sets"]["dev"]
    assert row["mean"] == pytest.approx(result["score"], abs=1e-6)
    assert row["interval"][0] < result["score"] <= row["interval"][1]
    for one in tables["classes"]:
        assert one["f1"] == pytest.approx(details["per_label"][one["label"]]["f1"], abs=1e-6)
        assert one["rows"] == details["per_label"][one["label"]]["rows"]

    facts = read_json(model_path(folder) / "config.json")
    assert facts["problem_type"] == "multi_label_classification"
    assert facts["finetuned_task"]["decision"] == {"threshold": threshold}
    assert facts["finetuned_task"]["label_separator"] == " + "
    card = (model_path(folder) / "README.md").read_text()
    assert "top_k=None" in card and f"a `score` of {threshold} or more" in card
    summary = (result_artifact(config).directory / "summary.tsv").read_text()
    assert "f1 micro" in summary and "films: f1_micro" in said and "top_k=None" in said
    assert "no dev row has the label never, which counts as 0 in f1_macro" in said


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_folds_predict_from_a_half_on(config):
    task = config.FINETUNE.CUSTOM_TASKS.films
    task.DEV, task.FOLDS = "", 2
    config.FINETUNE.GRID.DEFAULT.EPOCHS = [1]
    finetune(config)
    collect_test_result(config)
    [row] = read_json(result_artifact(config).directory / "summary.json")["tasks"]
    assert row["interval"][0] < row["interval"][1] and row["num_folds"] == 2
    results = load_search(config).task_dir("films").glob("*/result.json")
    found = {read_json(path)["setting"].split("_")[-1]: read_json(path) for path in results}
    assert found.keys() == {"fold1", "fold2", "all"}
    assert all(result["decision"] == {"threshold": 0.5} for result in found.values())


@pytest.mark.parametrize(
    "keys, problem",
    [
        ({"SCORE_RANGE": [0, 5]}, "SCORE_RANGE: got [0, 5], expected none with TYPE multi_label"),
        (
            {"CLASS_WEIGHTS": "balanced"},
            "CLASS_WEIGHTS: got balanced, expected none with TYPE multi_label",
        ),
        (
            {"METRICS": ["accuracy"]},
            "METRICS: got ['accuracy'], expected for several labels per text some of f1_micro, "
            "f1_macro, average_precision",
        ),
        (
            {"TYPE": "", "LABEL_SEPARATOR": ";"},
            "LABEL_SEPARATOR: got ';', expected none without TYPE multi_label",
        ),
        (
            {"LABEL_SEPARATOR": "and"},
            "LABEL_SEPARATOR: value out of range, got 'and', expected a text without letters, "
            "digits, tabs and line breaks, like `,`",
        ),
        ({"LABEL_SEPARATOR": ""}, "LABEL_SEPARATOR: value out of range, got '', expected a text"),
        (
            {"TYPE": "", "METRICS": ["f1_micro"]},
            "METRICS: got ['f1_micro'], expected for a classification some of accuracy,",
        ),
    ],
)
def test_mistakes_in_the_keys(tmp_path, keys, problem):
    files = {k: write(tmp_path / f"{k}.jsonl", rows(5, 0)) for k in ("TRAIN", "DEV")}
    config = config_for(tmp_path, **files, **keys)
    config.FINETUNE.MODEL_NAME_OR_PATH = "bert-base-uncased"
    [found] = problems_of_values(config, ["finetune"])
    assert found.startswith(f"FINETUNE.CUSTOM_TASKS.films.{problem}")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="GoEmotions is not there")
def test_goemotions():
    files = {part: str(REAL / f"{part}.tsv") for part in ("train", "dev", "test")}
    task = custom_task(
        "emotions",
        TaskKeys(
            **files,
            type="multi_label",
            text_columns=["text"],
            columns=["text", "label", "id"],
            labels_file=str(REAL / "labels.txt"),
        ),
    )
    found = [load_examples(task, split, ".") for split in task.splits]
    assert [len(examples.texts) for examples in found] == [43_410, 5_426, 5_427]
    assert not any(examples.malformed or examples.unlabelled for examples in found)
    assert len(task.labels) == 28
    assert sum(map(len, found[0].labels)) == 51_103 and min(map(len, found[0].labels)) == 1
