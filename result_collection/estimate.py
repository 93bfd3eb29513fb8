"""Gaps of the submissions, as known before the search."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.demo_glue import DEMO_NAME
from finetune.data.examples import find_file, has_split, num_rows
from finetune.data.tasks import submission_splits
from finetune.search.search import Search
from pipeline.stage_plan import Estimate
from result_collection.plan import ResultPlan
from result_collection.submissions.archive import ENDINGS, file_name

if TYPE_CHECKING:
    from yacs.config import CfgNode


def estimate(config: "CfgNode", plan: ResultPlan) -> Estimate:
    """Returns a line for each benchmark without a complete submission."""
    return Estimate(tuple(_notes(plan.search, config.RESULT_COLLECTION.ALLOW_PARTIAL)))


def run_notes(config: "CfgNode", plan: ResultPlan) -> Iterator[str]:
    """Yields warnings of test files with an unexpected number of rows."""
    search, allow_partial = plan.search, config.RESULT_COLLECTION.ALLOW_PARTIAL
    for benchmark in ENDINGS:
        wrong = list(_wrong_counts(search, benchmark))
        if wrong and (allow_partial or not tasks_not_searched(search, benchmark)):
            more = f" (and {len(wrong) - 1} more such files)" if wrong[1:] else ""
            yield f"{benchmark}: {_refused(wrong[0] + more, allow_partial)}"


def tasks_not_searched(search: Search, benchmark: str) -> list[str]:
    """Returns the tasks of a submission without a search."""
    needed = dict.fromkeys(task.name for task, _ in submission_splits(benchmark).values())
    return [name for name in needed if name not in {task.name for task in search.tasks}]


def _notes(search: Search, allow_partial: bool) -> Iterator[str]:
    """Yields a line for each benchmark without a complete submission."""
    for benchmark in ENDINGS:
        if not any(task.benchmark == benchmark for task in search.tasks):
            continue
        is_demo = search.with_demo and benchmark == "GLUE"  # may not be written yet
        not_searched = tasks_not_searched(search, benchmark)
        if not_searched and not allow_partial:
            yield f"{benchmark}: no zip, as {', '.join(not_searched)} are not in FINETUNE.TASKS"
            continue
        lacks = [
            file_name(name, benchmark)
            for name, (task, split) in submission_splits(benchmark).items()
            if task not in search.tasks or not (is_demo or has_split(split, search.data_dir(task)))
        ]
        if lacks:
            why = f"{', '.join(lacks)} will be missing"
            yield f"{benchmark}: {_refused(why, allow_partial)}"
        elif is_demo:
            why = f"{DEMO_NAME} (FINETUNE.GLUE_DIR) has fewer rows than GLUE"
            yield f"GLUE: {_refused(why, allow_partial)}"


def _refused(why: str, allow_partial: bool) -> str:
    made = "a zip that cannot be submitted" if allow_partial else "no zip, and an error at the end"
    way_out = "" if allow_partial else "; True makes one for trying out"
    return f"{made}, as {why} (RESULT_COLLECTION.ALLOW_PARTIAL is {allow_partial}{way_out})"


def _wrong_counts(search: Search, benchmark: str) -> Iterator[str]:
    for task, split in submission_splits(benchmark).values():
        folder = search.data_dir(task)
        is_demo = search.with_demo and benchmark == "GLUE"  # which the estimate covers
        # MultiRC's test answers have no labels, and cannot be counted quickly.
        if task not in search.tasks or not folder or is_demo or task.layout == "answers":
            continue
        path = find_file(split, Path(folder))
        if path and (found := num_rows(task, split, path)) != split.num_rows:
            yield f"{path} has {found:,} rows, expected {split.num_rows:,}"
