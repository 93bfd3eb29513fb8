"""The models that a search keeps: usable as they are, and those that were asked for."""

import re
from pathlib import Path

import pytest

from configs.defaults import get_default_config
from finetune.data.encoding import load_tokenizer
from finetune.data.examples import load_examples
from finetune.data.tasks import find_task
from finetune.evaluation.prediction_files import read_dev_predictions
from finetune.evaluation.resampling import estimates
from finetune.search.job_folder import dev_predictions_path, model_path, predictions_path
from finetune.stage import finetune
from finetune.training.task_card import is_unchanged
from pipeline.store.record_files import read_json
from result_collection.stage import collect_test_result
from tests.plans import finetune_artifact, load_search

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def config(tmp_path, tiny_model, monkeypatch):
    """CoLA in two settings and STS-B in one, on the demo benchmark."""
    monkeypatch.setattr("finetune.search.local_workers.num_cores", lambda: 1)
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path)
    config.SYSTEM.NUM_GPUS = 0
    config.FINETUNE.MODEL_NAME_OR_PATH = tiny_model
    config.FINETUNE.GLUE_DIR = "builtin:demo"
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["CoLA", "STS-B"], []
    config.FINETUNE.MAX_SEQ_LENGTH = 24
    grid = config.FINETUNE.GRID
    grid.DEFAULT.EPOCHS, grid.DEFAULT.BATCH_SIZES, grid.DEFAULT.LEARNING_RATES = [1], [32], [1e-3]
    grid.CoLA.EPOCHS = [1, 2]
    return config


def models(config) -> list[Path]:
    return sorted(load_search(config).root.glob("output/finetune/*/*/*/*/model"))


def best_folders(config) -> dict[str, Path]:
    search = load_search(config)
    best = read_json(finetune_artifact(config).directory / "summary.json")["best"]
    return {task: search.task_dir(task) / setting for task, setting in best.items()}


def test_a_pipeline_gives_the_predictions_of_the_search(config, capsys):
    from transformers import pipeline

    finetune(config)
    collect_test_result(config)
    said, search = capsys.readouterr().out, load_search(config)
    best = best_folders(config)
    places = re.search(rf"models of {len(best)} tasks: (.*)\n", said)[1]
    for name, folder in best.items():
        task, model = find_task(name), model_path(folder)
        assert model.match(places) and "finetune.predict" in said
        lines = predictions_path(folder, task.test[0]).read_text().splitlines()[1:]
        wanted = [line.split("\t")[1] for line in lines]
        texts = load_examples(task, task.test[0], search.data_dir(task)).texts
        answer = pipeline("text-classification", model=str(model), truncation=True)
        assert answer.tokenizer.model_max_length == 24
        rows = [dict(zip(("text", "text_pair"), row, strict=False)) for row in texts]
        found = answer(rows)
        if task.is_regression:
            low, high = task.score_range
            scores = [min(high, max(low, one["score"])) for one in found]
            assert scores == pytest.approx([float(word) for word in wanted], abs=2e-5)
        else:
            assert [one["label"] for one in found] == wanted
            assert answer.model.config.id2label == dict(enumerate(task.labels))
        facts = read_json(model / "config.json")["finetuned_task"]
        assert facts["name"] == name and facts["text_columns"] == list(task.text_columns)


def test_a_kept_tokenizer_has_nothing_of_the_texts_before(config):
    """It would depend on the worker's earlier jobs, and truncate the user's texts in silence."""
    finetune(config)
    for model in models(config):
        found = read_json(model / "tokenizer.json")
        assert found["truncation"] is None and found["padding"] is None


def test_a_card_tells_results_and_settings_and_no_text(config):
    finetune(config)
    for name, folder in best_folders(config).items():
        task, card = find_task(name), (model_path(folder) / "README.md").read_text()
        assert f"# A model for {name}" in card and "| learning_rate | 0.001 |" in card
        result = read_json(folder / "result.json")
        for metric, value in result["dev"]["dev"].items():
            assert f"| {metric.replace('_', ' ')} | {round(value, 4)} |" in card
        texts = load_examples(task, task.dev[0], load_search(config).data_dir(task)).texts
        assert not any(text in card for row in texts for text in row)


def test_the_result_stage_adds_intervals_to_cards_that_nobody_has_changed(config):
    config.FINETUNE.SEEDS = [1, 2]
    finetune(config)
    cards = {
        name: model_path(folder) / "README.md" for name, folder in best_folders(config).items()
    }
    texts = load_examples(find_task("CoLA"), find_task("CoLA").dev[0], load_search(config).data_dir(
        find_task("CoLA")
    )).texts  # fmt: skip
    assert "95 % interval" not in cards["CoLA"].read_text()
    mine = cards["STS-B"].read_text().replace("a score", "my score")
    cards["STS-B"].write_text(mine)
    collect_test_result(config)
    assert cards["STS-B"].read_text() == mine
    card = cards["CoLA"].read_text()
    assert "| | this model | mean over 2 seeds | 95 % interval |" in card
    assert "the best of 4 runs was chosen" in card and is_unchanged(card)
    assert not any(text in card for row in texts for text in row)
    assert finetune_artifact(config).status().done


def test_the_dev_predictions_of_every_run_have_its_scores(config):
    finetune(config)
    search = load_search(config)
    for job in search.jobs:
        task, folder = find_task(job.task), search.job_dir(job)
        found = read_json(folder / "result.json")
        path = dev_predictions_path(folder, task.dev[0])
        assert path.name in found["files"]
        metrics = estimates(task, [{"dev": read_dev_predictions(path)}]).metrics["dev"]
        for name, value in found["dev"]["dev"].items():
            # The tiny model's scores of STS-B are nearly equal: 6 decimals make ties.
            error = 2e-3 if task.is_regression else 1e-5
            assert metrics[name].value == pytest.approx(value, abs=error)
        path.write_text(path.read_text().replace("0.", "0,", 1))
        assert search.make_run(job, None).result is None
    assert "dev.tsv is damaged" in finetune_artifact(config).status().reason


def test_a_card_may_be_changed_and_weights_may_not(config):
    finetune(config)
    [model, *_] = models(config)
    (model / "README.md").write_text("Mine.")
    assert finetune_artifact(config).status().done
    (model / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is damaged" in finetune_artifact(config).status().reason


def test_other_models_to_keep_run_only_the_jobs_without_one(config, capsys):
    config.FINETUNE.KEEP_MODELS = "none"
    finetune(config)
    assert models(config) == [] and finetune_artifact(config).status().done
    before = best_folders(config)
    config.FINETUNE.KEEP_MODELS = "best"
    status = finetune_artifact(config).status()
    assert status.state == "extended" and "FINETUNE.KEEP_MODELS" in status.reason
    capsys.readouterr()
    finetune(config)
    assert capsys.readouterr().out.count("as its model is needed and was not kept") == 2
    assert [path.parent for path in models(config)] == sorted(before.values())
    config.FINETUNE.KEEP_MODELS = "all"
    finetune(config)
    assert capsys.readouterr().out.count("as its model is needed and was not kept") == 1
    assert len(models(config)) == 3
    config.FINETUNE.KEEP_MODELS = "best"
    finetune(config)
    assert len(models(config)) == 2 and finetune_artifact(config).status().done
    assert load_tokenizer(str(models(config)[0])).model_max_length == 24
