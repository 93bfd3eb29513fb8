"""What came of a contest of recipes: curves, table, record and plot."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.contest import Course, Outcome, Report
from pipeline.console import table
from pipeline.store.atomic_files import written_aside

LINE_STYLES = ("-", "--", ":", "-.")  # of the first ten curves, the next ten, ...
MOST_COMPARED = 6  # contestants of which each is held to what all the others reached


@dataclass(frozen=True)
class Entry:
    """What the command line asks for: a config, and the keys that this contestant changes."""

    name: str
    path: Path
    changes: Mapping[str, str]

    @property
    def folder(self) -> str:
        """The name as a file name."""
        return re.sub(r"^\.|[^\w=+.-]", "_", self.name)


@dataclass(frozen=True)
class Recipe:
    """An entry that is ready to be trained, once for each seed.

    tokenizer: the digest of its file; tokens_per_character: of the held-out text.
    """

    entry: Entry
    courses: Sequence[Course]
    tokenizer: str
    tokens_per_character: float

    @property
    def name(self) -> str:
        return self.entry.name

    def bits_per_character(self, loss: float) -> float:
        return loss / math.log(2) * self.tokens_per_character


def mean_report(reports: Sequence[Report]) -> Report:
    """The mean of each number; finished if all are."""
    if len(reports) == 1:
        return reports[0]
    numbers = [field.name for field in fields(Report) if field.name != "finished"]
    means = {name: statistics.fmean(getattr(r, name) for r in reports) for name in numbers}
    return Report(**means, finished=all(report.finished for report in reports))


def mean_curve(curves: Sequence[Sequence[Report]]) -> list[Report]:
    """The mean over runs of their reports with the same number; the last ones go together."""
    if not curves:
        return []
    shortest = min(map(len, curves))
    numbers = [*range(shortest - 1), -1]
    return [mean_report([curve[number] for curve in curves]) for number in numbers]


class Result:
    """What came of a recipe with all its seeds: of those that finished or, if none did, of all.

    runs: their reports; curve: the mean over them; both are empty if there is no report at all.
    """

    def __init__(self, recipe: Recipe, outcomes: Sequence[Outcome]):
        self.recipe, self.outcomes = recipe, outcomes
        self.finished = any(outcome.finished for outcome in outcomes)
        counted = [outcome for outcome in outcomes if outcome.finished or not self.finished]
        self.runs = [outcome.reports for outcome in counted if outcome.reports]
        self.curve = mean_curve(self.runs)

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def ending(self) -> str:
        """What went wrong; empty if nothing did."""
        endings = [outcome.ending for outcome in self.outcomes if outcome.ending]
        if len(self.outcomes) == 1 and endings and self.curve:
            return f"{endings[0]} after {self.curve[-1].seconds / 60:.2f} min"
        return ", ".join(
            f"{endings.count(word)} of {len(self.outcomes)} {word}" for word in sorted({*endings})
        )


def time_of(goal: float, points: Sequence[tuple[float, float]]) -> float:
    """When a loss was reached for good: seconds, between two points by a straight line.

    points: (seconds, loss) in the order of time. Infinite if the last one is above the goal.
    """
    if points[-1][1] > goal:
        return math.inf
    for (begin, before), (end, after) in reversed(list(pairwise(points))):
        if before > goal:
            return begin + (before - goal) / (before - after) * (end - begin)
    return points[0][0]


def result_table(results: Sequence[Result]) -> str:
    """The last report of each recipe, or the mean and deviation of its seeds' last ones, and when
    it reached what the others ended with; where there are many, only what the first one did."""
    measure = _Measure([result.recipe for result in results])
    goals = results if len(results) <= MOST_COMPARED else results[:1]
    columns = [_figures(result, measure) for result in results]
    for result, row in zip(results, columns, strict=True):
        row |= {f"reaches {goal.name}": _share(measure, result, goal) for goal in goals}
        row["ending"] = result.ending
    header = [name for name in columns[0] if any(row[name] for row in columns)]
    return table([header, *([row[name] for name in header] for row in columns)])


def _figures(result: Result, measure: "_Measure") -> dict[str, str]:
    """Cells by column; empty where there is nothing to say."""
    row = dict.fromkeys(
        ["recipe", "seeds", "steps", "tokens", "PFLOP", measure.unit, "sd", "accuracy"], ""
    )
    row["recipe"] = result.name
    if len(result.outcomes) > 1:
        row["seeds"] = str(len(result.runs))
    if not result.curve:
        return row
    last = result.curve[-1]
    ends = [measure(result.recipe, run[-1]) for run in result.runs]
    return row | {
        "steps": f"{last.step:,.0f}",
        "tokens": f"{last.tokens:,.0f}",
        "PFLOP": f"{last.flops / 1e15:.2f}",
        measure.unit: f"{measure(result.recipe, last):.4f}",
        "sd": f"{statistics.stdev(ends):.4f}" if len(ends) > 1 else "",
        "accuracy": f"{last.accuracy:.4f}",
    }


class _Measure:
    """What recipes are compared by: the loss, or, where their vocabularies differ, bits."""

    def __init__(self, recipes: Sequence[Recipe]):
        self.is_loss = len({recipe.tokenizer for recipe in recipes}) == 1
        self.unit = "loss" if self.is_loss else "bits per character"

    def __call__(self, recipe: Recipe, report: Report) -> float:
        return report.loss if self.is_loss else recipe.bits_per_character(report.loss)


def _share(measure: _Measure, result: Result, goal: Result) -> str:
    """After what share of the goal's time the recipe was as good as the goal in the end."""
    if result is goal or not goal.finished or not result.curve:
        return ""
    end = goal.curve[-1]
    points = [(report.seconds, measure(result.recipe, report)) for report in result.curve]
    seconds = time_of(measure(goal.recipe, end), points)
    if math.isinf(seconds):
        return "no"
    return f"{100 * seconds / end.seconds:.1f} % ({seconds / 60:.2f} min)"


def record(results: Sequence[Result]) -> dict[str, Any]:
    """All that is known of each training, by its name."""
    return {
        outcome.course.name: {
            "recipe": result.name,
            "config": str(result.recipe.entry.path),
            "changes": dict(result.recipe.entry.changes),
            "seed": outcome.course.seed,
            "flags": outcome.course.flags,
            "tokens_per_character": result.recipe.tokens_per_character,
            "ending": outcome.ending,
            "failure": outcome.failure,
            "reports": [asdict(report) for report in outcome.reports],
        }
        for result in results
        for outcome in result.outcomes
    }


def draw(results: Sequence[Result], path: Path) -> None:
    """The measure against time, samples, tokens and FLOPs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measure = _Measure([result.recipe for result in results])
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("minutes of training", lambda report: report.seconds / 60),
        ("samples", lambda report: report.samples),
        ("tokens", lambda report: report.tokens),
        ("PFLOP", lambda report: report.flops / 1e15),
    )
    for axes, (label, position) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for number, result in enumerate(results):
            curve = result.curve[1:]  # the first one is of random weights
            axes.plot(
                [position(report) for report in curve],
                [measure(result.recipe, report) for report in curve],
                color=f"C{number % 10}",
                linestyle=LINE_STYLES[number // 10 % len(LINE_STYLES)],
                label=result.name,
            )
        axes.set_xlabel(label)
        axes.set_ylabel(f"held-out {measure.unit}")
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, frameon=False)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
