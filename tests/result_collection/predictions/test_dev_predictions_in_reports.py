"""Dev predictions in summaries, reports and comparisons; a row's text only if it is asked for."""

import json
import re
import shutil
from pathlib import Path

import pytest

from configs.defaults import custom_task_node, get_default_config
from finetune.data.examples import load_examples
from finetune.evaluation.paired import ModelRuns, compare
from finetune.evaluation.prediction_files import read_dev_predictions
from finetune.search.job_folder import RESULT
from pipeline.store.atomic_files import write_sealed, write_text
from pipeline.store.checksums import FILES
from pipeline.store.record_files import read_json, read_sealed
from result_collection.predictions.best_runs import best_runs
from result_collection.report import main
from result_collection.stage import collect_test_result
from result_collection.summary_text import interval_text
from tests.plans import finetune_artifact, load_search, result_artifact
from tests.result_collection.finished_search import finish_search

pytestmark = pytest.mark.slow
WORD = "zanzibar"
LABELS = ("left", "middle", "right")


def config_of(folder, name, text=WORD):
    """Returns the config of a search over a task of one's own with 90 dev rows and a broken one."""
    rows = [f"{text} {i} {LABELS[i % 3]}\t{LABELS[i % 3]}" for i in range(90)]
    rows.insert(10, "broken\tby\ttabs")
    for split in ("train", "dev"):
        write_text(folder / f"{split}.tsv", "\n".join(["text\tlabel", *rows]) + "\n")
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(folder / "root")
    write_text(folder / "model" / "config.json", "{}")
    config.FINETUNE.MODEL_NAME_OR_PATH, config.FINETUNE.ID = str(folder / "model"), name
    config.FINETUNE.TASKS, config.FINETUNE.STILT_TASKS = ["own", "CoLA"], []
    config.FINETUNE.GLUE_DIR, config.FINETUNE.SEEDS = "builtin:demo", [1, 2]
    own = config.FINETUNE.CUSTOM_TASKS["own"] = custom_task_node()
    own.TRAIN, own.DEV = str(folder / "train.tsv"), str(folder / "dev.tsv")
    own.TEXT_COLUMNS = ["text"]
    for task in ("DEFAULT", "CoLA"):
        grid = config.FINETUNE.GRID[task]
        grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = [3], [16], [1e-5, 1e-3]
    return config


def collected(config, signal: float):
    finish_search(config, signal=signal)
    collect_test_result(config)
    return result_artifact(config).directory


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The config and the results folder of a good search, and the folder of a bad one."""
    folder = tmp_path_factory.mktemp("searches")
    config = config_of(folder, "good")
    good = collected(config, 2.5)
    return config, good, collected(config_of(folder, "bad"), 1.2)


def texts_in(folder) -> list[str]:
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and WORD.encode() in path.read_bytes()
    )


def test_text_is_in_the_report_alone_and_only_if_it_is_asked_for(results):
    config, folder, _ = results
    assert texts_in(folder) == []
    config = config.clone()
    config.RESULT_COLLECTION.SHOW_TEXT = True
    assert result_artifact(config).status().state == "changed"
    collect_test_result(config)
    assert texts_in(folder) == ["report.html", "report.json"]
    [mistake, *_] = read_json(folder / "report.json")["predictions"]["own"]["sets"]["dev"][
        "mistakes"
    ]
    number = int(mistake["row"])
    assert mistake["texts"] == [f"{WORD} {number} {LABELS[number % 3]}"]
    assert f">{mistake['texts'][0]}</td>" in (folder / "report.html").read_text()
    config.RESULT_COLLECTION.SHOW_TEXT = False
    collect_test_result(config)
    assert texts_in(folder) == []


def test_mistakes_are_named_by_row_and_line(results):
    config, folder, _ = results
    found = read_json(folder / "report.json")["predictions"]["own"]
    task = next(task for task in load_search(config).tasks if task.name == "own")
    examples = load_examples(task, task.dev[0], ".")
    mistakes = found["sets"]["dev"]["mistakes"]
    seed = folder / "dev_predictions" / "own" / f"seed{found['submitted']}"
    predictions = read_dev_predictions(seed / "dev.tsv")
    wrong = [int(row) for row in (predictions.labels != predictions.predictions).nonzero()[0]]
    assert sorted(int(mistake["row"]) for mistake in mistakes) == wrong
    page = (folder / "report.html").read_text()
    lines = Path(task.dev[0].files[0]).read_text().splitlines()
    for mistake in mistakes:
        name, _, number = mistake["place"].partition(":")
        text = examples.texts[int(mistake["row"])][0]
        assert name == "dev.tsv" and lines[int(number) - 1] == f"{text}\t{mistake['label']}"
        assert f"<td>{mistake['place']}</td>" in page
    assert any(int(m["place"].partition(":")[2]) - int(m["row"]) == 3 for m in mistakes)


def test_the_intervals_are_those_of_the_estimates(results):
    config, folder, _ = results
    found = read_json(finetune_artifact(config).directory / "summary.json")
    runs, reasons = best_runs(load_search(config), found)
    assert reasons == [] and set(runs["own"].by_seed) == {1, 2}
    summary = read_json(folder / "summary.json")
    for row in summary["tasks"]:
        assert row["interval"] == list(runs[row["task"]].estimates.score.interval)
        assert row["interval"][0] < row["mean"] < row["interval"][1]
        assert f">{interval_text(row)}<" in (folder / "report.html").read_text()
        assert interval_text(row).split("..")[0] in (folder / "summary.tsv").read_text()


def test_two_searches_are_compared_by_rows_wherever_they_are(results, tmp_path, capsys):
    config, good, bad = results
    output = tmp_path / "compare.html"
    for folder in (good, bad):
        shutil.copytree(folder, tmp_path / folder.name)
    folders = [str(tmp_path / folder.name) for folder in (bad, good)]
    assert main([*folders, "--output", str(output)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert re.match(r"task +A +B +B - A +95 % +more than chance", printed[0])
    cells = {line.split("  ")[0]: re.split("  +", line) for line in printed[2:]}
    task = next(task for task in load_search(config).tasks if task.name == "own")

    def model(folder) -> ModelRuns:
        paths = [folder / "dev_predictions" / "own" / f"seed{seed}" for seed in (1, 2)]
        return ModelRuns([{"dev": read_dev_predictions(path / "dev.tsv")} for path in paths], {})

    expected = compare(task, model(good), model(bad)).score
    low, high = (f"{100 * end:+.1f}".replace("-", "\N{MINUS SIGN}") for end in expected.interval)
    assert cells["own"][3:] == [f"{100 * expected.value:+.1f}", f"{low}..{high}", "yes"]
    assert cells["common tasks: average of 2 tasks"][-1] == "yes"
    assert "B - A is the difference of the means over the seeds" in "\n".join(printed)
    assert "more than chance" in output.read_text()
    assert main([folders[0], folders[0], "--output", str(output)]) == 0
    same = capsys.readouterr().out
    assert re.search(r"own .* 0\.0 +\S+\.\.\S+ +no", same)


def test_without_predictions_on_the_same_rows_it_says_why(results, tmp_path, capsys):
    _, good, bad = results
    arguments = ["--output", str(tmp_path / "compare.html")]
    other = tmp_path / "other"
    shutil.copytree(bad, other)
    report = read_json(other / "report.json")
    del report["predictions"]["CoLA"]
    write_text(other / "report.json", json.dumps(report))
    dev = other / "dev_predictions" / "own" / "seed1" / "dev.tsv"
    dev.write_text(dev.read_text().replace("\n5\t", "\n500\t"))
    assert main([str(good), str(other), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "CoLA: no interval of the difference, as B has no dev predictions of it" in printed
    assert "own: no interval of the difference, as own, dev: row " in printed
    assert re.search(r"^own +\S+ +\S+ +\S+$", printed, re.MULTILINE)  # the plain difference
    dev.unlink()
    assert main([str(good), str(other), *arguments]) == 0
    assert "dev.tsv: no such file" in capsys.readouterr().out


def test_results_of_an_old_version_have_no_intervals_and_stay_up_to_date(tmp_path, capsys):
    config = config_of(tmp_path, "old")
    finish_search(config, signal=2.0)
    search = load_search(config)
    for job in search.jobs:
        record = read_sealed(search.job_dir(job) / RESULT)
        record[FILES] = {}
        write_sealed(search.job_dir(job) / RESULT, record)
        (search.job_dir(job) / "dev.tsv").unlink()
    artifact = finetune_artifact(config)
    artifact.finish(artifact.manifest["results"])
    assert artifact.status().done
    collect_test_result(config)
    said = capsys.readouterr().out
    for task in ("own", "CoLA"):
        assert f"{task}: neither intervals nor mistakes are known, as its runs are of a" in said
    folder = result_artifact(config).directory
    assert "interval" not in read_json(folder / "summary.json")["tasks"][0]
    assert "The dev predictions of this search are not known" in (
        (folder / "report.html").read_text()
    )


def test_predictions_that_do_not_give_the_score_are_not_shown(tmp_path, capsys):
    config = config_of(tmp_path, "wrong")
    finish_search(config, signal=2.0)
    directory = finetune_artifact(config).directory
    summary = read_json(directory / "summary.json")
    for run in summary["runs"]:
        run["score"] = min(1.0, run["score"] + 0.05)
    write_text(directory / "summary.json", json.dumps(summary))
    artifact = finetune_artifact(config)
    artifact.finish(artifact.manifest["results"])
    collect_test_result(config)
    assert "own: neither intervals nor mistakes are known, as its dev predictions give a score" in (
        capsys.readouterr().out
    )
