"""The report in a browser: complete, and readable on a phone, in dark mode, offline."""

import html
import json
import re
import shutil
import subprocess

import pytest

from result_collection.report import main

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--hide-scrollbars", "--no-sandbox", "--no-first-run"),
    *("--disable-gpu", "--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# Runs in a copy of the page, in a frame as wide as a phone: browser windows are wider. Writes its
# findings into the title of the page around the frame.
PROBE = """<script>
addEventListener("load", () => {
  const box = (element) => {
    const {left, right, width, height} = element.getBoundingClientRect();
    return {left, right, width, height};
  };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const style = getComputedStyle(document.body);
  parent.document.title = JSON.stringify({
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    requests: performance.getEntriesByType("resource").length,
    charts: all("figure").map((e) => ({id: e.id, alt: e.querySelector("[role=img]").ariaLabel,
      caption: e.querySelector("figcaption").textContent, ...box(e.querySelector("svg"))})),
    letters: all("svg text").map((e) => e.getBoundingClientRect().height),
    tables: all("table").filter((e) => !e.closest("details")).map((e) => (
      {caption: e.caption.textContent, rows: e.rows.length, ...box(e.parentElement)})),
    links: all("nav a").map((e) => Boolean(document.querySelector(e.getAttribute("href")))),
    alerts: all("script").length - 1,
    colors: [style.color, style.backgroundColor, getComputedStyle(all("svg text")[0]).fill],
  });
});
</script>"""

pytestmark = pytest.mark.skipif(not BROWSER, reason="no browser found")


def look_at(page, tmp_path, width: int, dark: bool = False) -> dict:
    """Returns the PROBE's findings in a page. width: in CSS pixels."""
    copy = tmp_path / "copy.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, page.read_text())
    frame = f'<iframe width={width} height=2000 srcdoc="{html.escape(text)}"></iframe>'
    copy.write_text(f"<meta charset=utf-8><style>iframe {{border: 0}}</style>{frame}")
    flags = (
        f"--user-data-dir={tmp_path / f'profile-{width}-{dark}'}",
        "--window-size=1400,2000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--dump-dom",
    )
    done = subprocess.run(
        [BROWSER, *FLAGS, *flags, copy.as_uri()], capture_output=True, text=True, timeout=60
    )
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    return json.loads(html.unescape(title.group(1)))


def check_fits(seen: dict) -> None:
    assert seen["requests"] == 0 and seen["alerts"] == 0
    assert seen["scrollWidth"] <= seen["width"]
    for part in (*seen["charts"], *seen["tables"]):
        assert part["width"] > 200 and part["height"] > 20, part
        assert part["left"] >= 0 and part["right"] <= seen["width"], part
        assert part["caption"], part


@pytest.mark.parametrize("width", [390, 1280])
def test_all_charts_and_tables_fit(reported, tmp_path, width):
    _, folder = reported
    seen = look_at(folder / "report.html", tmp_path, width)
    assert seen["width"] == width
    check_fits(seen)
    assert {chart["id"] for chart in seen["charts"]} == {
        f"chart-{path.stem}" for path in (folder / "plots").iterdir()
    }
    assert all(chart["alt"] for chart in seen["charts"])
    assert seen["tables"][0]["rows"] == 1 + 5 + 3  # tasks and averages
    # Two tables for each dev set with labels: those of CoLA, MNLI (two), CB and the own task.
    assert len(seen["tables"]) == 4 + 2 * 5 and len(seen["links"]) == 8 and all(seen["links"])
    assert min(seen["letters"]) > 7  # the smallest text of a chart, in CSS pixels


def test_dark_mode_is_dark(reported, tmp_path):
    _, folder = reported
    light = look_at(folder / "report.html", tmp_path, 390)["colors"]
    dark = look_at(folder / "report.html", tmp_path, 390, dark=True)["colors"]

    def brightness(color: str) -> int:
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    for ink, background, letters in (light, [*dark]):
        assert abs(brightness(ink) - brightness(background)) > 400
        assert abs(brightness(letters) - brightness(background)) > 200
    assert brightness(light[1]) > 700 and brightness(dark[1]) < 120


def test_a_comparison_fits(reported, tmp_path):
    _, folder = reported
    output = tmp_path / "compare.html"
    assert main([str(folder), str(folder), "--output", str(output)]) == 0
    seen = look_at(output, tmp_path, 390)
    check_fits(seen)
    assert len(seen["charts"]) == 2 + 5 and len(seen["tables"]) == 1
