"""Two runs on one page: scores with their differences, the keys that differ, the curves over
each other. Run A is the one to compare with: a difference is B minus A. Scores on
other dev data, or by other metrics, have none.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from result_collection.pages import charts
from result_collection.pages.numbers import difference, points
from result_collection.pages.page import Content, Markup, document, figure, section, tag
from result_collection.pages.page import table as html_table
from result_collection.pages.run_page import Report, searched, setting_words, shown
from result_collection.summary import average_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("A", "B")
NOT_COMPARABLE = "other dev data or metrics"


def score_rows(first: Report, second: Report) -> list[list[str]]:
    """Header, a row per task of either run, the averages over the same tasks: cells as text."""
    rows = [["task", "A", "B", "B - A"]]
    scores = [
        {row["task"]: row["score"] for row in report["summary"]["tasks"]}
        for report in (first, second)
    ]
    others = _scored_by_others(first, second)
    rows += [
        _score_row(name, *(found.get(name) for found in scores), name not in others)
        for name in _names(*scores)
    ]
    averages = [_averages(report) for report in (first, second)]
    for name in _names(*averages):
        found = [average.get(name) for average in averages]
        benchmark, tasks = name
        listed = f" ({', '.join(tasks)})" if None in found else ""
        name = f"{benchmark}: {average_of(tasks)}{listed}"
        rows.append(_score_row(name, *found, others.isdisjoint(tasks)))
    return rows


def _scored_by_others(first: Report, second: Report) -> set[str]:
    """Tasks of both whose dev data or metrics differ; older reports do not tell what they are."""
    left, right = (report.get("scored_by", {}) for report in (first, second))
    return {task for task in left.keys() & right.keys() if left[task] != right[task]}


def _averages(report: Report) -> dict[tuple, float]:
    """By name and tasks: averages over other tasks are not to be compared."""
    averages = report["summary"]["averages"]
    return {(average["name"], tuple(average["over"])): average["value"] for average in averages}


def _names(first: Mapping, second: Mapping) -> list:
    return list(dict.fromkeys((*first, *second)))


def _score_row(name: str, first: float | None, second: float | None, comparable: bool) -> list[str]:
    cells = ["" if score is None else points(score) for score in (first, second)]
    if first is None or second is None:
        return [name, *cells, ""]
    return [name, *cells, difference(second - first) if comparable else NOT_COMPARABLE]


def comparison_page(first: Report, second: Report) -> str:
    """The HTML of two runs side by side."""
    return document(
        "Two runs compared",
        _head(first, second),
        _scores(first, second),
        _config(first["config"]["values"], second["config"]["values"]),
        _curves(first, second),
    )


def _head(*reports: Report) -> Markup:
    items = [
        tag(
            "li",
            tag("b", f"{name}: {report['dataset_id']} / {searched(report)}"),
            f", {report['written_at']}",
        )
        for name, report in zip(NAMES, reports, strict=True)
    ]
    return tag("header", tag("h1", "Two runs compared"), tag("ul", items, class_="runs"))


def _scores(first: Report, second: Report) -> Markup:
    header, *rows = score_rows(first, second)
    settings = [
        {row["task"]: setting_words(row) for row in report["summary"]["tasks"]}
        for report in (first, second)
    ]
    cells: list[list[Content]] = [
        [name, left, right, tag("b", change), *(found.get(name, "") for found in settings)]
        for name, left, right, change in rows
    ]
    caption = f"All numbers are {first['summary']['scoring']}. Averages: over the same tasks only."
    table = html_table(caption, [*header, "setting of A", "setting of B"], cells, (1, 2, 3))
    return section("Scores", table, name="scores")


def _config(first: Mapping[str, Any], second: Mapping[str, Any]) -> Markup:
    keys = [key for key in _names(first, second) if first.get(key) != second.get(key)]
    rows = [(tag("code", key), shown(first.get(key)), shown(second.get(key))) for key in keys]
    if not rows:
        return section("Configuration", tag("p", "All keys have the same values."), name="config")
    table = html_table("Keys that differ; all others are the same.", ("key", *NAMES), rows)
    return section("Configuration", tag("div", table, class_="config"), name="config")


def _curves(first: Report, second: Report) -> Markup:
    figures = [
        figure(drawn, name, caption, f"{caption} Both runs in one chart.")
        for name, caption, drawn in _drawn(first, second)
    ]
    missing = tag("p", "Neither run has curves to compare.")
    return section(
        "Curves", tag("div", figures, class_="charts") if figures else missing, name="curves"
    )


def _drawn(*reports: Report) -> Iterator[tuple[str, str, "Figure"]]:
    """(name, caption, chart); a run without pretraining of its own has no line there."""
    pretrained = [
        (name, report["pretraining"])
        for name, report in zip(NAMES, reports, strict=True)
        if report["pretraining"]
    ]
    if pretrained:
        losses = [(name, run["train"], run["validation"]) for name, run in pretrained]
        yield "losses", "Losses of pretraining and the learning rate.", charts.draw_losses(losses)
        speeds = [(name, run["train"]) for name, run in pretrained]
        yield "throughput", "Throughput of pretraining.", charts.draw_throughput(speeds)
    for task in [task for task in reports[0]["finetuning"] if task in reports[1]["finetuning"]]:
        runs = [
            (name, report["finetuning"][task]["history"], report["finetuning"][task]["evaluations"])
            for name, report in zip(NAMES, reports, strict=True)
        ]
        yield f"curves-{task}", f"{task}, the submitted runs.", charts.draw_finetuning(runs)
