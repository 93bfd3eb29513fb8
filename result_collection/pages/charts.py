"""Charts of the report, for the page and for PNG files.

The figures use the colours of PALETTE. The page's SVG replaces each colour by the CSS variable of
its name, for the light and dark themes of report.css. The figures are as wide as a phone, so font
sizes are those on its screen.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from result_collection.pages.numbers import amount, epochs, points, rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.7  # inches; at 72 points each, about a phone's 358 CSS pixels
PALETTE = {
    "ink": "#1b2631",
    "muted": "#5a6876",
    "grid": "#d8dee5",
    "best": "#b3470a",
    "line-0": "#0b63a9",
    "line-1": "#c2530d",
    # Even steps of lightness: readable in greyscale and by the colour-blind.
    "heat-0": "#eff5fc",
    "heat-1": "#d6e5f4",
    "heat-2": "#b9d2eb",
    "heat-3": "#95bbdf",
    "heat-4": "#6b9fd0",
    "heat-5": "#3a76b3",
    "heat-6": "#205c9b",
    "heat-7": "#0d4784",
    "heat-8": "#072e5c",
    "on-low-heat": "#14202c",
    "on-high-heat": "#fdfdfe",
}
HEATS = [name for name in PALETTE if name.startswith("heat-")]
NUM_LOW_HEATS = 5  # with dark text
INK, MUTED, GRID, BEST = (PALETTE[name] for name in ("ink", "muted", "grid", "best"))
LINES = (PALETTE["line-0"], PALETTE["line-1"])
STYLE = {
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
# Column name -> values; all columns have the same length.
Columns = Mapping[str, Sequence[float | None]]


def styled(draw: Callable[..., "Figure"]) -> Callable[..., "Figure"]:
    """Decorates a drawing function to use STYLE and to ignore the user's matplotlibrc."""

    def drawn(*args: Any) -> "Figure":
        import matplotlib

        style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}
        with matplotlib.rc_context(style):
            figure = draw(*args)
            # One layout for the SVG and the PNG.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return drawn


def svg_text(figure: "Figure", name: str) -> str:
    """Returns the figure as an SVG element with the fonts and colours of the page.

    name: of the chart; makes its ids unique in the page. The text is deterministic.
    """
    import matplotlib

    buffer = BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1: not unique in the page
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', text, count=1)
    for color_name, color in PALETTE.items():
        text = text.replace(color, f"var(--{color_name})")
    return re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL).strip()


def new_figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


@styled
def draw_scores(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draws each task's score as a dot, its interval (or range) as a line, the majority as a tick.

    rows: `tasks` of a summary, from top to bottom.
    """
    figure = new_figure(0.85 + 0.27 * len(rows))
    axes = figure.add_subplot()
    lowest = 100 * min([0.0, *(row["score"] for row in rows)])
    for place, row in enumerate(rows):
        score, level = 100 * row["score"], [place, place]
        axes.plot([lowest, score], level, color=GRID, linewidth=1)
        spread = [row["spread"]["min"], row["spread"]["max"]] if row["spread"] else []
        span = [100 * end for end in row.get("interval", spread)]
        axes.plot(span, level[: len(span)], color=LINES[0], linewidth=4.5, alpha=0.35, zorder=2)
        axes.plot(score, place, "o", color=LINES[0], markersize=6, zorder=4, clip_on=False)
        axes.text(117, place, points(row["score"]), ha="right", va="center", fontweight="bold")
    places = [place for place, row in enumerate(rows) if row["majority"]]
    if places:
        shares = [100 * rows[place]["majority"]["score"] for place in places]
        label = "always the majority label"
        axes.scatter(
            shares, places, s=90, c=LINES[1], marker="|", linewidths=1.6, label=label, zorder=3
        )
        figure.legend(loc="outside upper left", labelcolor=MUTED)
    axes.set_yticks(range(len(rows)), [row["task"] for row in rows], color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(lowest - 1, 118)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("dev score x 100")
    axes.tick_params(length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return figure


@styled
def draw_grid(settings: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draws a heat map of the scores over learning rate and batch size, for each number of epochs.

    settings: of a row of a summary, with `epochs`, `batch_size`, `learning_rate`, `score`,
    `spread` and `is_best`. Missing combinations are marked as not run.
    """
    rates = sorted({setting["learning_rate"] for setting in settings})
    sizes = sorted({setting["batch_size"] for setting in settings})
    budgets = sorted({setting["epochs"] for setting in settings})
    low = min(setting["score"] for setting in settings)
    high = max(setting["score"] for setting in settings)
    row_height = 0.47 if any(setting["spread"] for setting in settings) else 0.33
    figure = new_figure(0.45 + len(budgets) * (0.32 + row_height * len(sizes)))
    panels = figure.subplots(len(budgets), sharex=True, squeeze=False)[:, 0]
    for number, axes in zip(budgets, panels, strict=True):
        cells = {
            (s["learning_rate"], s["batch_size"]): s for s in settings if s["epochs"] == number
        }
        for x, learning_rate in enumerate(rates):
            for y, size in enumerate(sizes):
                _draw_cell(axes, x, y, cells.get((learning_rate, size)), low, high)
        axes.set_title(epochs(number), loc="left", pad=3)
        axes.set_xlim(0, len(rates))
        axes.set_ylim(len(sizes), 0)
        axes.set_yticks([y + 0.5 for y in range(len(sizes))], [str(size) for size in sizes])
        axes.set_xticks([x + 0.5 for x in range(len(rates))], [rate(value) for value in rates])
        axes.tick_params(length=0, labelcolor=INK)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    panels[-1].set_xlabel("learning rate")
    figure.supylabel("batch size", fontsize=9.5, color=MUTED)
    return figure


def _draw_cell(
    axes: "Axes", x: int, y: int, setting: Mapping[str, Any] | None, low: float, high: float
) -> None:
    """Draws a cell with the setting's score, and its range over the seeds below."""
    from matplotlib.patches import Rectangle

    gap, centre = 0.02, (x + 0.5, y + 0.5)
    corner, size = (x + gap, y + 2 * gap), (1 - 2 * gap, 1 - 4 * gap)
    if setting is None:
        axes.add_patch(Rectangle(corner, *size, facecolor="none", edgecolor=GRID, linestyle="--"))
        axes.text(*centre, "not run", ha="center", va="center", color=MUTED, fontsize=8.5)
        return
    share = (setting["score"] - low) / (high - low) if high > low else 1.0
    heat = round(share * (len(HEATS) - 1))
    color = PALETTE["on-low-heat" if heat < NUM_LOW_HEATS else "on-high-heat"]
    axes.add_patch(Rectangle(corner, *size, facecolor=PALETTE[HEATS[heat]], edgecolor="none"))
    if setting["is_best"]:
        axes.add_patch(
            Rectangle(corner, *size, facecolor="none", edgecolor=BEST, linewidth=2.4, zorder=3)
        )
    text: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
    weight = "bold" if setting["is_best"] else "normal"
    spread = setting["spread"]
    place = (centre[0], centre[1] - 0.15) if spread else centre
    axes.text(*place, points(setting["score"]), fontsize=10, fontweight=weight, **text)
    if spread:
        span = f"{points(spread['min'])}\N{EN DASH}{points(spread['max'])}"
        axes.text(centre[0], centre[1] + 0.24, span, fontsize=7.8, **text)


@styled
def draw_losses(
    runs: Sequence[tuple[str, Columns, Columns]], begins: Sequence[float] = ()
) -> "Figure":
    """Draws training and validation losses of pretraining over the steps, and the learning rate.

    runs: (name, training lines, validation lines); a single run needs no name. begins: steps at
    which a phase begins, drawn as vertical lines.
    """
    figure = new_figure(3.6)
    losses, rates = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    for (name, train, validation), color in zip(runs, LINES, strict=False):
        prefix = f"{name}, " if len(runs) > 1 else ""
        held_out = color if len(runs) > 1 else LINES[1]
        losses.plot(*_line(train, "loss"), color=color, label=f"{prefix}training")
        if validation["step"]:
            label = f"{prefix}validation"
            losses.plot(*_line(validation, "loss"), "o--", color=held_out, label=label)
        rates.plot(*_line(train, "lr"), color=color)
    for step in begins:
        for axes in (losses, rates):
            axes.axvline(step, color=MUTED, linewidth=1, linestyle=":")
    label_above(losses, "loss, nats per predicted token")
    losses.legend(labelcolor="linecolor", loc="upper right")
    _learning_rates(rates)
    _count_steps(rates)
    return figure


@styled
def draw_throughput(runs: Sequence[tuple[str, Columns]]) -> "Figure":
    """Draws samples and tokens per second and the share of the peak over the steps.

    runs: (name, training lines).
    """
    figure = new_figure(3.6)
    panels = figure.subplots(3, sharex=True)
    names = ("samples_per_second", "tokens_per_second", "peak_share")
    titles = ("samples per second", "tokens per second", "share of the matrix-product peak")
    for axes, column, title in zip(panels, names, titles, strict=True):
        for (name, train), color in zip(runs, LINES, strict=False):
            axes.plot(*_line(train, column), color=color, label=name)
        _from_zero(axes)
        axes.locator_params(axis="y", nbins=3)
        axes.yaxis.set_major_formatter(lambda value, _: amount(value))
        label_above(axes, title)
    panels[-1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    _count_steps(panels[-1])
    if len(runs) > 1:
        panels[0].legend(loc="lower right", ncols=2, labelcolor="linecolor")
    return figure


@styled
def draw_finetuning(runs: Sequence[tuple[str, Columns, Columns]]) -> "Figure":
    """Draws loss, dev scores and learning rate of a task's submitted run over the epochs.

    runs: (name, history with `epoch`, `loss`, `learning_rate`, evaluations with `epoch`, `score`).
    """
    scored = any(evaluations["epoch"] for _, _, evaluations in runs)
    figure = new_figure(3.6 if scored else 2.8)
    panels = figure.subplots(2 + scored, sharex=True, height_ratios=[2, 1, 1][: 2 + scored])
    for (name, history, evaluations), color in zip(runs, LINES, strict=False):
        panels[0].plot(*_line(history, "loss", "epoch"), color=color, label=name)
        if scored:
            over, scores = _line(evaluations, "score", "epoch")
            panels[1].plot(over, [100 * score for score in scores], "o-", color=color)
        panels[-1].plot(*_line(history, "learning_rate", "epoch"), color=color)
    label_above(panels[0], "training loss")
    _from_zero(panels[0])
    if scored:
        label_above(panels[1], "dev score x 100")
        panels[1].margins(y=0.2)
    _learning_rates(panels[-1])
    panels[-1].set_xlabel("epoch")
    panels[-1].set_xlim(left=0)
    if len(runs) > 1:  # curves seldom reach the lower left corner
        panels[0].legend(labelcolor="linecolor", loc="lower left")
    return figure


@styled
def draw_lengths(counts: Sequence[int], max_seq_length: int) -> "Figure":
    """Draws a histogram of the samples' lengths.

    counts: of samples, in equal ranges of 1 .. max_seq_length tokens.
    """
    figure = new_figure(2.2)
    axes = figure.add_subplot()
    width = max_seq_length / len(counts)
    edges = [number * width for number in range(len(counts))]
    axes.bar(edges, counts, width=0.92 * width, align="edge", color=LINES[0])
    axes.set_xlim(0, max_seq_length)
    axes.set_xlabel("tokens in a sample")
    label_above(axes, "samples")
    axes.yaxis.set_major_formatter(lambda value, _: amount(value))
    axes.grid(axis="x", visible=False)
    return figure


def _line(columns: Columns, name: str, over: str = "step") -> tuple[list[float], list[float]]:
    """Returns x and y of a line, with NaN for missing values: a gap in the line."""
    x, y = (
        [math.nan if value is None else value for value in columns[column]]
        for column in (over, name)
    )
    return x, y


def label_above(axes: "Axes", text: str) -> None:
    """Writes the label of the y axis above it: rotated text is hard to read."""
    axes.set_title(text, loc="left", pad=4, fontsize=9.5, color=MUTED)
    axes.tick_params(length=0)


def _from_zero(axes: "Axes") -> None:
    """Starts the y axis at 0, with space above the highest line, even if it is flat."""
    highest = axes.dataLim.y1
    axes.set_ylim(0, 1.08 * highest if 0 < highest < math.inf else 1)


def _learning_rates(axes: "Axes") -> None:
    label_above(axes, "learning rate")
    _from_zero(axes)
    axes.yaxis.set_major_formatter(lambda value, _: rate(value))
    axes.locator_params(axis="y", nbins=3)


def _count_steps(axes: "Axes") -> None:
    """Starts the x axis at step 0, with short labels of whole steps."""
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
