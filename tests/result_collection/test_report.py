"""The report of a run, and the comparison of two."""

import json
import re
import shutil
from urllib.parse import quote

import pytest

from finetune.data.demo_glue import DEMO_DIGESTS
from pipeline.store.atomic_files import write_json
from pipeline.store.record_files import read_json
from result_collection.pages.charts import PALETTE, draw_scores
from result_collection.pages.comparison_page import comparison_page, score_rows
from result_collection.pages.numbers import amount, difference, epochs, points, rate
from result_collection.pages.page import TEMPLATES
from result_collection.pages.report_data import MAX_POINTS, columns
from result_collection.pages.run_page import report_page
from result_collection.predictions.comparison import Paired
from result_collection.report import main, results_folder
from result_collection.stage import collect_test_result
from tests.plans import result_artifact
from tests.result_collection.finished_search import (
    OWN_LABEL,
    OWN_TASK,
    SAMPLE_OF_TEXT,
    SECRET,
    make_finished_search,
)

pytestmark = pytest.mark.slow


def page(folder) -> str:
    return (folder / "report.html").read_text()


def test_each_chart_is_in_the_page_and_in_a_png_file(reported):
    _, folder = reported
    tasks = ("CoLA", "STS-B", "MNLI", "CB", OWN_TASK)
    names = {"scores", "pretraining-loss", "pretraining-throughput", "dataset-lengths"}
    names |= {f"grid-{task}" for task in tasks} | {f"curves-{task}" for task in tasks}
    names |= {f"reliability-{task}" for task in tasks if task != "STS-B"} | {"scatter-STS-B"}
    plots = {path.stem: path.read_bytes() for path in (folder / "plots").iterdir()}
    assert set(plots) == names
    assert all(content.startswith(b"\x89PNG") for content in plots.values())
    assert page(folder).count("<svg") == len(names)


def test_grids_show_settings_that_were_not_run(reported):
    _, folder = reported
    [grid] = re.findall(r'<figure id="chart-grid-CoLA">.*?</figure>', page(folder), re.DOTALL)
    # Left out: 1 of 4 rates with 5 epochs and 3 of 4 with 10, each for two batch sizes.
    assert grid.count(">not run</text>") == 2 * (1 + 3)
    summary = read_json(folder / "summary.json")
    scores = [f"{100 * s['score']:.1f}" for s in summary["tasks"][0]["settings"]]
    assert len(scores) == 2 * (4 + 3 + 1) and all(f">{score}</text>" in grid for score in scores)
    assert "successive halving" in page(folder)


def test_each_color_of_the_charts_has_a_light_and_a_dark_value():
    css = (TEMPLATES / "report.css").read_text()
    for name, color in PALETTE.items():
        light, dark = re.findall(rf"--{name}: (#\w+);", css)
        assert light == color and dark != color


def test_the_page_loads_nothing_and_runs_no_code_of_the_data(reported):
    _, folder = reported
    text = page(folder)
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?\s*(https?:)?//""", text)
    assert "<script" not in text and "<img" not in text and "@import" not in text
    assert OWN_TASK.replace("<", "&lt;").replace(">", "&gt;") in text
    assert json.dumps(OWN_LABEL)[1:-1] not in text


def test_all_text_of_a_report_is_escaped(reported):
    attack = """'"><b x>&"""

    def attacked(value, names: bool = False):
        if isinstance(value, dict):
            return {f"{k}{attack}" if names else k: attacked(v, names) for k, v in value.items()}
        if isinstance(value, list):
            return [attacked(item, names) for item in value]
        return f"{value}{attack}" if isinstance(value, str) else value

    report = attacked(read_json(reported[1] / "report.json"))
    report["config"] = {key: attacked(keys, True) for key, keys in report["config"].items()}
    for by_task in ("finetuning", "scored_by", "predictions"):
        report[by_task] = {f"{task}{attack}": data for task, data in report[by_task].items()}
    one = report_page(report, {"scores": draw_scores(report["summary"]["tasks"])})
    other = {**report, "pretraining": None, "finetuning": {}, "config": {"values": {}}}
    for text in (one, comparison_page(other, {**other, "config": report["config"]}, Paired())):
        assert "&#39;&#34;&gt;&lt;b x&gt;&amp;</code>" in text  # a key
        assert "<b x" not in text


def test_no_secrets_and_no_text_of_the_dataset(reported):
    config, folder = reported
    assert config.WANDB.API_KEY == SECRET
    for file in ("report.html", "report.json"):
        content = (folder / file).read_text()
        assert SECRET not in content and SAMPLE_OF_TEXT not in content


def test_facts_of_all_stages(reported):
    _, folder = reported
    text, report = page(folder), read_json(folder / "report.json")
    assert "508,916" in text and "30,522" in text  # the dataset's
    assert "95 s" in text or "2 min" in text  # that it took
    stages = {stage["stage"]: stage for stage in report["stages"]}
    assert stages["finetune"]["seconds"] == 310.0
    assert stages["pretrain"] == {  # its manifest has no times
        **{"stage": "pretrain", "seconds": None, "finished_at": None, "work": 200.0}
    }
    assert report["config"]["changed"]["FINETUNE.SEEDS"] == [42]
    assert "cannot be submitted" in text and "SST-2.tsv is missing" in text
    links = [path for _, path in report["links"] if path.endswith(".log")]
    assert len(links) >= 7 and all((folder / path).exists() for path in links)
    assert all(f'href="{quote(path)}"' in text for path in links)


def test_truncated_and_unknown_text(reported):
    _, folder = reported
    text, report = page(folder), read_json(folder / "report.json")
    [row] = [row for row in report["summary"]["tasks"] if row["task"] == "CoLA"]
    assert row["max_seq_length"] == 64 and row["tokenization"]["dev"]["truncated_share"] == 0.021
    [table] = re.findall(r"Truncated and unknown text.*?</table>", text, re.DOTALL)
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in table.split("<tr>")[1:]]
    expected = ["1,234", "64", "2.1 %", "0.0 %", "1.5 %", "0.0 %"]
    assert [row[1:] for row in rows if row[0] == "CoLA"] == [
        [split, *expected] for split in ("train", "dev", "test")
    ]
    assert "CoLA: samples have at most 64 tokens" in text


@pytest.fixture(scope="module")
def external(tmp_path_factory):
    """The results folder of an external model with one own task."""
    folder = tmp_path_factory.mktemp("external")
    config = make_finished_search(folder, [OWN_TASK], (1,), epochs=(3,), external=True)
    collect_test_result(config)
    return result_artifact(config).directory


def test_draws_reports_of_old_versions(external, tmp_path):
    assert "Truncated and unknown text" in page(external)
    report = read_json(external / "report.json")
    for key in ("finetune_id", "scored_by"):
        del report[key]
    for row in report["summary"]["tasks"]:
        for key in ("max_seq_length", "max_seq_length_asked", "tokenization", "only_label"):
            del row[key]
    write_json(tmp_path / "report.json", report)
    assert main([str(tmp_path)]) == 0
    assert "Truncated and unknown text" not in page(tmp_path) and "Scores" in page(tmp_path)


def test_an_external_model_has_no_pretraining_to_show(external):
    text = page(external)
    assert "was not pretrained by this run" in text and "No dataset was prepared" in text
    assert "chart-pretraining-loss" not in text


def test_drawing_again_gives_the_same_page(external, tmp_path, capsys):
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(external / "report.json", again)
    capsys.readouterr()
    assert main([str(again)]) == 0
    assert capsys.readouterr().out.strip() == str(again / "report.html")
    assert page(again) == page(external)
    assert main([str(tmp_path)]) == 2
    assert "report.json: no report" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.zip", "run-superglue-partial-not-for-submission.zip"])
def test_finds_the_results_folder_from_a_file_in_it_or_from_its_zip(tmp_path, name, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path / 'nothing'}: no such folder" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "ru").mkdir()
    (tmp_path / name).write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "report.html", tmp_path / name):
        assert results_folder(path) == tmp_path / "run"


def test_compares_two_runs(reported, tmp_path, capsys):
    _, first = reported
    second = tmp_path / "second"
    report = read_json(first / "report.json")
    report["config"]["values"]["PRETRAIN.LEARNING_RATE"] = 0.5
    report["pretraining"]["train"]["loss"] = [7.0] * 20
    [cola] = [row for row in report["summary"]["tasks"] if row["task"] == "CoLA"]
    cola["score"] -= 0.1
    dropped = [report["summary"]["tasks"].pop()["task"] for _ in range(3)]
    report["finetuning"] = {task: report["finetuning"][task] for task in ("CoLA", "STS-B")}
    write_json(second / "report.json", report)

    output = tmp_path / "compared.html"
    assert main([str(first), str(second), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"CoLA +\d+\.\d +\d+\.\d +−10\.0", printed)
    for task in dropped:  # no score of B
        assert re.search(rf"{re.escape(task)} +\d+\.\d *\n", printed)
    assert printed.strip().endswith(str(output))
    text = output.read_text()
    [config] = re.findall(r'<div class="config">.*?</table>', text, re.DOTALL)
    assert re.findall(r"<code>(.*?)</code>", config) == ["PRETRAIN.LEARNING_RATE"]
    assert text.count("<svg") == 2 + 2 and "A, training" in text and "B, training" in text


def test_averages_over_different_tasks_have_no_difference():
    def report(*tasks: str) -> dict:
        rows = [{"task": task, "score": 0.5} for task in tasks]
        average = {"name": "GLUE", "over": list(tasks), "value": 0.5}
        return {"summary": {"tasks": rows, "averages": [average]}}

    both = report("CoLA", "RTE")
    *_, same = score_rows(both, both, Paired())
    assert same == ["GLUE: average of 2 tasks", "50.0", "50.0", "0.0"]
    *_, first, second = score_rows(both, report("CoLA", "MRPC"), Paired())
    assert first == ["GLUE: average of 2 tasks (CoLA, RTE)", "50.0", "", ""]
    assert second == ["GLUE: average of 2 tasks (CoLA, MRPC)", "", "50.0", ""]


@pytest.mark.parametrize(
    "other", [{"dev": {"dev": "bb.tsv"}, "metrics": ["f1"]}, {"dev": "nyu-mll/glue", "metrics": []}]
)
def test_scores_on_different_dev_data_have_no_difference(other):
    def report(score: float, **scored_by) -> dict:
        rows = [{"task": task, "score": score} for task in ("CoLA", "RTE")]
        averages = [
            {"name": name, "over": tasks, "value": score}
            for name, tasks in (("GLUE", ["CoLA", "RTE"]), ("GLUE without CoLA", ["RTE"]))
        ]
        return {"summary": {"tasks": rows, "averages": averages}, "scored_by": scored_by}

    same = {"dev": {"dev": "aa.tsv"}, "metrics": ["f1"]}
    first, second = report(0.5, CoLA=same, RTE=same), report(0.75, CoLA=other, RTE=same)
    _, cola, rte, average, without = score_rows(first, second, Paired())
    assert cola == ["CoLA", "50.0", "75.0", "different dev data or metrics"]
    assert rte == ["RTE", "50.0", "75.0", "+25.0"]
    assert average[1:] == ["50.0", "75.0", "different dev data or metrics"]
    assert without[-1] == "+25.0"


def test_a_report_records_dev_data_and_metrics(reported):
    _, folder = reported
    found = read_json(folder / "report.json")["scored_by"]
    assert set(found) == {"CoLA", "STS-B", "MNLI", "CB", OWN_TASK}
    assert set(found["MNLI"]["dev"]) == {"dev_matched", "dev_mismatched"}
    assert found["CoLA"]["dev"] == {"dev": DEMO_DIGESTS["CoLA/dev.tsv"] + ".tsv"}
    assert found["STS-B"]["metrics"] == ["pearson", "spearman"]


def test_long_logs_are_sampled_and_keep_their_ends():
    lines = [{"step": step, "loss": 1.0} for step in range(100_001)]
    kept = columns(lines, ("step", "loss", "lr"))
    assert len(kept["step"]) == len(kept["lr"]) <= MAX_POINTS + 1
    assert kept["step"][0] == 0 and kept["step"][-1] == 100_000 and set(kept["lr"]) == {None}
    assert columns([], ("step",)) == {"step": []}


def test_texts_of_numbers():
    assert [rate(value) for value in (0, 1e-5, 3e-4, 1e-3, 0.5)] == [
        *("0", "1e-5", "3e-4", "0.001", "0.5")
    ]
    assert [amount(value) for value in (0, 950, 9500, 23000, 1.2e6, 0.25)] == [
        *("0", "950", "9,500", "23k", "1.2M", "0.25")
    ]
    assert [points(value) for value in (0.861, -0.0004, -0.042)] == ["86.1", "0.0", "-4.2"]
    assert [epochs(number) for number in (1, 3, 0.5)] == ["1 epoch", "3 epochs", "0.5 epochs"]
    assert [difference(value) for value in (0.0041, -0.12, 0.0001, -0.0001)] == [
        *("+0.4", "−12.0", "0.0", "0.0")
    ]


def test_a_foreign_report_writes_only_in_its_folder(external, tmp_path, capsys):
    mine, pictures = tmp_path / "mine", tmp_path / "pictures"
    for folder in (mine, pictures):
        folder.mkdir()
    (pictures / "holiday.png").write_text("")
    (mine / "plots").symlink_to(pictures)
    shutil.copy(external / "report.json", mine)
    assert main([str(mine)]) == 0
    assert [path.name for path in pictures.iterdir()] == ["holiday.png"]
    assert (mine / "plots" / "scores.png").exists()

    report = read_json(mine / "report.json")
    report["summary"]["tasks"][0]["task"] = "x/../../../outside"
    write_json(mine / "report.json", report)
    assert main([str(mine)]) == 2
    assert "report.json: no report" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "pictures"}
