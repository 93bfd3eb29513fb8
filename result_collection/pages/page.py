"""HTML that is escaped unless it was made here, and the parts that the pages are built of."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from result_collection.pages.charts import svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("report.css")
# Nothing is loaded: what the page shows is in it, and were a script to slip in, it would not run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
VOID = ("meta",)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Iterable["Content"]


def tag(element: str, /, *content: Content, **attributes: str) -> Markup:
    """`tag("a", "text", href="x")`; all but Markup is escaped, `class_` is written `class`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    end = "" if element in VOID else f"</{element}>"
    return Markup(f"<{element}{written}>{join(content)}{end}")


def join(content: Content) -> Markup:
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(html.escape(content))
    return Markup("".join(map(join, content)))


def document(title: str, *body: Content) -> str:
    """A whole page, which needs nothing beside it."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", title),
        Markup(f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>"),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def table(
    caption: Content,
    header: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    numbers: Iterable[int] = (),
) -> Markup:
    """A table in a box that scrolls by itself; numbers: columns that are aligned to the right.

    The first cell of a row is its heading.
    """
    right = set(numbers)

    def cell(kind: str, place: int, content: Content, **attributes: str) -> Markup:
        style = {"class_": "number"} if place in right else {}
        return tag(kind, content, **attributes, **style)

    head = [cell("th", place, content, scope="col") for place, content in enumerate(header)]
    body = [
        [
            cell("th", 0, row[0], scope="row"),
            *(cell("td", place, content) for place, content in enumerate(row[1:], 1)),
        ]
        for row in rows
    ]
    parts = [tag("caption", tag("span", caption)), tag("thead", tag("tr", head))]
    parts.append(tag("tbody", [tag("tr", cells) for cells in body]))
    # A box that scrolls can be reached by the keyboard only if it can have the focus.
    return tag(
        "div", tag("table", parts), class_="scroll", tabindex="0", role="group", aria_label="table"
    )


def figure(drawn: "Figure", name: str, caption: Content, alt: str) -> Markup:
    """A chart with what is below it. alt: what it shows, for who does not see it."""
    chart = tag("div", Markup(svg_text(drawn, name)), class_="chart", role="img", aria_label=alt)
    return tag("figure", chart, tag("figcaption", caption), id=f"chart-{name}")


def section(title: Content, *content: Content, name: str) -> Markup:
    return tag("section", tag("h2", title, id=name), *content)


def facts(rows: Iterable[tuple[Content, Content]]) -> Markup:
    """Names and values, side by side where there is room."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows])


def fold(title: Content, *content: Content) -> Markup:
    """What few readers want to see; on paper it is there only if it is open."""
    return tag("details", tag("summary", title), *content)
