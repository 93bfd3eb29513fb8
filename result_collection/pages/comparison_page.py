"""The page of two compared runs: scores with their differences, changed keys, curves.

A difference is B minus A.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from result_collection.pages import charts
from result_collection.pages.numbers import difference, points
from result_collection.pages.page import Report, render, searched
from result_collection.summary_text import average_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("A", "B")
NOT_COMPARABLE = "different dev data or metrics"


def comparison_page(first: Report, second: Report) -> str:
    """Returns the HTML of two runs."""
    runs = [
        {
            "name": name,
            "report": report,
            "search": searched(report),
            "tasks": {row["task"]: row for row in report["summary"]["tasks"]},
        }
        for name, report in zip(NAMES, (first, second), strict=True)
    ]
    left, right = first["config"]["values"], second["config"]["values"]
    values = [(key, left.get(key), right.get(key)) for key in _union(left, right)]
    drawn = list(_charts(first, second))
    return render(
        "comparison.html",
        {name: figure for name, _, figure in drawn},
        runs=runs,
        scores=score_rows(first, second),
        changed=[(key, old, new) for key, old, new in values if old != new],
        captions={name: caption for name, caption, _ in drawn},
    )


def score_rows(first: Report, second: Report) -> list[list[str]]:
    """Returns the table of scores: a header, a row per task, the averages over equal tasks."""
    rows = [["task", *NAMES, "B - A"]]
    others = _differently_scored(first, second)
    left, right = (
        {row["task"]: row["score"] for row in report["summary"]["tasks"]}
        for report in (first, second)
    )
    for task in _union(left, right):
        rows.append(_score_row(task, left.get(task), right.get(task), task not in others))
    before, after = _averages(first), _averages(second)
    for benchmark, tasks in _union(before, after):
        old, new = before.get((benchmark, tasks)), after.get((benchmark, tasks))
        listed = f" ({', '.join(tasks)})" if None in (old, new) else ""
        name = f"{benchmark}: {average_of(tasks)}{listed}"
        rows.append(_score_row(name, old, new, others.isdisjoint(tasks)))
    return rows


def _differently_scored(first: Report, second: Report) -> set[str]:
    """Returns tasks with different dev data or metrics; old reports do not record them."""
    left, right = (report.get("scored_by", {}) for report in (first, second))
    return {task for task in left.keys() & right.keys() if left[task] != right[task]}


def _averages(report: Report) -> dict[tuple[str, tuple[str, ...]], float]:
    """Returns the averages by name and tasks."""
    averages = report["summary"]["averages"]
    return {(average["name"], tuple(average["over"])): average["value"] for average in averages}


def _union(first: Iterable, second: Iterable) -> list:
    """Returns the keys of both, in their order."""
    return list(dict.fromkeys((*first, *second)))


def _score_row(name: str, first: float | None, second: float | None, comparable: bool) -> list[str]:
    cells = ["" if score is None else points(score) for score in (first, second)]
    if first is None or second is None:
        return [name, *cells, ""]
    return [name, *cells, difference(second - first) if comparable else NOT_COMPARABLE]


def _charts(*reports: Report) -> Iterator[tuple[str, str, "Figure"]]:
    """Yields name, caption and chart; a run without own pretraining has no line in its charts."""
    runs = list(zip(NAMES, reports, strict=True))
    pretrained = [(name, report["pretraining"]) for name, report in runs if report["pretraining"]]
    if pretrained:
        losses = [(name, run["train"], run["validation"]) for name, run in pretrained]
        yield "losses", "Pretraining losses and learning rate.", charts.draw_losses(losses)
        speeds = [(name, run["train"]) for name, run in pretrained]
        yield "throughput", "Pretraining throughput.", charts.draw_throughput(speeds)
    for task in reports[0]["finetuning"]:
        if task in reports[1]["finetuning"]:
            curves = [(name, report["finetuning"][task]) for name, report in runs]
            lines = [(name, run["history"], run["evaluations"]) for name, run in curves]
            yield f"curves-{task}", f"Submitted runs of {task}.", charts.draw_finetuning(lines)
