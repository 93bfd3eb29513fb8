"""Results of a contest of recipes: curves, table and record."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.contest import Standing, Training

MOST_COMPARED = 6  # recipes that are all compared with each other


@dataclass
class Recipe:
    """A config with changed keys, and its training for each seed.

    tokenizer: digest of its file; tokens_per_character: in the held-out text.
    """

    name: str
    path: Path
    changes: Mapping[str, str]
    trainings: list[Training] = field(default_factory=list)
    tokenizer: str = ""
    tokens_per_character: float = 0.0

    @property
    def folder(self) -> str:
        """The name as a file name."""
        return re.sub(r"^\.|[^\w=+.-]", "_", self.name)

    @property
    def finished(self) -> bool:
        return any(training.finished for training in self.trainings)

    @property
    def runs(self) -> list[list[Standing]]:
        """The standings of the finished trainings or, if none has finished, of all."""
        counted = [one for one in self.trainings if one.finished or not self.finished]
        return [training.standings for training in counted if training.standings]

    @property
    def curve(self) -> list[Standing]:
        return mean_curve(self.runs)

    @property
    def ending(self) -> str:
        """The failures in a few words."""
        endings = [training.ending for training in self.trainings if training.ending]
        if len(self.trainings) == 1 and endings and self.curve:
            return f"{endings[0]} after {self.curve[-1].seconds / 60:.2f} min"
        return ", ".join(
            f"{endings.count(word)} of {len(self.trainings)} {word}" for word in sorted({*endings})
        )


def mean_curve(curves: Sequence[Sequence[Standing]]) -> list[Standing]:
    """Returns the means over runs, by number of the turn; the last turns form the last mean."""
    if not curves:
        return []
    numbers = [*range(min(map(len, curves)) - 1), -1]
    return [_mean([curve[number] for curve in curves]) for number in numbers]


def _mean(reports: Sequence[Standing]) -> Standing:
    if len(reports) == 1:
        return reports[0]
    names = [one.name for one in fields(Standing) if one.name != "finished"]
    means = {name: statistics.fmean(getattr(r, name) for r in reports) for name in names}
    return Standing(**means, finished=all(report.finished for report in reports))


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

    def __init__(self, recipes: Sequence[Recipe]):
        self.is_loss = len({recipe.tokenizer for recipe in recipes}) == 1
        self.unit = "loss" if self.is_loss else "bits per character"

    def __call__(self, recipe: Recipe, report: Standing) -> float:
        if self.is_loss:
            return report.loss
        return report.loss / math.log(2) * recipe.tokens_per_character


def result_table(recipes: Sequence[Recipe]) -> str:
    """Formats the final figures, and the time until each recipe reaches the others' final loss.

    With many recipes, only the first one's final loss is a goal.
    """
    from pipeline.console import table

    measure = _Measure(recipes)
    goals = recipes if len(recipes) <= MOST_COMPARED else recipes[:1]
    rows = []
    for recipe in recipes:
        row = _figures(recipe, measure)
        for goal in goals:
            row[f"reaches {goal.name}"] = _time_to_reach(measure, recipe, goal)
        rows.append(row | {"ending": recipe.ending})
    header = [name for name in rows[0] if any(row[name] for row in rows)]
    return table([header, *([row[name] for name in header] for row in rows)])


def _figures(recipe: Recipe, measure: _Measure) -> dict[str, str]:
    """Returns the cells by column; empty ones without a figure."""
    columns = ("recipe", "seeds", "steps", "tokens", "PFLOP", measure.unit, "sd", "accuracy")
    row = dict.fromkeys(columns, "") | {"recipe": recipe.name}
    if len(recipe.trainings) > 1:
        row["seeds"] = str(len(recipe.runs))
    if not recipe.curve:
        return row
    last = recipe.curve[-1]
    ends = [measure(recipe, run[-1]) for run in recipe.runs]
    return row | {
        "steps": f"{last.step:,.0f}",
        "tokens": f"{last.tokens:,.0f}",
        "PFLOP": f"{last.flops / 1e15:.2f}",
        measure.unit: f"{measure(recipe, last):.4f}",
        "sd": f"{statistics.stdev(ends):.4f}" if len(ends) > 1 else "",
        "accuracy": f"{last.accuracy:.4f}",
    }


def _time_to_reach(measure: _Measure, recipe: Recipe, goal: Recipe) -> str:
    """Formats the time to the goal's final loss, as a share of the goal's time."""
    if recipe is goal or not goal.finished or not recipe.curve:
        return ""
    end = goal.curve[-1]
    points = [(report.seconds, measure(recipe, report)) for report in recipe.curve]
    seconds = time_of(measure(goal, end), points)
    if math.isinf(seconds):
        return "no"
    return f"{100 * seconds / end.seconds:.1f} % ({seconds / 60:.2f} min)"


def record(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Returns all numbers of each training, by its name."""
    return {
        training.name: {
            "recipe": recipe.name,
            "config": str(recipe.path),
            "changes": dict(recipe.changes),
            "tokens_per_character": recipe.tokens_per_character,
            "seed": training.seed,
            "flags": training.flags,
            "ending": training.ending,
            "failure": training.failure,
            "reports": [asdict(standing) for standing in training.standings],
        }
        for recipe in recipes
        for training in recipe.trainings
    }
