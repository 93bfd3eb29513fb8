"""The summary: which tasks, split, metrics and seeds a score stands for."""

import dataclasses
import re

import numpy as np
import pytest

from benchmarks.score_intervals import classes
from finetune.data.tasks import TASKS, find_task
from finetune.evaluation.resampling import average, estimates
from result_collection.summary import OWN, summarize
from result_collection.summary_text import as_text, as_tsv, headline, interval_text
from tests.result_collection.finished_search import tokenization

SOURCES = {"GLUE": "builtin:demo", "SuperGLUE": "folder", OWN: "FINETUNE.CUSTOM_TASKS"}


def run(task, scores, learning_rate=5e-5, seed=42, majority=0.5):
    """scores: split -> metric -> value."""
    values = [value for metrics in scores.values() for value in metrics.values()]
    return {
        **{"task": task, "setting": f"lr{learning_rate!r}_bs32_ep3_seed{seed}", "seed": seed},
        **{"epochs": 3, "batch_size": 32, "learning_rate": learning_rate, "stilt": False},
        **{"score": sum(values) / len(values), "dev": scores, "seconds": 1.0},
        "majority": {"label": "a", "score": majority},
    }


def search(*runs, best):
    return {"model": "model", "search": "grid", "best": best, "runs": list(runs)}


def summarize_single(**scores):
    runs = [run(task, {"dev": {"accuracy": score}}) for task, score in scores.items()]
    tasks = [find_task(task) for task in scores]
    return summarize(tasks, search(*runs, best={r["task"]: r["setting"] for r in runs}), SOURCES)


def test_the_label_of_an_own_tasks_f1_is_named_and_rows_that_were_left_out_are_counted():
    metrics = {"accuracy": 0.8, "f1": 0.9}
    labels = {"urgent": "urgent", "low": "low"}
    own = dataclasses.replace(find_task("MRPC"), name="own", benchmark="", labels=labels)
    runs = run("MRPC", {"dev": metrics}), run("own", {"dev": metrics})
    runs[1]["num_malformed_rows"] = 3
    found = search(*runs, best={r["task"]: r["setting"] for r in runs})
    text = as_text(summarize([find_task("MRPC"), own], found, SOURCES))
    assert "accuracy 80.0, f1 90.0" in text and "accuracy 80.0, f1 of low 90.0" in text
    assert "own: 3 rows of the training and dev files left out as unreadable" in text
    assert "MRPC: " not in text
    runs[1].update({"num_malformed_rows": 0, "num_unlabelled_rows": 1})
    text = as_text(summarize([find_task("MRPC"), own], found, SOURCES))
    assert "own: 1 row of the training and dev files left out as having no label" in text
    assert "unreadable" not in text


def facts(**facts) -> dict:
    """The summary of a run of RTE with these."""
    found = run("RTE", {"dev": {"accuracy": 0.6}}) | facts
    return summarize([find_task("RTE")], search(found, best={"RTE": found["setting"]}), SOURCES)


def test_what_the_model_has_not_seen_of_the_texts():
    splits = {"dev": tokenization(0.2, 0.1, 0.031), "train": tokenization(0.5, 0.3, 0.0)}
    found = facts(max_seq_length=64, max_seq_length_asked=512, tokenization=splits)
    text = as_text(found)
    assert (
        "RTE: up to 50.0 % of a set's samples are truncated to 64 tokens (30.0 % of its tokens are "
        "cut), 512 were asked for"
    ) in text
    assert "RTE: up to 3.1 % of a set's characters are unknown to the model's tokenizer" in text
    header, row, _ = (line.split("\t") for line in as_tsv(found).splitlines())
    assert header[-4:] == [
        *("tokens per sample", "% of samples truncated", "% of tokens cut"),
        "% of characters unknown",
    ]
    assert row[-4:] == [
        *("64", "train 50.0, dev 20.0", "train 30.0, dev 10.0", "train 0.0, dev 3.1")
    ]


def test_little_that_is_lost_is_no_note_and_old_results_have_none():
    splits = {"dev": tokenization(0.05, 0.05, 0.03)}
    assert "RTE: " not in as_text(facts(max_seq_length=64, tokenization=splits))
    assert "RTE: samples have at most 64 tokens, as the model has no more positions; 128 were" in (
        as_text(facts(max_seq_length=64, max_seq_length_asked=128, tokenization=splits))
    )
    assert "RTE: " not in as_text(facts()) and as_tsv(facts()).splitlines()[1].endswith("\t\t\t")


def test_a_model_that_always_answers_the_same_is_noted():
    said = "RTE: the submitted run answers entailment for every dev row, so its score is that of"
    assert said in as_text(facts(only_label="entailment"))
    assert "every dev row" not in as_text(facts(only_label=""))


def test_metrics_of_all_dev_sets():
    mnli = {"dev_matched": {"accuracy": 0.69}, "dev_mismatched": {"accuracy": 0.71}}
    mrpc = {"dev": {"accuracy": 0.8, "f1": 0.9}}
    found = search(
        run("MNLI", mnli),
        run("MRPC", mrpc),
        best=dict.fromkeys(("MNLI", "MRPC"), "lr5e-05_bs32_ep3_seed42"),
    )
    summary = summarize([find_task("MNLI"), find_task("MRPC")], found, SOURCES)
    assert summary["split"] == "dev"
    assert [row["task"] for row in summary["tasks"]] == ["MRPC", "MNLI"]
    [average] = summary["averages"]
    assert average["value"] == pytest.approx((0.85 + 0.7) / 2)
    assert average["over"] == ["MRPC", "MNLI"] and "CoLA" in average["lacks"]
    text = as_text(summary)
    assert "matched accuracy 69.0, mismatched accuracy 71.0" in text
    assert "accuracy 80.0, f1 90.0" in text
    assert "GLUE: average of 2 tasks  77.5" in text
    assert "GLUE from builtin:demo" in text and "AX are those of the submitted MNLI run" in text
    assert "not GLUE's average, it lacks CoLA, SST-2, STS-B, QQP, QNLI, RTE, WNLI" in text
    assert headline(summary) == "GLUE: average of 2 tasks 77.5 (dev, builtin:demo)"


def test_of_several_seeds_the_median_counts_and_the_best_is_submitted():
    scores = {1: 0.6, 2: 0.9, 3: 0.65}
    runs = [run("RTE", {"dev": {"accuracy": s}}, seed=seed) for seed, s in scores.items()]
    runs += [run("RTE", {"dev": {"accuracy": 0.95}}, 1e-5, seed=1)]
    found = search(*runs, best={"RTE": "lr5e-05_bs32_ep3_seed2"})
    [row] = summarize([find_task("RTE")], found, SOURCES)["tasks"]
    assert row["score"] == 0.65 and row["metrics"] == {"accuracy": 0.65}
    assert row["spread"]["min"] == 0.6 and row["spread"]["max"] == 0.9
    assert row["spread"]["stdev"] == pytest.approx(0.160728, abs=1e-6)
    assert row["submitted"] == {"setting": "lr5e-05_bs32_ep3_seed2", "seed": 2, "score": 0.9}
    assert row["num_runs"] == 4 and row["num_seeds"] == 3
    assert [(s["learning_rate"], s["is_best"]) for s in row["settings"]] == [
        (1e-5, False),
        (5e-5, True),
    ]


def test_benchmarks_are_never_averaged_together():
    own = dataclasses.replace(find_task("CoLA"), name="mine", benchmark="")
    runs = [
        run(name, {split: {"accuracy": score}})
        for name, split, score in (("mine", "dev", 0.2), ("CB", "val", 0.9), ("RTE", "dev", 0.5))
    ]
    found = search(*runs, best={r["task"]: r["setting"] for r in runs})
    averages = summarize([own, find_task("CB"), find_task("RTE")], found, SOURCES)["averages"]
    assert [(a["name"], a["value"], a["over"]) for a in averages] == [
        ("GLUE", 0.5, ["RTE"]),
        ("SuperGLUE", 0.9, ["CB"]),
        (OWN, 0.2, ["mine"]),
    ]
    assert averages[2]["lacks"] == []


def test_glue_without_wnli_is_named_so():
    names = [task.name for task in TASKS if task.benchmark == "GLUE"]
    scores = {name: 0.3 if name == "WNLI" else 0.8 for name in names}
    summary = summarize_single(**scores)
    glue, without = summary["averages"]
    assert glue["lacks"] == without["lacks"] == []
    assert glue["value"] == pytest.approx(6.7 / 9) and without["value"] == pytest.approx(0.8)
    assert "GLUE without WNLI: average of 8 tasks" in as_text(summary)
    assert summary["tasks"][-1]["submits_majority"]
    assert "the search did not beat the majority label (30.0 against 50.0" in as_text(summary)


def test_tsv_has_a_line_per_task():
    assert as_tsv(summarize_single(RTE=0.625)) == (
        "task\tbenchmark\tscore\tmean\t95 % from\t95 % to\tmin\tmax\tsd\tseeds\tmetrics (dev)"
        "\tmajority\truns\tbest setting\tsubmitted run\ttokens per sample"
        "\t% of samples truncated\t% of tokens cut\t% of characters unknown\n"
        "RTE\tGLUE\t62.5\t\t\t\t\t\t\t1\taccuracy 62.5\t50.0\t1\tlr5e-05_bs32_ep3"
        "\tlr5e-05_bs32_ep3_seed42\t\t\t\t\n"
        "average of 1 task\tGLUE\t62.5\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\n"
    )


# --- intervals ----------------------------------------------------------------------------------


def predicted(task, accuracy: float, seed: int) -> dict:
    """Returns a run's predictions on 200 dev rows."""
    labels = np.arange(200) % 2
    is_right = np.random.default_rng(seed).permutation(200) < 200 * accuracy
    return {"dev": classes(labels, np.where(is_right, labels, 1 - labels), tuple(task.labels))}


def test_intervals_are_those_of_the_estimates_and_the_range_gives_way_to_them():
    tasks = [find_task("RTE"), find_task("QNLI")]
    scores = {"RTE": {1: 0.6, 2: 0.8, 3: 0.65}, "QNLI": {1: 0.9}}
    known = {
        task.name: estimates(
            task, [predicted(task, value, seed) for seed, value in scores[task.name].items()]
        )
        for task in tasks
    }
    runs = [
        run(name, {"dev": {"accuracy": value}}, seed=seed)
        for name, by_seed in scores.items()
        for seed, value in by_seed.items()
    ]
    best = {"RTE": "lr5e-05_bs32_ep3_seed2", "QNLI": "lr5e-05_bs32_ep3_seed1"}
    summary = summarize(tasks, search(*runs, best=best), SOURCES, known)
    qnli, rte = summary["tasks"]
    for row in (qnli, rte):
        found = known[row["task"]].score
        assert row["interval"] == list(found.interval) and row["mean"] == found.value
        assert row["metric_estimates"]["accuracy"]["interval"] == row["interval"]
    assert rte["score"] == 0.65 and rte["mean"] == pytest.approx(0.6833, abs=1e-4)
    [average_row] = summary["averages"]
    of_both = average([known["QNLI"].score, known["RTE"].score])
    assert average_row["interval"] == list(of_both.interval)
    text = as_text(summary)
    assert re.match(r"task +score +95 % +sd +metrics", text) and "range" not in text
    assert interval_text(rte) in text and "means over the seeds: RTE 68.3" in text
    assert f"95 %: {interval_text(average_row)}; dev" in headline(summary)
    header, *rows = (line.split("\t") for line in as_tsv(summary).splitlines())
    assert {len(row) for row in rows} == {len(header)}
    low, high = (f"{100 * end:.1f}" for end in rte["interval"])
    assert dict(zip(header, rows[1], strict=True)).items() >= {
        "score": "65.0", "mean": "68.3", "95 % from": low, "95 % to": high
    }.items()  # fmt: skip
    del known["RTE"]  # of an old version
    [average_row] = summarize(tasks, search(*runs, best=best), SOURCES, known)["averages"]
    assert "interval" not in average_row
