"""Summary of a search: the best setting of each task, its dev scores, and averages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from dataset.tokenizers.unknown_text import WARNING_SHARE
from finetune.data.tasks import TASKS, Task
from finetune.data.token_counts import WARN_CUT
from finetune.search.job_folder import ASKED_LENGTH, OPTIONAL_KEYS
from pipeline.console import table
from result_collection.entity_notes import notes_on_entities
from result_collection.label_set_notes import notes_on_label_sets
from result_collection.pages.numbers import points

# Explains the numbers wherever they are shown.
SCORING = (
    "dev scores x 100; a task's score is the mean of its metrics (and of its dev sets), of several "
    "seeds the median; the best setting has the highest score, of equals the fewer epochs, then "
    "the lower learning rate, then the larger batch; of its seeds the best run is submitted"
)
OWN = "own tasks"  # in place of a benchmark's name
WNLI = "WNLI"
DIAGNOSTICS = {
    "MNLI": "predictions for AX are those of the submitted MNLI run",
    "SuperGLUE-RTE": "predictions for AX-b and AX-g are those of the submitted SuperGLUE-RTE run",
}
SPREAD = ("min", "max", "stdev")
TSV_HEADER = [
    *("task", "benchmark", "score", "min", "max", "sd", "seeds", "metrics (dev)", "majority"),
    *("runs", "best setting", "submitted run", "tokens per sample"),
    *("% of samples truncated", "% of tokens cut", "% of characters unknown"),
]
# Shares of a split's tokenization, in the order of the columns.
SHARES = ("truncated_share", "cut_share", "unknown_character_share")
# Facts of the submitted run on its data; old results lack some.
RUN_FACTS = ("max_seq_length", "tokenization", "only_label", *OPTIONAL_KEYS)
Run = Mapping[str, Any]  # of the search's summary


def summarize(
    tasks: Sequence[Task], search: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the JSON-able summary of a finished search.

    tasks: the searched ones. search: the finetuning stage's summary. sources: origin of the data by
    benchmark. Each benchmark has its own average; `lacks` names its missing tasks.
    """
    known = [task.name for task in TASKS]
    ordered = sorted(tasks, key=lambda t: known.index(t.name) if t.name in known else len(known))
    rows = [_row(task, search) for task in ordered]
    return {
        "split": "dev",
        "scoring": SCORING,
        "sources": dict(sources),
        "model": search["model"],
        "search": search["search"],
        "tasks": rows,
        "averages": _averages(rows),
    }


def _row(task: Task, search: Mapping[str, Any]) -> dict[str, Any]:
    runs = [run for run in search["runs"] if run["task"] == task.name]
    submitted = next(run for run in runs if run["setting"] == search["best"][task.name])
    scored = [run for run in runs if run["score"] is not None]  # not the one on all rows
    settings = _settings(scored, _setting_of(submitted))
    same = [run for run in scored if _setting_of(run) == _setting_of(submitted)]
    own = [run for run in same if run["seed"] == submitted["seed"]]
    row = {
        "task": task.name,
        "benchmark": task.benchmark or OWN,
        **next(setting for setting in settings if setting["is_best"]),
        "metrics": _metrics(task, same),
        "num_seeds": len(_by_seed(same)),
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


def _averages(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns an average for each benchmark, and one without WNLI, as in many papers."""
    averages = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        own = {row["task"]: row["score"] for row in rows if row["benchmark"] == benchmark}
        all_tasks = [task.name for task in TASKS if task.benchmark == benchmark]
        averages.append(_average(benchmark, own, all_tasks))
        if WNLI in own and len(own) > 1:
            own.pop(WNLI)
            all_tasks.remove(WNLI)
            averages.append(_average(f"{benchmark} without {WNLI}", own, all_tasks))
    return averages


def _average(name: str, scores: Mapping[str, float], all_tasks: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "value": mean(scores.values()),
        "over": list(scores),
        "lacks": [task for task in all_tasks if task not in scores],
    }


# --- as text ---------------------------------------------------------------------------------


def as_text(summary: Mapping[str, Any]) -> str:
    """Returns the table for the console, and lines that explain it."""
    rows = [["task", "score", "range, sd", "metrics (dev)", "majority", "runs", "best setting"]]
    for row in summary["tasks"]:
        cells = [row["task"], points(row["score"]), spread_text(row), metrics_text(row)]
        rows.append([*cells, majority_text(row), str(row["num_runs"]), setting_text(row)])
    for average in summary["averages"]:
        name = f"{average['name']}: {average_of(average['over'])}"
        rows.append([name, points(average["value"]), "", "", "", "", ""])
    sources = ", ".join(f"{name} from {place}" for name, place in summary["sources"].items())
    lines = [table(rows), f"data: {sources}", f"numbers: {summary['scoring']}", *notes(summary)]
    return "\n".join(lines)


def as_tsv(summary: Mapping[str, Any]) -> str:
    """Returns summary.tsv: a line for each task, then for each average."""
    rows = [TSV_HEADER]
    for row in summary["tasks"]:
        spread = [points(row["spread"][key]) if row["spread"] else "" for key in SPREAD]
        cells = [row["task"], row["benchmark"], points(row["score"]), *spread]
        cells += [str(row["num_seeds"]), metrics_text(row), majority_text(row)]
        cells += [str(row["num_runs"]), setting_text(row), row["submitted"]["setting"]]
        shares = [share_text(row, share) for share in SHARES]
        rows.append([*cells, str(row.get("max_seq_length", "")), *shares])
    for average in summary["averages"]:
        cells = [average_of(average["over"]), average["name"], points(average["value"])]
        rows.append([*cells, *[""] * (len(TSV_HEADER) - len(cells))])
    return "".join("\t".join(row) + "\n" for row in rows)


def average_of(tasks: Sequence[str]) -> str:
    """Returns `average of 9 tasks`."""
    return f"average of {len(tasks)} task{'s' if len(tasks) > 1 else ''}"


def spread_text(row: Mapping[str, Any]) -> str:
    """Returns `84.9..86.7, 0.9`: the range over the seeds and the standard deviation."""
    spread = row["spread"]
    if not spread:
        return ""
    return f"{points(spread['min'])}..{points(spread['max'])}, {points(spread['stdev'])}"


def metrics_text(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {points(value)}" for name, value in row["metrics"].items())


def share_text(row: Mapping[str, Any], share: str) -> str:
    """Returns `train 12.0, dev 11.5`: per cent of each split."""
    return ", ".join(f"{name} {points(counts[share])}" for name, counts in splits_of(row))


def splits_of(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns names and token counts of the splits train, dev, test; empty for old results."""
    order = ("train", "dev", "test")

    def place(name: str) -> int:
        return next((i for i, start in enumerate(order) if name.startswith(start)), len(order))

    return sorted(row.get("tokenization", {}).items(), key=lambda split: place(split[0]))


def majority_text(row: Mapping[str, Any]) -> str:
    return points(row["majority"]["score"]) if row["majority"] else ""


def setting_text(setting: Mapping[str, Any]) -> str:
    """Returns the name of a run's folder, without the seed."""
    learning_rate, size = setting["learning_rate"], setting["batch_size"]
    return f"lr{learning_rate!r}_bs{size}_ep{setting['epochs']}"


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Returns lines on incomplete averages, left-out rows, and constant submissions."""
    lines = [
        f"not {average['name']}'s average, it lacks {', '.join(average['lacks'])}"
        for average in summary["averages"]
        if average["lacks"] and average["name"] in summary["sources"]
    ]
    for row in summary["tasks"]:
        lines += _notes_on_rows(row)
        lines += _notes_on_texts(row)
        lines += notes_on_entities(row)
        lines += notes_on_label_sets(row)
        if k := row["num_folds"]:
            lines.append(
                f"{row['task']}: scores are means over {k} folds of TRAIN, the range is that of "
                "all runs; the submitted run learned from all rows"
            )
        if row["submits_majority"]:
            lines.append(
                f"{row['task']}: the search did not beat the majority label "
                f"({points(row['score'])} against {points(row['majority']['score'])} on the dev "
                f"set), so {row['majority']['label']} is submitted for all rows"
            )
        elif row.get("only_label"):
            lines.append(
                f"{row['task']}: the submitted run answers {row['only_label']} for every dev row, "
                "so its score is that of a constant"
            )
        if row["task"] in DIAGNOSTICS:
            lines.append(DIAGNOSTICS[row["task"]])
    return lines


def _notes_on_rows(row: Mapping[str, Any]) -> Iterator[str]:
    reasons = {"num_malformed_rows": "unreadable", "num_unlabelled_rows": "having no label"}
    for key, reason in reasons.items():
        if number := row.get(key, 0):
            yield (
                f"{row['task']}: {number} row{'s' if number > 1 else ''} of the training and dev "
                f"files left out as {reason}; the log of the submitted run names them"
            )


def _notes_on_texts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields warnings of truncated and unknown text."""
    task = row["task"]
    truncated, cut, unknown = (
        max((counts[share] for _, counts in splits_of(row)), default=0.0) for share in SHARES
    )
    if max(truncated, cut) > WARN_CUT:
        asked = f", {row[ASKED_LENGTH]} were asked for" if ASKED_LENGTH in row else ""
        yield (
            f"{task}: up to {points(truncated)} % of a set's samples are truncated to "
            f"{row['max_seq_length']} tokens ({points(cut)} % of its tokens are cut){asked}"
        )
    elif ASKED_LENGTH in row:
        yield (
            f"{task}: samples have at most {row['max_seq_length']} tokens, as the model has no "
            f"more positions; {row[ASKED_LENGTH]} were asked for"
        )
    if unknown > WARNING_SHARE:
        yield (
            f"{task}: up to {points(unknown)} % of a set's characters are unknown to the model's "
            "tokenizer"
        )


def headline(summary: Mapping[str, Any]) -> str:
    """Returns `GLUE: average of 9 tasks 82.1 (dev, builtin:demo); own tasks: ...`."""
    return "; ".join(
        f"{average['name']}: {average_of(average['over'])} {points(average['value'])} "
        f"(dev, {summary['sources'][average['name']]})"
        for average in summary["averages"]
        if average["name"] in summary["sources"]
    )
