"""The result stage: a table of scores, and the zip for the GLUE server."""

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.artifact import Search, finetune_artifact, load_search
from finetune.examples import HUB_DATASET
from finetune.runs import RESULT, predictions_path
from finetune.tasks import submission_splits
from pipeline.artifacts import log_path, read_json, write_json, write_text
from pipeline.console import Console, stage_console
from pipeline.errors import StageError
from result_collection.artifact import result_artifact
from result_collection.submission import find_problems, submission_text, write_zip, zip_path
from result_collection.summary import as_text, as_tsv, headline, summarize

if TYPE_CHECKING:
    from yacs.config import CfgNode


def collect_test_result(config: "CfgNode") -> None:
    """Shows and writes the summary, then the submission's files and zip.

    Raises StageError if the search is not finished, or, unless RESULT_COLLECTION.ALLOW_PARTIAL,
    if files are missing or miscounted (it lists them; no zip is left then).
    """
    artifact, search = result_artifact(config), load_search(config)
    model = search.model
    log = log_path(search.root, artifact.stage, model.dataset_id, model.pretrain_id)
    with stage_console(artifact.stage, log) as console:
        if artifact.status().done:
            console.say(f"up to date ({artifact.directory})")
            return
        best_runs = _best_runs(config, search)
        artifact.begin()
        results = {task: read_json(run / RESULT) for task, run in best_runs.items()}
        summary = summarize(results, config.FINETUNE.GLUE_DIR or HUB_DATASET)
        console.say(as_text(summary))
        write_json(artifact.directory / "summary.json", summary)
        write_text(artifact.directory / "summary.tsv", as_tsv(summary))
        files = _write_files(best_runs, artifact.directory)
        allow_partial = config.RESULT_COLLECTION.ALLOW_PARTIAL
        archive, problems = _write_zip(artifact.directory, files, allow_partial, console)
        artifact.finish(
            {
                "zip": archive.name,
                "problems": problems,
                "average": summary["average"],
                "headline": [headline(summary), str(archive)],
            }
        )


def _best_runs(config: "CfgNode", search: Search) -> dict[str, Path]:
    """Task -> folder of its best run. StageError if the search is not finished."""
    searched = finetune_artifact(config)
    if not searched.status().done:
        raise StageError(
            f"the results of finetuning are not there: {searched.directory} is "
            f"{searched.status().reason}; run the finetune stage first (FINETUNE.ENABLED: True, "
            "or --stages finetune)"
        )
    best = searched.manifest["results"]["best"]
    return {task: search.task_dir(task) / setting for task, setting in best.items()}


def _write_files(best_runs: dict[str, Path], directory: Path) -> dict[str, str]:
    """Writes the TSVs of all test sets that were predicted; those of earlier runs go."""
    files = {}
    for name, (task, split) in submission_splits().items():
        path = directory / f"{name}.tsv"
        path.unlink(missing_ok=True)
        if task.name not in best_runs:
            continue
        predictions = predictions_path(best_runs[task.name], split)
        if predictions.exists():
            files[path.name] = submission_text(task, predictions)
            write_text(path, files[path.name])
    return files


def _write_zip(
    directory: Path, files: dict[str, str], allow_partial: bool, console: Console
) -> tuple[Path, list[str]]:
    """The zip and what is wrong with it. StageError if something is and that is not allowed."""
    for partial in (False, True):  # never one from now and one from another run
        zip_path(directory, partial).unlink(missing_ok=True)
    problems = find_problems(files)
    for problem in problems:
        console.say(problem)
    if problems and not allow_partial:
        raise StageError(
            f"no zip was made, the GLUE server would refuse it: {'; '.join(problems)} "
            "(RESULT_COLLECTION.ALLOW_PARTIAL: True makes one anyway)"
        )
    archive = zip_path(directory, partial=bool(problems))
    write_zip(archive, files)
    if problems:
        console.say(f"{archive} is for trying out: it CANNOT BE SUBMITTED to the GLUE server")
    else:
        console.say(f"{archive} is ready for https://gluebenchmark.com")
    return archive, problems
