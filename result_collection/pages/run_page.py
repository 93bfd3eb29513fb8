"""The page of one run, with its charts."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from result_collection.pages import charts, prediction_charts
from result_collection.pages.page import Report, render, searched
from result_collection.summary_text import notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def report_page(report: Report, drawn: Mapping[str, "Figure"]) -> str:
    """Returns the HTML of a run. drawn: the charts of `draw_charts`."""
    values = {"search": searched(report), "notes": notes(report["summary"])}
    return render("run.html", drawn, report=report, **values)


def draw_charts(report: Report) -> dict[str, "Figure"]:
    """Draws the charts of a run, except for empty ones; returns them by name.

    The names are `scores`, `pretraining-loss`, `pretraining-throughput`, `dataset-lengths`, and
    `grid-<task>`, `curves-<task>` and `reliability-<task>` or `scatter-<task>` of each task.
    """
    return dict(_charts(report))


def _charts(report: Report) -> Iterator[tuple[str, "Figure"]]:
    rows = report["summary"]["tasks"]
    yield "scores", charts.draw_scores(rows)
    for row in rows:
        if len(row["settings"]) > 1:
            yield f"grid-{row['task']}", charts.draw_grid(row["settings"])
        curves = report["finetuning"][row["task"]]
        if len(curves["history"]["epoch"]) > 1:
            finetuned = ("", curves["history"], curves["evaluations"])
            yield f"curves-{row['task']}", charts.draw_finetuning([finetuned])
    for task, found in report.get("predictions", {}).items():
        yield from _prediction_charts(task, found["sets"])
    trained = report["pretraining"]
    if trained and len(trained["train"]["step"]) > 1:
        run = ("", trained["train"], trained["validation"])
        losses = charts.draw_losses([run], trained.get("phase_begins", ()))
        yield "pretraining-loss", losses
        yield "pretraining-throughput", charts.draw_throughput([("", trained["train"])])
    results = report["dataset"]["results"] if report["dataset"] else {}
    if results.get("lengths"):
        yield "dataset-lengths", charts.draw_lengths(results["lengths"], results["max_seq_length"])


def _prediction_charts(task: str, sets: Report) -> Iterator[tuple[str, "Figure"]]:
    """sets: of a task, by the name of the dev set."""
    known = [(name, found["reliability"]) for name, found in sets.items() if "reliability" in found]
    if known:
        yield f"reliability-{task}", prediction_charts.draw_reliability(known)
    for found in sets.values():
        if "points" in found:
            yield f"scatter-{task}", prediction_charts.draw_scatter(found["points"])
