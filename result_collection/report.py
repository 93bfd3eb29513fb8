"""The report of a run: report.html, report.json and plots/ in its results folder.

    python -m result_collection.report A            redraws the report of A
    python -m result_collection.report A B          compares two runs in compare.html

The differences of two runs have intervals, if both have predictions on the same dev rows.

A and B are results folders (output_test_translated/finetune/<ID>/<PRETRAIN.ID>), the report.html or
report.json in them, or the zips beside them.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from pipeline.console import escape_unprintable
from pipeline.console import table as text_table
from pipeline.errors import StageError
from pipeline.privacy import private_files
from pipeline.store.atomic_files import write_json, write_text, written_aside
from pipeline.store.paths import REPORT_JSON
from result_collection.pages.comparison_page import NAMES, comparison_page, score_rows
from result_collection.pages.report_data import read_report
from result_collection.pages.run_page import draw_charts, report_page
from result_collection.predictions.comparison import paired

PAGE = "report.html"
PLOTS = "plots"
PNG_DPI = 200


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Writes report.json, the page and its charts; returns the path of the page."""
    write_json(folder / REPORT_JSON, report)
    return draw_report(folder)


def draw_report(folder: Path) -> Path:
    """Writes the page and its charts from report.json; returns the path of the page.

    Raises StageError for an invalid report.json.
    """
    report = read_report(folder)
    charts = draw_charts(report)
    write_text(folder / PAGE, report_page(report, charts))
    if (folder / PLOTS).is_symlink():  # never delete files in its target
        (folder / PLOTS).unlink()
    for old in (folder / PLOTS).glob("*.png"):
        old.unlink()
    for name, chart in charts.items():
        with written_aside(folder / PLOTS / f"{name}.png") as aside:
            chart.savefig(aside, format="png", dpi=PNG_DPI, facecolor="white")
    return folder / PAGE


def results_folder(named: Path) -> Path:
    """Returns the results folder of a path on the command line.

    Raises StageError for a missing folder, and for files of other types.
    """
    if named.is_dir():
        return named
    if named.suffix not in (".zip", ".html", ".json"):
        raise StageError(f"{named}: no such folder, expected a results folder, or a file of one")
    if named.suffix == ".zip":
        stems = [folder for folder in named.parent.glob("*/") if named.stem.startswith(folder.name)]
        return max(stems, key=lambda folder: len(folder.name), default=named)
    return named.parent


@private_files()
def main(arguments: list[str] | None = None) -> int:
    """Returns exit code 0, or 2 for a missing or invalid report."""
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m result_collection.report",
        description="Redraws the report of a run, or compares two runs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="results folder or zip")
    parser.add_argument("--output", type=Path, default=Path("compare.html"), metavar="HTML")
    options = parser.parse_args(arguments)
    if len(options.runs) > 2:
        parser.error(f"expected one run or two, got {len(options.runs)}")
    try:
        folders = [results_folder(path) for path in options.runs]
        if len(folders) == 1:
            print(draw_report(folders[0]))
            return 0
        first, second = (read_report(folder) for folder in folders)
        found = paired(folders, (first, second), NAMES)
        write_text(options.output, comparison_page(first, second, found))
        print("\n".join([text_table(score_rows(first, second, found)), *found.notes]))
        print(options.output)
    except StageError as error:
        print(error.cause, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
