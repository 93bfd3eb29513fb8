"""Tasks without dev rows: runs on folds of TRAIN, and a last one on all rows."""

from dataclasses import replace
from statistics import mean

import numpy as np
import pytest

from configs.defaults import custom_task_node, get_default_config
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import load_examples
from finetune.data.row_checks import notes_on_task
from finetune.data.task_data import task_inputs
from finetune.evaluation.dev_predictions import joined
from finetune.evaluation.prediction_files import read_dev_predictions
from finetune.evaluation.resampling import estimates
from finetune.search.grid import (
    ALL_ROWS,
    Grid,
    best_job,
    halving_jobs,
    median_scores,
    num_runs,
    plan_jobs,
    total_rows,
)
from finetune.search.job_folder import RESULT, model_path, predictions_path
from finetune.stage import finetune
from finetune.task_types.task_types import type_of
from pipeline.errors import ConfigError
from pipeline.store.record_files import read_json
from result_collection.stage import collect_test_result
from tests.plans import finetune_artifact, load_search

WORDS = {"good": ["fine", "nice"], "bad": ["awful", "poor"]}
ROWS = [
    (f"the {WORDS[label][i % 2]} thing {i} .", label, f"author {i // 4}")
    for i, label in enumerate(["good", "good", "bad"] * 20)
]


@pytest.fixture
def train_csv(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label,author\n" + "".join(f"{','.join(row)}\n" for row in ROWS))
    (tmp_path / "test.csv").write_text("text\nthe nice thing .\nthe poor thing .\n")
    return path


def make(train_csv, **keys):
    return custom_task("mine", TaskKeys(str(train_csv), "", ["text"], folds=5, **keys))


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["", "author"])
def test_each_row_is_in_one_fold_and_the_others_are_for_training(train_csv, group):
    task = make(train_csv, group_column=group)
    seen = []
    authors = {text: author for text, _, author in ROWS}
    for number in range(1, 6):
        run = task.in_fold(number)
        train, dev = (load_examples(run, split, ".") for split in (run.train, *run.dev))
        assert sorted(train.texts + dev.texts) == sorted((row[0],) for row in ROWS)
        assert len(dev.texts) == 12 and run.test == ()
        if group:
            sides = [{authors[text] for (text,) in part.texts} for part in (train, dev)]
            assert not sides[0] & sides[1]
        assert [ROWS[row][0] for (row,) in dev.keys] == [text for (text,) in dev.texts]
        assert [row + 2 for (row,) in dev.keys] == dev.lines and train.lines == []
        seen += dev.texts
    assert sorted(seen) == sorted((row[0],) for row in ROWS)
    assert task.in_fold(ALL_ROWS) == task and task.dev == ()
    assert len(load_examples(task, task.train, ".").texts) == len(ROWS)


def test_folds_are_in_the_plan_and_in_the_identity(train_csv):
    task = make(train_csv, group_column="author")
    assert "mine: dev: each of 5 folds of TRAIN in turn, stratified, no author in two of them" in [
        *notes_on_task(task, ".")
    ]
    keys = task_inputs(task, ".", False)["task_keys"]
    assert keys["folds"] == 5 and keys["group_column"] == "author"
    with pytest.raises(ConfigError, match=r"mine\.FOLDS: .*FOLDS is 5"):
        short = train_csv.with_name("short.csv")
        short.write_text("text,label\na,good\nb,bad\nc,bad\n")
        make(short)


# --- the search ---------------------------------------------------------------------------------


def test_the_best_job_has_the_best_mean_over_folds_and_learns_from_all_rows():
    jobs = plan_jobs({"mine": Grid((1, 2), (8,), (1e-3,))}, [1, 2], [], {"mine": 3})
    assert len(jobs) == 2 * 2 * 3 and {job.fold for job in jobs} == {1, 2, 3}
    assert len({job.setting for job in jobs}) == len(jobs)
    scores = {job: job.epochs / 10 + job.seed / 100 + job.fold / 1000 for job in jobs}
    medians = median_scores(scores)
    expected = mean(mean(0.1 + seed / 100 + fold / 1000 for fold in (1, 2, 3)) for seed in (1, 2))
    assert medians[replace(jobs[0], seed=0, fold=0)] == pytest.approx(expected)
    best = best_job(scores)
    assert (best.epochs, best.seed, best.fold) == (2, 2, ALL_ROWS)
    assert best.setting == "lr0.001_bs8_ep2_seed2_all"


def test_rows_and_runs_of_folds_count_in_the_plan():
    jobs = plan_jobs({"mine": Grid((1, 2), (8, 16), (1e-3,))}, [1], [], {"mine": 3})
    assert num_runs(jobs, "grid") == {1: 6, 2: 6}
    assert num_runs(jobs, "halving") == {1: 6, 2: 3}
    assert total_rows(jobs, "grid", {"mine": 300}) == 6 * 200 + 6 * 2 * 200 + 2 * 300
    scores = {job: job.batch_size / 100 for job in jobs if job.epochs == 1}
    chosen = halving_jobs(jobs, scores)
    assert {(job.epochs, job.batch_size) for job in chosen} == {(1, 8), (1, 16), (2, 16)}
    assert len(chosen) == 9


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_search_on_folds_keeps_the_model_of_all_rows(
    train_csv, tmp_path, tiny_model, monkeypatch, capsys
):
    monkeypatch.setattr("finetune.search.local_workers.num_cores", lambda: 1)
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.NUM_GPUS = str(tmp_path / "out"), 0
    config.FINETUNE.MODEL_NAME_OR_PATH, config.FINETUNE.TASKS = tiny_model, ["mine"]
    config.FINETUNE.STILT_TASKS, config.FINETUNE.MAX_SEQ_LENGTH = [], 16
    node = config.FINETUNE.CUSTOM_TASKS["mine"] = custom_task_node()
    node.TRAIN, node.TEST, node.TEXT_COLUMNS, node.FOLDS = (
        *(str(train_csv), str(tmp_path / "test.csv")),
        ["text"],
        3,
    )
    grid = config.FINETUNE.GRID.DEFAULT
    grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = [1, 2], [8], [1e-3]
    finetune(config)
    collect_test_result(config)
    said, search = capsys.readouterr().out, load_search(config)
    assert "7 runs (mine 7)" in said and "scores are means over 3 folds of TRAIN" in said
    results = [read_json(path) for path in (tmp_path / "out").glob(f"output/**/{RESULT}")]
    of_all = [result for result in results if result["score"] is None]
    assert len(results) == 7 and len(of_all) == 1 and of_all[0]["num_train_rows"] == len(ROWS)
    folder = search.task_dir("mine") / of_all[0]["setting"]
    assert [path.parent for path in search.task_dir("mine").glob("*/model")] == [folder]
    assert model_path(folder).is_dir()
    assert predictions_path(folder, search.tasks[0].test[0]).read_text().count("\n") == 3
    [row] = read_json(next((tmp_path / "out").glob("output_test*/**/summary.json")))["tasks"]
    scores = {}
    for result in results:
        if result["score"] is not None:
            setting = result["setting"].partition("_fold")[0]
            scores.setdefault(setting, []).append(result["score"])
    best = scores[of_all[0]["setting"].removesuffix("_all")]
    assert row["score"] == pytest.approx(mean(best)) == row["submitted"]["score"]
    assert row["score"] == pytest.approx(max(map(mean, scores.values())))
    assert (row["num_folds"], row["num_seeds"], row["num_runs"]) == (3, 1, 7)
    assert row["spread"]["max"] == max(best) and row["majority"]["label"] == "good"
    assert finetune_artifact(config).status().done
    files = sorted(
        search.task_dir("mine").glob(f"{folder.name.removesuffix('_all')}_fold*/dev.tsv")
    )
    out_of_fold = joined([read_dev_predictions(path) for path in files])
    assert sorted(out_of_fold.rows, key=int) == [str(row) for row in range(len(ROWS))]
    assert out_of_fold.gold == [ROWS[int(row)][1] for row in out_of_fold.rows]
    known = estimates(search.tasks[0].in_fold(1), [{"dev": out_of_fold}]).score
    assert row["interval"] == list(known.interval)
    results = next((tmp_path / "out").glob("output_test*/**/report.json"))
    [found] = read_json(results)["predictions"]["mine"]["sets"].values()
    assert found["num_rows"] == len(ROWS)
    assert found["num_mistakes"] == (out_of_fold.labels != out_of_fold.predictions).sum() > 0
    for mistake in found["mistakes"]:
        assert mistake["place"] == f"train.csv:{int(mistake['row']) + 2}"
    card = (model_path(folder) / "README.md").read_text()
    low, high = row["metric_estimates"]["accuracy"]["interval"]
    assert "| | mean over 3 folds | 95 % interval |" in card and "best of 7 runs" in card
    assert f"| accuracy | {round(row['score'], 4)} | {low:.3f} to {high:.3f} |" in card


# --- class weights ------------------------------------------------------------------------------


def test_balanced_classes_weigh_as_in_scikit_learn(train_csv):
    import torch
    from sklearn.utils.class_weight import compute_class_weight

    task = make(train_csv, class_weights="balanced")
    task_type, labels = type_of(task), np.array([0, 1, 1, 1, 1, 0, 1], np.int64)
    weights = task_type.class_weights(task, labels)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    assert weights == pytest.approx(expected) and weights.dtype == np.float32
    logits = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    found = task_type.summed_loss(logits, torch.tensor(labels), torch.tensor(weights))
    mean_loss = found / task_type.num_targets(labels, weights)
    loss = torch.nn.CrossEntropyLoss(torch.tensor(weights))(logits, torch.tensor(labels))
    assert mean_loss.item() == pytest.approx(loss.item())
    assert type_of(task).class_weights(make(train_csv), labels) is None
    assert task_inputs(task, ".", False)["task_keys"]["class_weights"] == "balanced"
