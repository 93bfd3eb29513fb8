"""The stage on a tiny model: real runs, resume, failures that name themselves."""

import pytest

from configs.defaults import get_default_config
from finetune.artifact import finetune_artifact, load_search
from finetune.demo_glue import write_demo_glue
from finetune.runs import RESULT
from finetune.stage import finetune
from pipeline.artifacts import read_json
from pipeline.errors import ConfigError, StageError


@pytest.fixture
def config(tmp_path, tiny_model, monkeypatch):
    """MNLI in two settings and RTE from the best of them, on the demo benchmark."""
    monkeypatch.setattr("finetune.slots.num_cores", lambda: 1)  # each worker has to import torch
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path)
    config.SYSTEM.NUM_GPUS = 0
    config.FINETUNE.MODEL_NAME_OR_PATH = tiny_model
    config.FINETUNE.GLUE_DIR = "builtin:demo"
    config.FINETUNE.TASKS = ["RTE", "MNLI"]
    for name, epochs in (("DEFAULT", [1]), ("MNLI", [1, 2])):
        grid = config.FINETUNE.GRID[name]
        grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = epochs, [32], [1e-3]
    return config


def result_files(config) -> dict:
    root = load_search(config).root / "output" / "finetune"
    return {path: path.stat().st_mtime_ns for path in sorted(root.glob(f"**/{RESULT}"))}


def planned_runs(config) -> list:
    """The runs of the search, those of RTE starting from the better MNLI job."""
    search = load_search(config)
    [best] = [
        job
        for job in search.jobs
        if job.task == "MNLI" and job.setting == best_settings(config)["MNLI"]
    ]
    return [search.make_run(job, best if job.stilt else None) for job in search.jobs]


def best_settings(config) -> dict:
    return read_json(finetune_artifact(config).directory / "summary.json")["best"]


def scores(config) -> dict:
    summary = read_json(finetune_artifact(config).directory / "summary.json")
    return {(run["task"], run["setting"]): run["dev"] for run in summary["runs"]}


def test_runs_resumes_and_reruns_what_changed(config, capsys, tmp_path):
    finetune(config)
    assert finetune_artifact(config).status().done
    before, first_scores = result_files(config), scores(config)
    assert len(before) == 3
    models = list(tmp_path.glob("output/finetune/*/*/*/*/model"))
    assert [model.parents[2].name for model in models] == ["MNLI"]  # only the best one's
    finetune(config)
    assert "up to date" in capsys.readouterr().out and result_files(config) == before

    rte = next(path for path in before if path.parents[2].name == "RTE")
    rte.unlink()  # as if killed before that run was done
    (finetune_artifact(config).directory / "manifest.json").unlink()
    finetune(config)
    assert "3 runs (MNLI 2, RTE 1), 2 of them done" in capsys.readouterr().out
    after = result_files(config)
    assert [path for path in before if before[path] != after[path]] == [rte]
    assert scores(config) == first_scores  # a job's result depends on nothing else

    config.FINETUNE.GRID.RTE.LEARNING_RATES = [1e-3, 5e-4]
    assert sum(run.result is not None for run in planned_runs(config)) == 3  # one is new
    config.FINETUNE.WEIGHT_DECAY = 0.2
    assert all(run.result is None for run in planned_runs(config))


def test_a_failing_run_is_named_and_the_others_are_kept(config, tmp_path):
    glue = tmp_path / "glue"
    write_demo_glue(glue)
    (glue / "CoLA" / "dev.tsv").write_text("demo\tperhaps\t\tA sentence .\n")
    config.FINETUNE.GLUE_DIR = str(glue)
    config.FINETUNE.TASKS = ["CoLA", "WNLI"]
    with pytest.raises(StageError) as error:
        finetune(config)
    setting = "lr0.001_bs32_ep1_seed42"
    assert f"1 of 2 runs failed; CoLA {setting} failed, StageError: " in error.value.cause
    assert error.value.cause.endswith("1 results are kept for the next run")
    [log] = tmp_path.glob("log/finetune/*/CoLA/*/*.log")
    assert log.stem == setting and "dev.tsv:1: label 'perhaps', expected" in log.read_text()
    [kept] = result_files(config)
    assert kept.parents[2].name == "WNLI" and not finetune_artifact(config).status().done

    (glue / "CoLA" / "dev.tsv").write_text("demo\t1\t\tA sentence .\n")
    finetune(config)
    assert set(scores(config)) == {("CoLA", setting), ("WNLI", setting)}


def test_predictions_of_all_test_sets_and_ax(config, tmp_path):
    config.FINETUNE.TASKS = ["MNLI"]
    config.FINETUNE.GRID.MNLI.EPOCHS = [1]
    finetune(config)
    files = {path.name: path for path in tmp_path.glob("output/finetune/**/predictions_*.tsv")}
    lines = files["predictions_diagnostic.tsv"].read_text().splitlines()
    assert set(files) == {
        "predictions_test_matched.tsv",
        "predictions_test_mismatched.tsv",
        "predictions_diagnostic.tsv",
    }
    assert lines[0] == "index\tprediction" and len(lines) == 61
    words = {line.split("\t")[1] for line in lines[1:]}
    assert words <= {"entailment", "neutral", "contradiction"}


def test_planning_writes_nothing_and_names_what_is_missing(config, tmp_path):
    finetune_artifact(config)
    assert list(tmp_path.iterdir()) == []
    config.FINETUNE.GLUE_DIR = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"FINETUNE\.GLUE_DIR: no such folder"):
        finetune_artifact(config)
    write_demo_glue(tmp_path / "glue")
    (tmp_path / "glue" / "MNLI" / "dev_mismatched.tsv").unlink()
    config.FINETUNE.GLUE_DIR = str(tmp_path / "glue")
    with pytest.raises(ConfigError, match=r"FINETUNE\.GLUE_DIR: no file MNLI/dev_mismatched\.tsv"):
        finetune_artifact(config)
    config.FINETUNE.GLUE_DIR, config.FINETUNE.TASKS = "builtin:demo", ["RTE"]
    with pytest.raises(ConfigError, match=r"FINETUNE\.STILT_TASKS: RTE .* add MNLI"):
        finetune_artifact(config)


def test_identity_follows_what_matters(config, tmp_path):
    before = finetune_artifact(config).fingerprint
    config.SYSTEM.NUM_WORKERS = 1
    config.FINETUNE.EVAL_BATCH_SIZE = 7
    config.FINETUNE.TASKS = ["MNLI", "RTE"]
    config.FINETUNE.GRID.CoLA.EPOCHS = [7]  # not searched
    assert finetune_artifact(config).fingerprint == before
    config.FINETUNE.GRID.RTE.EPOCHS = [2]
    assert finetune_artifact(config).fingerprint != before


def test_a_missing_pretrained_model_says_what_to_run(config):
    config.FINETUNE.MODEL_NAME_OR_PATH = ""
    config.DATASET.CUSTOMIZED_DATASETS = ["builtin:python-docs"]
    config.TOKENIZER.TRAIN = True
    with pytest.raises(StageError, match=r"the pretrained model is not there.*--stages pretrain"):
        finetune(config)
