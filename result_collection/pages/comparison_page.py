"""The page of two compared runs: scores with their differences, changed keys, curves.

A difference is B minus A.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from statistics import mean
from typing import TYPE_CHECKING

from finetune.evaluation.paired import is_more_than_chance
from finetune.evaluation.resampling import average
from result_collection.pages import charts
from result_collection.pages.numbers import difference, points
from result_collection.pages.page import Report, render, searched
from result_collection.predictions.comparison import Paired, differently_scored
from result_collection.summary_text import average_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("A", "B")
SURENESS = ("95 %", "more than chance")
NOT_COMPARABLE = "different dev data or metrics"


def comparison_page(first: Report, second: Report, paired: Paired) -> str:
    """Returns the HTML of two runs. paired: their differences, with intervals."""
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
        scores=score_rows(first, second, paired),
        notes=paired.notes,
        changed=[(key, old, new) for key, old, new in values if old != new],
        captions={name: caption for name, caption, _ in drawn},
    )


def score_rows(first: Report, second: Report, paired: Paired) -> list[list[str]]:
    """Returns the table of scores: a header, a row per task, the averages over equal tasks, and one
    over all tasks with an interval."""
    header = ["task", *NAMES, "B - A", *(SURENESS if paired.differences else ())]
    others = differently_scored(first, second)
    left, right = (
        {row["task"]: row["score"] for row in report["summary"]["tasks"]}
        for report in (first, second)
    )
    rows = [
        _score_row(task, left.get(task), right.get(task), [task], others, paired)
        for task in _union(left, right)
    ]
    before, after = _averages(first), _averages(second)
    for benchmark, tasks in _union(before, after):
        old, new = before.get((benchmark, tasks)), after.get((benchmark, tasks))
        listed = f" ({', '.join(tasks)})" if None in (old, new) else ""
        name = f"{benchmark}: {average_of(tasks)}{listed}"
        rows.append(_score_row(name, old, new, tasks, others, paired))
    common = list(paired.differences)
    if len(common) > 1 and set(common) not in [set(tasks) for _, tasks in before.keys() & after]:
        old, new = (mean(scores[task] for task in common) for scores in (left, right))
        name = f"common tasks: {average_of(common)}"
        rows.append(_score_row(name, old, new, common, others, paired))
    return [[cell for cell, _ in zip(row, header, strict=False)] for row in (header, *rows)]


def _averages(report: Report) -> dict[tuple[str, tuple[str, ...]], float]:
    """Returns the averages by name and tasks."""
    averages = report["summary"]["averages"]
    return {(average["name"], tuple(average["over"])): average["value"] for average in averages}


def _union(first: Iterable, second: Iterable) -> list:
    """Returns the keys of both, in their order."""
    return list(dict.fromkeys((*first, *second)))


def _score_row(
    name: str,
    first: float | None,
    second: float | None,
    tasks: Sequence[str],
    others: Set[str],
    paired: Paired,
) -> list[str]:
    """tasks: those that the scores are of. others: those with other dev data or metrics."""
    cells = [name, *("" if score is None else points(score) for score in (first, second))]
    if first is None or second is None:
        return [*cells, "", "", ""]
    if not others.isdisjoint(tasks):
        return [*cells, NOT_COMPARABLE, "", ""]
    if not paired.differences.keys() >= set(tasks):
        return [*cells, difference(second - first), "", ""]
    found = average([paired.differences[task] for task in tasks])
    interval = "..".join(map(difference, found.interval))
    return [
        *cells,
        difference(found.value),
        interval,
        "yes" if is_more_than_chance(found) else "no",
    ]


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
