"""Plots the learning rate of a run before the run."""

from pathlib import Path

from pipeline.store.atomic_files import written_aside
from pretrain.optimization.lr_curves import CurveShape, lr_multiplier

NUM_POINTS = 4001  # more than pixels, so that steps look like steps
LINE, WARMUP, GREY = "#1f4e9c", "#f2b366", "#666666"
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def plot_lr(
    curve: str, shape: CurveShape, peak: float, path: Path, unit_label: str, total: float
) -> None:
    """Draws the learning rate of a run into a file, a .png or .svg by its suffix.

    unit_label: unit of progress, such as steps, hours or tokens. total: length of the run in it.
    Raises KeyError for an unknown curve and ValueError for another suffix.
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path}: expected a name that ends in .png or .svg")
    figure = draw_lr(curve, shape, peak, unit_label, total)
    with written_aside(path) as aside:
        figure.savefig(aside, format=path.suffix[1:], dpi=150)


def draw_lr(curve: str, shape: CurveShape, peak: float, unit_label: str, total: float):
    """Returns the plot as a matplotlib Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = [i / (NUM_POINTS - 1) for i in range(NUM_POINTS)]
    rates = [peak * lr_multiplier(curve, share, shape) for share in shares]
    axes.plot([total * share for share in shares], rates, color=LINE, linewidth=2, zorder=3)
    warmup = (shape.warmup - shape.begin) / (shape.end - shape.begin)
    if warmup > 0:
        axes.axvspan(
            0, total * min(1.0, warmup), color=WARMUP, alpha=0.35, linewidth=0, label="warmup"
        )
        axes.legend(loc="upper right", frameon=False)
    axes.set_title(curve.replace("_", " "), loc="left", fontweight="bold")
    summary = f"peak {peak:g}, {_amount(total, total)} {unit_label}"
    axes.set_title(summary, loc="right", color=GREY, fontsize="medium")
    axes.set_xlabel(unit_label)
    axes.set_ylabel("learning rate")
    axes.set_xlim(0, total)
    axes.set_ylim(0, 1.15 * peak)  # room for the legend above a constant curve
    axes.xaxis.set_major_formatter(lambda value, _: _amount(value, total))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color=GREY, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _amount(value: float, total: float) -> str:
    """Formats a tick of an axis: 1,500, or 1.5B where the total is counted in billions."""
    for size, letter in UNITS:
        if total >= size and value:
            return f"{value / size:.4g}{letter}"
    return f"{value:,.10g}"
