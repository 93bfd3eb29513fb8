"""Results of a contest of recipes: curves, table, record and plot."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.contest import Course, Outcome, Standing

LINE_STYLES = ("-", "--", ":", "-.")  # of the first ten curves, the next ten, ...
MOST_COMPARED = 6  # results that are all compared with each other


@dataclass(frozen=True)
class Entry:
    """A contestant on the command line: a config, with its changed keys."""

    name: str
    path: Path
    changes: Mapping[str, str]

    @property
    def folder(self) -> str:
        """The name as a file name."""
        return re.sub(r"^\.|[^\w=+.-]", "_", self.name)


@dataclass(frozen=True)
class Recipe:
    """An entry with a training per seed. tokenizer: digest of its file; tokens_per_character: in
    the held-out text."""

    entry: Entry
    courses: Sequence[Course]
    tokenizer: str
    tokens_per_character: float

    @property
    def name(self) -> str:
        return self.entry.name


def mean_curve(curves: Sequence[Sequence[Standing]]) -> list[Standing]:
    """Returns the means over runs, by number of the turn; the last turns form the last mean."""
    if not curves:
        return []
    numbers = [*range(min(map(len, curves)) - 1), -1]
    return [_mean([curve[number] for curve in curves]) for number in numbers]


def _mean(reports: Sequence[Standing]) -> Standing:
    if len(reports) == 1:
        return reports[0]
    names = [field.name for field in fields(Standing) if field.name != "finished"]
    means = {name: statistics.fmean(getattr(r, name) for r in reports) for name in names}
    return Standing(**means, finished=all(report.finished for report in reports))


class Result:
    """The outcomes of a recipe.

    runs: the standings of its finished trainings or, if none has finished, of all; curve: their
    mean. Both are empty without any standing.
    """

    def __init__(self, recipe: Recipe, outcomes: Sequence[Outcome]):
        self.recipe, self.outcomes = recipe, outcomes
        self.finished = any(outcome.finished for outcome in outcomes)
        counted = [outcome for outcome in outcomes if outcome.finished or not self.finished]
        self.runs = [outcome.reports for outcome in counted if outcome.reports]
        self.curve = mean_curve(self.runs)

    @property
    def ending(self) -> str:
        """The failures in a few words."""
        endings = [outcome.ending for outcome in self.outcomes if outcome.ending]
        if len(self.outcomes) == 1 and endings and self.curve:
            return f"{endings[0]} after {self.curve[-1].seconds / 60:.2f} min"
        return ", ".join(
            f"{endings.count(word)} of {len(self.outcomes)} {word}" for word in sorted({*endings})
        )


def time_of(goal: float, points: Sequence[tuple[float, float]]) -> float:
    """Returns the seconds until the loss stays at or below the goal, interpolated linearly.

    points: (seconds, loss), ordered by time. Infinite if the last loss is above the goal.
    """
    if points[-1][1] > goal:
        return math.inf
    for (begin, before), (end, after) in reversed(list(pairwise(points))):
        if before > goal:
            return begin + (before - goal) / (before - after) * (end - begin)
    return points[0][0]


class _Measure:
    """Compares recipes by loss or, if their vocabularies differ, by bits per character."""

    def __init__(self, results: Sequence[Result]):
        self.is_loss = len({result.recipe.tokenizer for result in results}) == 1
        self.unit = "loss" if self.is_loss else "bits per character"

    def __call__(self, recipe: Recipe, report: Standing) -> float:
        if self.is_loss:
            return report.loss
        return report.loss / math.log(2) * recipe.tokens_per_character


def result_table(results: Sequence[Result]) -> str:
    """Formats the final figures, and the time until each recipe reaches the others' final loss.

    With many recipes, only the first one's final loss is a goal.
    """
    from pipeline.console import table

    measure = _Measure(results)
    goals = results if len(results) <= MOST_COMPARED else results[:1]
    rows = []
    for result in results:
        row = _figures(result, measure)
        for goal in goals:
            row[f"reaches {goal.recipe.name}"] = _time_to_reach(measure, result, goal)
        rows.append(row | {"ending": result.ending})
    header = [name for name in rows[0] if any(row[name] for row in rows)]
    return table([header, *([row[name] for name in header] for row in rows)])


def _figures(result: Result, measure: _Measure) -> dict[str, str]:
    """Returns the cells by column; empty ones without a figure."""
    columns = ("recipe", "seeds", "steps", "tokens", "PFLOP", measure.unit, "sd", "accuracy")
    row = dict.fromkeys(columns, "") | {"recipe": result.recipe.name}
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


def _time_to_reach(measure: _Measure, result: Result, goal: Result) -> str:
    """Formats the time to the goal's final loss, as a share of the goal's time."""
    if result is goal or not goal.finished or not result.curve:
        return ""
    end = goal.curve[-1]
    points = [(report.seconds, measure(result.recipe, report)) for report in result.curve]
    seconds = time_of(measure(goal.recipe, end), points)
    if math.isinf(seconds):
        return "no"
    return f"{100 * seconds / end.seconds:.1f} % ({seconds / 60:.2f} min)"


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Returns all numbers of each training, by its name."""
    return {
        outcome.course.name: {
            "recipe": result.recipe.name,
            "config": str(result.recipe.entry.path),
            "changes": dict(result.recipe.entry.changes),
            "tokens_per_character": result.recipe.tokens_per_character,
            "seed": outcome.course.seed,
            "flags": outcome.course.flags,
            "ending": outcome.ending,
            "failure": outcome.failure,
            "reports": [asdict(report) for report in outcome.reports],
        }
        for result in results
        for outcome in result.outcomes
    }


def draw(results: Sequence[Result], path: Path) -> None:
    """Plots the measure against the time of training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measure = _Measure(results)
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, result in enumerate(results):
        curve = result.curve[1:]  # without the random weights
        axes.plot(
            [report.seconds / 60 for report in curve],
            [measure(result.recipe, report) for report in curve],
            linestyle=LINE_STYLES[number // 10 % len(LINE_STYLES)],
            label=result.recipe.name,
        )
    axes.set_xlabel("minutes of training")
    axes.set_ylabel(f"held-out {measure.unit}")
    axes.grid(alpha=0.2)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
