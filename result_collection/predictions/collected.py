"""The part of report.json on dev predictions."""

from collections.abc import Mapping
from typing import Any

from finetune.data.tasks import Split, Task
from finetune.search.search import Search
from pipeline.errors import StageError
from result_collection.predictions.best_runs import BestRuns
from result_collection.predictions.rows_of_files import FileRow, rows_by_name
from result_collection.predictions.tables import tables_of


def collected(search: Search, runs: Mapping[str, BestRuns], show_text: bool) -> dict[str, Any]:
    """Returns, by task, the `seeds` of the best setting and the `sets` of the submitted one: what
    it gets wrong on each dev set, with the lines of its worst mistakes.

    show_text: beside their lines, the text of these rows.
    """
    return {name: _of_task(search, best, show_text) for name, best in runs.items()}


def _of_task(search: Search, best: BestRuns, show_text: bool) -> dict[str, Any]:
    task, submitted = best.task, best.by_seed[best.submitted]
    sets = {}
    for split in task.dev:
        tables = tables_of(submitted[split.name])
        sets[split.name] = tables
        if tables.get("mistakes"):
            _add_places(tables, task, split, search.data_dir(task), show_text)
    return {
        "benchmark": task.benchmark,
        "seeds": list(best.by_seed),
        "submitted": best.submitted,
        "sets": sets,
    }


def _add_places(
    tables: dict[str, Any], task: Task, split: Split, data_dir: str, show_text: bool
) -> None:
    """Adds `place`, and maybe `texts`, to the mistakes; or the reason why they have none, as
    `note`. Rows of the Hub have no place."""
    if not (data_dir or show_text):
        return
    try:
        rows = _rows(task, split, data_dir)
        if missing := [found["row"] for found in tables["mistakes"] if found["row"] not in rows]:
            raise StageError(f"the data has changed: it has no row {missing[0]}")
    except StageError as error:
        tables["note"] = error.cause
        return
    for mistake in tables["mistakes"]:
        row = rows[mistake["row"]]
        mistake |= {"place": row.place} if row.place else {}
        mistake |= {"texts": list(row.texts)} if show_text else {}


def _rows(task: Task, split: Split, data_dir: str) -> dict[str, FileRow]:
    if not task.num_folds:
        return rows_by_name(task, split, data_dir)
    found: dict[str, FileRow] = {}
    for number in range(1, task.num_folds + 1):
        run = task.in_fold(number)
        found |= rows_by_name(run, run.dev[0], data_dir)
    return found
