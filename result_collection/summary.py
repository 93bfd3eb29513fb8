"""Summary of a search: the best setting of each task, its dev scores, and averages."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from finetune.data.tasks import TASKS, Task
from finetune.evaluation.resampling import TaskEstimates, average
from finetune.search.job_folder import OPTIONAL_KEYS

# Explains the numbers wherever they are shown.
SCORING = (
    "dev scores x 100; a task's score is the mean of its metrics (and of its dev sets), of several "
    "seeds the median; the best setting has the highest score, of equals the fewer epochs, then "
    "the lower learning rate, then the larger batch; of its seeds the best run is submitted"
)
OWN = "own tasks"  # in place of a benchmark's name
WNLI = "WNLI"
# Facts of the submitted run on its data; old results lack some.
RUN_FACTS = ("max_seq_length", "tokenization", "only_label", *OPTIONAL_KEYS)
Run = Mapping[str, Any]  # of the search's summary
Estimates = Mapping[str, TaskEstimates]  # by task


def summarize(
    tasks: Sequence[Task],
    search: Mapping[str, Any],
    sources: Mapping[str, str],
    estimates: Estimates | None = None,
) -> dict[str, Any]:
    """Returns the JSON-able summary of a finished search.

    tasks: the searched ones. search: the finetuning stage's summary. sources: origin of the data by
    benchmark. estimates: of the tasks with dev predictions; their rows, and averages over them, get
    `mean` (over the seeds) and its 95 % `interval`. Each benchmark has its own average; `lacks`
    names its missing tasks.
    """
    estimates = estimates or {}
    known = [task.name for task in TASKS]
    ordered = sorted(tasks, key=lambda t: known.index(t.name) if t.name in known else len(known))
    rows = [_row(task, search, estimates) for task in ordered]
    return {
        "split": "dev",
        "scoring": SCORING,
        "sources": dict(sources),
        "model": search["model"],
        "search": search["search"],
        "tasks": rows,
        "averages": _averages(rows, estimates),
    }


def runs_of_best(task: Task, search: Mapping[str, Any]) -> tuple[list[list[Run]], Run]:
    """Returns the scored runs of a task's best setting by seed, one or one per fold, and the
    submitted run."""
    runs = [run for run in search["runs"] if run["task"] == task.name]
    submitted = next(run for run in runs if run["setting"] == search["best"][task.name])
    return _by_seed([run for run in _scored(runs) if _is_same_setting(run, submitted)]), submitted


def _scored(runs: Sequence[Run]) -> list[Run]:
    """Returns all runs but the one on all rows after folds."""
    return [run for run in runs if run["score"] is not None]


def _is_same_setting(run: Run, other: Run) -> bool:
    return _setting_of(run) == _setting_of(other)


def _row(task: Task, search: Mapping[str, Any], estimates: Estimates) -> dict[str, Any]:
    runs = [run for run in search["runs"] if run["task"] == task.name]
    by_seed, submitted = runs_of_best(task, search)
    settings = _settings(_scored(runs), _setting_of(submitted))
    same = [run for of_seed in by_seed for run in of_seed]
    own = [run for run in same if run["seed"] == submitted["seed"]]
    row = {
        "task": task.name,
        "benchmark": task.benchmark or OWN,
        **next(setting for setting in settings if setting["is_best"]),
        "metrics": _metrics(task, same),
        **(_estimated(task, estimates[task.name]) if task.name in estimates else {}),
        "num_seeds": len(by_seed),
        "num_folds": len(own) if submitted["score"] is None else 0,
        "num_runs": len(runs),
        "num_malformed_rows": submitted.get("num_malformed_rows", 0),
        "num_unlabelled_rows": submitted.get("num_unlabelled_rows", 0),
        **{key: submitted[key] for key in RUN_FACTS if key in submitted},
        "seconds": sum(run["seconds"] for run in runs),
        "majority": _majority(own),
        "stilt": submitted["stilt"],
        "submitted": {
            **{key: submitted[key] for key in ("setting", "seed")},
            "score": mean(run["score"] for run in own),
        },
        "settings": settings,
    }
    return {**row, "submits_majority": _submits_majority(row)}


def _setting_of(run: Mapping[str, Any]) -> tuple[float, int, float]:
    return run["epochs"], run["batch_size"], run["learning_rate"]


def _settings(runs: Sequence[Mapping[str, Any]], best: tuple) -> list[dict[str, Any]]:
    """Returns each setting with the median over its seeds (of the means over folds), and the range
    of all its runs if there are several."""
    scores: dict[tuple, list[Mapping[str, Any]]] = {}
    for run in runs:
        scores.setdefault(_setting_of(run), []).append(run)
    return [
        {
            **dict(zip(("epochs", "batch_size", "learning_rate"), setting, strict=True)),
            "score": _median_over_seeds(found, lambda run: run["score"]),
            "spread": _spread([run["score"] for run in found]),
            "is_best": setting == best,
        }
        for setting, found in sorted(scores.items())
    ]


def _spread(scores: Sequence[float]) -> dict[str, float]:
    """Returns min, max and sample standard deviation; empty for a single score."""
    if len(scores) < 2:
        return {}
    return {"min": min(scores), "max": max(scores), "stdev": stdev(scores)}


def _by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Returns the runs of each seed: one, or one per fold."""
    seeds = dict.fromkeys(run["seed"] for run in runs)
    return [[run for run in runs if run["seed"] == seed] for seed in seeds]


def _median_over_seeds(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return median(mean(map(value, of_seed)) for of_seed in _by_seed(runs))


def _majority(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the label and the score of the constant answer, the mean over folds."""
    found = [run["majority"] for run in runs]
    if not all(found):
        return {}
    return {**found[0], "score": mean(majority["score"] for majority in found)}


def _metrics(task: Task, runs: Sequence[Run]) -> dict[str, float]:
    """Returns the median over the seeds of each metric of each dev set."""

    def value(split: str, metric: str) -> float:
        return _median_over_seeds(runs, lambda run: run["dev"][split][metric])

    return {
        _metric_name(task, split, metric): value(split, metric)
        for split, metrics in runs[0]["dev"].items()
        for metric in metrics
    }


def _estimated(task: Task, found: TaskEstimates) -> dict[str, Any]:
    """Returns means over the seeds and their 95 % intervals, of the score and of the metrics."""
    return {
        "mean": found.score.value,
        "interval": list(found.score.interval),
        "metric_estimates": {
            _metric_name(task, split, metric): {
                "mean": estimate.value,
                "interval": list(estimate.interval),
            }
            for split, metrics in found.metrics.items()
            for metric, estimate in metrics.items()
        },
    }


def _metric_name(task: Task, split: str, metric: str) -> str:
    """Returns `accuracy`, or `matched accuracy` of several dev sets.

    The F1 score of a custom task names its positive label: `f1 of yes`.
    """
    name = metric.replace("_", " ")
    if metric == "f1" and not task.benchmark:
        name = f"f1 of {list(task.labels)[1]}"
    return name if len(task.dev) < 2 else f"{split.removeprefix('dev_')} {name}"


def _submits_majority(row: Mapping[str, Any]) -> bool:
    """True for WNLI unless the search beat the majority label.

    WNLI's dev set contradicts its training set, so that trained models are worse than a constant.
    """
    majority = row["majority"]
    return row["task"] == WNLI and bool(majority) and row["score"] <= majority["score"]


def _averages(rows: Sequence[Mapping[str, Any]], estimates: Estimates) -> list[dict[str, Any]]:
    """Returns an average for each benchmark, and one without WNLI, as in many papers."""
    averages = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        own = {row["task"]: row["score"] for row in rows if row["benchmark"] == benchmark}
        all_tasks = [task.name for task in TASKS if task.benchmark == benchmark]
        averages.append(_average(benchmark, own, all_tasks, estimates))
        if WNLI in own and len(own) > 1:
            own.pop(WNLI)
            all_tasks.remove(WNLI)
            averages.append(_average(f"{benchmark} without {WNLI}", own, all_tasks, estimates))
    return averages


def _average(
    name: str, scores: Mapping[str, float], all_tasks: Sequence[str], estimates: Estimates
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "value": mean(scores.values()),
        "over": list(scores),
        "lacks": [task for task in all_tasks if task not in scores],
    }
    if scores.keys() <= estimates.keys():
        estimate = average([estimates[task].score for task in scores])
        found |= {"mean": estimate.value, "interval": list(estimate.interval)}
    return found
