"""What a search found: per task the best setting and its dev scores, and their average."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from finetune.tasks import TASKS, Task
from pipeline.console import table

# How the numbers are to be read; stands wherever they are shown.
SCORING = (
    "dev scores x 100; a task's score is the mean of its metrics (MNLI: of both dev sets), the "
    "average that of the task scores"
)


def summarize(best: Mapping[str, Mapping[str, Any]], benchmark: str) -> dict[str, Any]:
    """Task name -> result of its best run (`setting`, `score`, `dev`) to a JSON-able summary.

    benchmark: where the data is from. `is_complete` says whether all nine tasks are in the
    average; if not, it cannot be compared with a GLUE score.
    """
    tasks = [task for task in TASKS if task.name in best]
    rows = [_row(task, best[task.name]) for task in tasks]
    return {
        "benchmark": benchmark,
        "split": "dev",
        "scoring": SCORING,
        "tasks": rows,
        "average": mean(row["score"] for row in rows),
        "average_over": [row["task"] for row in rows],
        "is_complete": len(tasks) == len(TASKS),
        "not_searched": [task.name for task in TASKS if task not in tasks],
    }


def _row(task: Task, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task.name,
        "setting": result["setting"],
        "score": result["score"],
        "metrics": {
            _metric_name(task, split, metric): value
            for split, metrics in result["dev"].items()
            for metric, value in metrics.items()
        },
    }


def _metric_name(task: Task, split: str, metric: str) -> str:
    """`accuracy`, or `matched accuracy` where a task has several dev sets."""
    return metric if len(task.dev) == 1 else f"{split.removeprefix('dev_')} {metric}"


def summary_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Header, one row per task, the average: cells of the console table and of summary.tsv."""
    rows = [["task", "score", "metrics (dev)", "best setting"]]
    for row in summary["tasks"]:
        metrics = ", ".join(f"{name} {_points(value)}" for name, value in row["metrics"].items())
        rows.append([row["task"], _points(row["score"]), metrics, row["setting"]])
    name = f"average of {len(summary['tasks'])} tasks"
    rows.append([name, _points(summary["average"]), "", ""])
    return rows


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def as_text(summary: Mapping[str, Any]) -> str:
    """The table with the line that says how to read it."""
    lines = [table(summary_rows(summary)), f"{summary['benchmark']}: {summary['scoring']}"]
    if not summary["is_complete"]:
        lines.append(f"not GLUE's average, it lacks {', '.join(summary['not_searched'])}")
    return "\n".join(lines)


def headline(summary: Mapping[str, Any]) -> str:
    return (
        f"average of {len(summary['tasks'])} tasks: {_points(summary['average'])} "
        f"(dev scores, {summary['benchmark']})"
    )


def as_tsv(summary: Mapping[str, Any]) -> str:
    return "".join("\t".join(row) + "\n" for row in summary_rows(summary))
