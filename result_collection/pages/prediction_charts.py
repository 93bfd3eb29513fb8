"""Charts of the predictions on dev sets."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from result_collection.pages.charts import LINES, MUTED, label_above, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def draw_reliability(sets: Sequence[tuple[str, Mapping[str, Any]]]) -> "Figure":
    """Draws the share of right predictions over their probability, with a line where both agree.

    sets: (name, `reliability` of a dev set), at most two; a single one needs no name.
    """
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=":")
    for (name, found), color in zip(sets, LINES, strict=False):
        points = [(100 * one["probability"], 100 * one["right"]) for one in found["bins"]]
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name, clip_on=False)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("mean probability, %")
    label_above(axes, "right, %")
    if len(sets) > 1:
        axes.legend(labelcolor="linecolor", loc="upper left")
    return figure


@styled
def draw_scatter(points: Sequence[tuple[float, float]]) -> "Figure":
    """Draws predicted scores over the right ones, with a line where both agree.

    points: (label, prediction).
    """
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    labels, predictions = zip(*points, strict=True)
    ends = [min(labels + predictions), max(labels + predictions)]
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=":")
    axes.plot(labels, predictions, "o", color=LINES[0], markersize=3, alpha=0.35, linewidth=0)
    axes.set_xlabel("label")
    label_above(axes, "prediction")
    return figure
