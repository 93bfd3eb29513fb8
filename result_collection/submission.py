"""Submission files for the servers of GLUE and SuperGLUE: written and checked.

GLUE: eleven TSVs with the header `index<TAB>prediction`, one line per test row. SuperGLUE: ten
files with a JSON object per line, `idx` and `label`. LF, in a flat zip.

    python -m result_collection.submission check FILE.zip|FOLDER
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from finetune.data.tables import read_table
from finetune.data.tasks import Task
from pipeline.errors import StageError
from result_collection.submissions.archive import ENDINGS, read_submission
from result_collection.submissions.submission_checks import HEADER, find_problems

COPA_CHOICES = ("0", "1")


# --- making ----------------------------------------------------------------------------------


def submission_text(task: Task, predictions: Path) -> str:
    """Returns the submission file for a run's predictions (`index`, `prediction` as label words).

    Labels are spelled as the server expects them (CoLA's `acceptable` as 1). Scores are clipped to
    the task's range and have 3 decimals. Raises StageError for an unknown label.
    """
    rows = [
        (index, _cell(task, value, f"{predictions}:{number}"))
        for number, (index, value) in read_table(predictions, ("index", "prediction")).rows
    ]
    if task.benchmark == "SuperGLUE":
        objects = _passages(rows) if task.layout == "answers" else _labels(rows)
        return "".join(f"{json.dumps(row)}\n" for row in objects)
    return "\n".join([HEADER, *(f"{i}\t{cell}" for i, (_, cell) in enumerate(rows))]) + "\n"


def _cell(task: Task, value: str, place: str) -> str | int:
    if task.is_regression:
        low, high = task.score_range
        return f"{min(max(float(value), low), high):.3f}"
    if task.layout == "entities":  # any text of the passage
        return value
    choices = task.layout == "choices"
    spellings = {choice: choice for choice in COPA_CHOICES} if choices else task.labels
    if value not in spellings:
        raise StageError(f"{place}: {value!r}, expected one of {', '.join(spellings)}")
    is_number = task.has_several_samples  # COPA's choices, MultiRC's 0 and 1
    return int(spellings[value]) if is_number else spellings[value]


def _labels(rows: list[tuple[str, str | int]]) -> Iterator[dict[str, Any]]:
    for index, label in sorted(rows, key=lambda row: int(row[0])):
        yield {"idx": int(index), "label": label}


def _passages(rows: list[tuple[str, str | int]]) -> Iterator[dict[str, Any]]:
    """Groups MultiRC's answers, `passage-question-answer`, by passage and question."""
    passages: dict[int, dict[int, list]] = {}
    for index, label in rows:
        passage, question, answer = map(int, index.split("-"))
        answers = passages.setdefault(passage, {}).setdefault(question, [])
        answers.append({"idx": answer, "label": label})
    for passage, questions in sorted(passages.items()):
        asked = [{"idx": number, "answers": answers} for number, answers in questions.items()]
        yield {"idx": passage, "passage": {"questions": asked}}


# --- checking --------------------------------------------------------------------------------


def check(path: Path) -> list[str]:
    """Returns all problems of a zip or folder; tells the benchmark by its files."""
    try:
        files, problems = read_submission(path)
    except (OSError, zipfile.BadZipFile) as error:
        return [f"cannot be read: {getattr(error, 'strerror', None) or error}"]
    if path.is_dir() and not files:
        return ["the folder has no .tsv and no .jsonl file"]
    for benchmark, its_files in _by_benchmark(files, several=path.is_dir()).items():
        problems += find_problems(its_files, benchmark)
    return problems


def _by_benchmark(
    files: Mapping[str, bytes | None], several: bool
) -> dict[str, Mapping[str, bytes | None]]:
    """Groups files by benchmark; unless `several`, assigns all files to one."""
    found = {
        benchmark: {name: files[name] for name in files if name.lower().endswith(ending)}
        for benchmark, ending in ENDINGS.items()
    }
    if several:
        return {benchmark: its_files for benchmark, its_files in found.items() if its_files}
    return {max(found, key=lambda benchmark: len(found[benchmark])): files}


def main(arguments: list[str] | None = None) -> int:
    """Returns exit code 0 for a valid submission, 1 for a refused one."""
    parser = argparse.ArgumentParser(prog="python -m result_collection.submission")
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("check", help="say all that is wrong with a submission")
    add.add_argument("path", type=Path, metavar="FILE.zip|FOLDER")
    path = parser.parse_args(arguments).path
    problems = check(path)
    for problem in problems:
        print(f"{path}: {problem}")
    print(f"{path}: {'cannot be submitted' if problems else 'ready for submission'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
