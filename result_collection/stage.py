"""The result stage: scores, zips for the benchmarks' servers, and the report."""

import errno
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.examples import HUB_DATASET
from finetune.data.tasks import Split, Task, submission_splits
from finetune.kept_models import kept_models, lines_of_use
from finetune.search.grid import with_last_runs
from finetune.search.job_folder import predictions_path
from finetune.search.search import Search
from pipeline.console import Console, stage_console
from pipeline.errors import StageError
from pipeline.store.atomic_files import write_json, write_text
from pipeline.store.disk import FULL
from pipeline.store.paths import SUMMARY, log_path
from pipeline.store.record_files import delete_unfinished_file, read_json
from pretrain.start.completion import completed
from result_collection.checks import check_machine
from result_collection.estimate import tasks_not_searched
from result_collection.model_cards import add_to_cards
from result_collection.pages.report_data import collect
from result_collection.plan import ResultPlan, plan
from result_collection.predictions.best_runs import BestRuns, best_runs, write_runs
from result_collection.report import write_report
from result_collection.submission import submission_text
from result_collection.submissions.archive import (
    SUMMARY_TABLE,
    all_zips,
    file_name,
    write_zip,
    zip_path,
)
from result_collection.submissions.submission_checks import find_problems
from result_collection.summary import OWN, summarize
from result_collection.summary_text import as_text, as_tsv, headline
from result_collection.tagged_predictions import write_tagged

if TYPE_CHECKING:
    from yacs.config import CfgNode

DISK_ERRORS = (*FULL, errno.EIO, errno.EROFS)
# Servers for submissions, by benchmark.
SERVERS = {"GLUE": "https://gluebenchmark.com", "SuperGLUE": "https://super.gluebenchmark.com"}


def collect_test_result(config: "CfgNode") -> None:
    """Writes the summary, the submissions with their zips, and the report.

    Makes no zip for a benchmark with missing tasks, unless RESULT_COLLECTION.ALLOW_PARTIAL. Raises
    StageError if the search is unfinished, or if the server would refuse a complete submission.
    """
    config = completed(config)
    run(config, plan(config))


def run(config: "CfgNode", plan: ResultPlan) -> None:
    """Collects the results of the planned search; see `collect_test_result`."""
    artifact, search = plan.artifact, plan.search
    folder = artifact.directory
    log = log_path(search.root, artifact.stage, search.model.dataset_id, search.name)
    with stage_console(artifact.stage, log) as console:
        if artifact.status().done:
            console.say(f"up to date ({folder})")
            return
        found = _finished_search(plan)
        check_machine(config, plan)
        artifact.begin()
        console.show_life(artifact.directory)
        runs, reasons = best_runs(search, found)
        estimates = {task: best.estimates for task, best in runs.items()}
        summary = summarize(search.tasks, found, _sources(config, search), estimates)
        summary["without_estimates"] = reasons
        console.say(as_text(summary))
        write_json(folder / SUMMARY, summary)
        write_text(folder / SUMMARY_TABLE, as_tsv(summary))
        write_runs(folder, runs.values())
        zips = _make_zips(config, search, summary, folder, console)
        own = _own_predictions(search, summary, folder, console)
        submission = {"zips": zips, "own_predictions": own}
        report = _report(config, plan, summary, submission, runs, console)
        _check_zips(zips)
        add_to_cards(search, summary)
        use = lines_of_use(kept_models(search, found["best"]), search.tasks)
        for line in use:
            console.say(line)
        made = [_outcome(folder, made) for made in zips]
        artifact.finish(
            {
                **submission,
                "averages": summary["averages"],
                "report": report,
                "headline": [
                    headline(summary),
                    *made,
                    *([str(folder / report)] if report else []),
                    *use,
                ],
            }
        )


def _finished_search(plan: ResultPlan) -> dict[str, Any]:
    """Returns the search's summary. Raises StageError if the search is unfinished."""
    searched = plan.upstream.artifact
    found = read_json(searched.directory / SUMMARY)
    if not searched.status().done or not found:
        raise StageError(
            f"the results of finetuning are not there, or not as they were: {searched.directory} "
            f"({searched.status().reason}); run the finetune stage first (FINETUNE.ENABLED: True, "
            "or --stages finetune)"
        )
    _check_settings(found, searched.directory / SUMMARY, plan.search)
    return found


def _check_settings(found: Mapping[str, Any], path: Path, search: Search) -> None:
    """Raises StageError for runs of another search: their names become paths."""
    planned = {(job.task, job.setting) for job in with_last_runs(search.jobs)}
    try:
        named = {(run["task"], run["setting"]) for run in found["runs"]}
        named |= set(found["best"].items())
    except (KeyError, TypeError, AttributeError):
        named = {("", "")}
    if not named <= planned:
        raise StageError(
            f"{path}: is not the summary of this search; delete it, and run the finetune stage"
        )


def _sources(config: "CfgNode", search: Search) -> dict[str, str]:
    """Returns the origin of the data by benchmark."""
    places = {
        "GLUE": config.FINETUNE.GLUE_DIR or HUB_DATASET,
        "SuperGLUE": config.FINETUNE.SUPERGLUE_DIR,
        "": "FINETUNE.CUSTOM_TASKS",
    }
    searched = {task.benchmark for task in search.tasks}
    return {name or OWN: place for name, place in places.items() if name in searched}


# --- submissions -----------------------------------------------------------------------------


def _make_zips(
    config: "CfgNode", search: Search, summary: Mapping[str, Any], folder: Path, console: Console
) -> list[dict[str, Any]]:
    """Makes the zips; deletes those of earlier runs.

    Returns benchmark, zip (a name, "" if none was made), problems and lacks (missing tasks) of each
    searched benchmark.
    """
    rows = {row["task"]: row for row in summary["tasks"]}
    for archive in all_zips(folder):
        archive.unlink(missing_ok=True)
        delete_unfinished_file(archive)
    made = []
    for benchmark in SERVERS:
        files = _write_files(search, rows, folder, benchmark)
        if any(task.benchmark == benchmark for task in search.tasks):
            lacks = tasks_not_searched(search, benchmark)
            allow_partial = config.RESULT_COLLECTION.ALLOW_PARTIAL
            made.append(_make_zip(folder, files, benchmark, lacks, allow_partial, console))
    return made


def _write_files(
    search: Search, rows: Mapping[str, Mapping[str, Any]], folder: Path, benchmark: str
) -> dict[str, str]:
    """Writes a file for each predicted test set; returns the texts by name."""
    files = {}
    for name, (task, split) in submission_splits(benchmark).items():
        path = folder / file_name(name, benchmark)
        path.unlink(missing_ok=True)
        row = rows.get(task.name)
        if row and (predictions := _predictions(search, row, split)).exists():
            text = submission_text(task, predictions)
            files[path.name] = _constant(task, text, row) if row["submits_majority"] else text
            write_text(path, files[path.name])
    return files


def _predictions(search: Search, row: Mapping[str, Any], split: Split) -> Path:
    return predictions_path(search.task_dir(row["task"]) / row["submitted"]["setting"], split)


def _constant(task: Task, text: str, row: Mapping[str, Any]) -> str:
    """Returns a submitted TSV with the majority label in every row."""
    label = task.labels[row["majority"]["label"]]
    header, *lines = text.splitlines()
    constant = [f"{line.partition(chr(9))[0]}\t{label}" for line in lines]
    return "\n".join([header, *constant]) + "\n"


def _make_zip(
    folder: Path,
    files: Mapping[str, str],
    benchmark: str,
    lacks: list[str],
    allow_partial: bool,
    console: Console,
) -> dict[str, Any]:
    problems = find_problems(files, benchmark)
    if lacks and not allow_partial:  # one line instead of one per file
        missing = _missing_for(lacks, benchmark)
        problems = [
            f"no zip was made, as these tasks were not searched: {', '.join(lacks)}",
            *(problem for problem in problems if problem not in missing),
        ]
    for problem in problems:
        console.say(f"{benchmark}: {problem}")
    made = {"benchmark": benchmark, "zip": "", "problems": problems, "lacks": lacks}
    if problems and not allow_partial:
        return made
    archive = zip_path(folder, bool(problems), benchmark)
    write_zip(archive, files)
    if problems:
        console.say(
            f"{archive} is for trying out: it CANNOT BE SUBMITTED to the {benchmark} server"
        )
    else:
        console.say(f"{archive} is ready for {SERVERS[benchmark]}")
    return {**made, "zip": archive.name}


def _missing_for(tasks: list[str], benchmark: str) -> set[str]:
    """Returns the lines of `find_problems` on unsearched tasks."""
    return {
        f"{file_name(name, benchmark)} is missing"
        for name, (task, _) in submission_splits(benchmark).items()
        if task.name in tasks
    }


def _outcome(folder: Path, made: Mapping[str, Any]) -> str:
    if made["zip"]:
        return str(folder.with_name(made["zip"]))
    return f"{made['benchmark']}: {made['problems'][0]}"


def _check_zips(zips: list[dict[str, Any]]) -> None:
    """Raises StageError if a zip is missing although all tasks were searched."""
    refused = [
        f"{made['benchmark']}: {'; '.join(made['problems'])}"
        for made in zips
        if not made["zip"] and not made["lacks"]
    ]
    if refused:
        raise StageError(
            f"no zip was made, the server would refuse it: {'; '.join(refused)} "
            "(RESULT_COLLECTION.ALLOW_PARTIAL: True makes one anyway)"
        )


def _own_predictions(
    search: Search, summary: Mapping[str, Any], folder: Path, console: Console
) -> dict[str, str]:
    """Returns paths from `folder` to the predictions of custom test sets, by task.

    Those of tags are written there, in the format of the test set.
    """
    rows = {row["task"]: row for row in summary["tasks"]}
    found = {}
    for task in search.tasks:
        for split in task.test if not task.benchmark else ():
            path = _predictions(search, rows[task.name], split)
            if path.exists() and split.tag_column:
                path = write_tagged(task, split, path, folder)
            if path.exists():
                console.say(f"{task.name}: predictions in {path}")
                found[task.name] = os.path.relpath(path, folder)
    return found


# --- the report ------------------------------------------------------------------------------


def _report(
    config: "CfgNode",
    plan: ResultPlan,
    summary: Mapping[str, Any],
    submission: Mapping[str, Any],
    runs: Mapping[str, BestRuns],
    console: Console,
) -> str:
    """Writes the report; returns its name, "" if drawing failed: the zips are valid without it.

    Raises OSError for a faulty or full disk, for the next run to draw it.
    """
    try:
        folder = plan.artifact.directory
        found = collect(config, plan.upstream, folder, summary, submission, runs)
        page = write_report(folder, found)
    except Exception as error:  # a failed plot must not spoil days of work
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        console.note(traceback.format_exc())
        console.say(f"the report could not be drawn, {type(error).__name__}: {error}")
        return ""
    console.say(f"report: {page}")
    return page.name
