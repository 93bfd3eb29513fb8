"""The files that the GLUE server takes: made from predictions, checked, and zipped.

Eleven TSVs with the header `index<TAB>prediction`, one line per test row, LF, in a flat zip.

    python -m result_collection.submission check FILE.zip
"""

import argparse
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from finetune.tasks import Split, Task, submission_splits
from finetune.tsv import read_tsv
from pipeline.artifacts import written_aside
from pipeline.errors import StageError

HEADER = "index\tprediction"
PARTIAL_SUFFIX = "-partial-not-for-submission"
# Fixed date of all files in the zip: the same predictions give the same bytes.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


# --- making ----------------------------------------------------------------------------------


def submission_text(task: Task, predictions: Path) -> str:
    """The submitted file for a run's predictions (`index`, `prediction` in label words).

    Words are spelled as the server expects them (CoLA's `acceptable` as 1); scores are clipped
    to the task's range and have 3 decimals. Raises StageError for a word that the task lacks.
    """
    rows = read_tsv(predictions, ("prediction",)).rows
    cells = [_cell(task, value, f"{predictions}:{number}") for number, (value,) in rows]
    return "\n".join([HEADER, *(f"{i}\t{cell}" for i, cell in enumerate(cells))]) + "\n"


def _cell(task: Task, value: str, place: str) -> str:
    if task.is_regression:
        low, high = task.score_range
        return f"{min(max(float(value), low), high):.3f}"
    if value not in task.labels:
        raise StageError(f"{place}: {value!r}, expected one of {', '.join(task.labels)}")
    return task.labels[value]


def zip_path(directory: Path, partial: bool) -> Path:
    """The zip stands beside the folder of its files."""
    return directory.with_name(f"{directory.name}{PARTIAL_SUFFIX if partial else ''}.zip")


def write_zip(path: Path, files: Mapping[str, str]) -> None:
    """Name -> text, flat, in the order given; the same content gives the same bytes."""
    with written_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, text in files.items():
            member = zipfile.ZipInfo(name, ZIP_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, text.encode())


# --- checking --------------------------------------------------------------------------------


def find_problems(files: Mapping[str, str]) -> list[str]:
    """All that is wrong with a submission (file name -> text), a line each; empty if nothing."""
    problems = []
    for name, (task, split) in submission_splits().items():
        if f"{name}.tsv" not in files:
            problems.append(f"{name}.tsv is missing")
        else:
            found = _file_problems(task, split, files[f"{name}.tsv"])
            problems += [f"{name}.tsv: {problem}" for problem in found]
    known = {f"{name}.tsv" for name in submission_splits()}
    problems += [f"{name} does not belong to a submission" for name in files if name not in known]
    return problems


def _file_problems(task: Task, split: Split, text: str) -> list[str]:
    """The wrong count, and the first wrong line of each kind."""
    problems = []
    if "\r" in text:
        problems.append("lines end in CRLF, expected LF")
    lines = text.removesuffix("\n").replace("\r", "").split("\n")
    if lines[0] != HEADER:
        problems.append(f"the header is {lines[0]!r}, expected {HEADER!r}")
    rows = [line.split("\t") for line in lines[1:]]
    if len(rows) != split.num_rows:
        problems.append(f"{len(rows)} rows, expected {split.num_rows}")
    if (at := _first(i for i, row in enumerate(rows) if row[0] != str(i))) is not None:
        problems.append(f"line {at + 2}: index {rows[at][0]!r}, expected {at}")
    wrong = (i for i, row in enumerate(rows) if not _is_valid(task, row))
    if (at := _first(wrong)) is not None:
        problems.append(f"line {at + 2}: {rows[at][1:]}, expected {_expected(task)}")
    return problems


def _first(numbers) -> int | None:
    return next(iter(numbers), None)


def _is_valid(task: Task, row: list[str]) -> bool:
    if len(row) != 2:
        return False
    if not task.is_regression:
        return row[1] in task.labels.values()
    try:
        return task.score_range[0] <= float(row[1]) <= task.score_range[1]
    except ValueError:
        return False


def _expected(task: Task) -> str:
    if task.is_regression:
        return "one number from {:g} to {:g}".format(*task.score_range)
    return f"one of {', '.join(task.labels.values())}"


def read_submission(path: Path) -> dict[str, str]:
    """Name -> text of each file of a zip, or of the TSVs of a folder."""
    if path.is_dir():
        tables = sorted(set(path.glob("*.tsv")) - {path / "summary.tsv"})  # the stage's own
        files = {file.name: file.read_bytes() for file in tables}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    return {name: content.decode("utf-8", "replace") for name, content in files.items()}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 if the submission is as the server expects it, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m result_collection.submission")
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="say all that is wrong with a zip or folder")
    check.add_argument("path", type=Path)
    path = parser.parse_args(arguments).path
    try:
        problems = find_problems(read_submission(path))
    except (OSError, zipfile.BadZipFile) as error:
        problems = [f"cannot be read: {error}"]
    for problem in problems:
        print(f"{path}: {problem}")
    print(f"{path}: {'cannot be submitted' if problems else 'ready for submission'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
