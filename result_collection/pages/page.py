"""Renders the HTML templates of the pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import duration
from pipeline.store.paths import search_name
from result_collection import summary_text
from result_collection.pages import numbers
from result_collection.pages.charts import svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
TEMPLATES = Path(__file__).with_name("templates")
FILTERS = (
    *(numbers.points, numbers.epochs, numbers.rate, numbers.grouped, numbers.percent),
    *(numbers.decimals, numbers.last_known, numbers.config_value, duration),
    *(
        summary_text.spread_text,
        summary_text.metrics_text,
        summary_text.majority_text,
        summary_text.interval_text,
        summary_text.splits_of,
    ),
)


def render(template: str, charts: Mapping[str, "Figure"], **values: Any) -> str:
    """Returns a page; the same values give the same text.

    All values are escaped, except for the SVG of the charts. Raises jinja2.UndefinedError if the
    template uses an unknown value.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({function.__name__: function for function in FILTERS})
    drawn = {name: Markup(svg_text(figure, name)) for name, figure in charts.items()}
    return environment.get_template(template).render(values, charts=drawn)


def searched(report: Report) -> str:
    """Returns the name of the search; reports of old versions have only the model's."""
    return search_name(report["pretrain_id"], report.get("finetune_id", ""))
