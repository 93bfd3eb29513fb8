"""The finetuning stage: searches the grid of every task for the best setting."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from finetune.artifact import Search, finetune_artifact, load_search, slots_for
from finetune.demo_glue import DEMO_NAME, write_demo_glue
from finetune.examples import num_train_rows
from finetune.progress import SearchProgress
from finetune.search import Job, best_job, run_order
from finetune.slots import Slot, run_in_slots
from pipeline.artifacts import demo_glue_dir, write_json
from pipeline.console import Console, stage_console
from pipeline.errors import StageError

if TYPE_CHECKING:
    from yacs.config import CfgNode


def finetune(config: "CfgNode") -> None:
    """Runs the search that the config describes, as far as it is not done yet.

    Raises ConfigError before anything is touched; StageError if the pretrained model is not
    there or if runs failed (it names them; the results of the others are kept).
    """
    artifact, search = finetune_artifact(config), load_search(config)
    slots = slots_for(config, search)
    console_log = search.log("search", search.model.pretrain_id)
    with stage_console("finetune", console_log) as console:
        if artifact.status().done:
            console.say(f"up to date ({artifact.directory})")
            return
        _check_pretrained(search)
        artifact.begin()
        if config.FINETUNE.GLUE_DIR == DEMO_NAME:
            write_demo_glue(demo_glue_dir(search.root))
        results = _run_search(search, slots, console)
        summary = _summary(search, results)
        write_json(artifact.directory / "summary.json", summary)
        artifact.finish({"best": summary["best"], "num_runs": len(results)})


def _check_pretrained(search: Search) -> None:
    pretrained = search.model.artifact
    if pretrained and not pretrained.status().done:
        raise StageError(
            f"the pretrained model is not there: {pretrained.directory} is "
            f"{pretrained.status().reason}; run the pretrain stage first (PRETRAIN.ENABLED: True, "
            "or --stages pretrain)"
        )


def _run_search(search: Search, slots: list[Slot], console: Console) -> dict[Job, dict]:
    """Runs what is not done; the results of all jobs. StageError if some have none."""
    from finetune.jobs import run_job

    rows = {task.name: num_train_rows(task, search.glue_dir) for task in search.tasks}
    progress = SearchProgress(run_order(search.jobs, rows), search.make_run)
    slots = slots[: max(1, len(search.jobs) - len(progress.results))]
    console.say(_plan(search, slots, len(progress.results)))
    with console.progress("finetuning", len(search.jobs), "runs") as shown:
        shown.update(len(progress.results))
        for run, outcome in run_in_slots(slots, run_job, progress.next_run):
            progress.record(run.job, outcome)
            note = _describe(run.job, outcome)
            (console.say if isinstance(outcome, Exception) else console.note)(note)
            shown.update(len(progress.results) + len(progress.failures), note)
    if len(progress.results) < len(search.jobs):
        raise StageError(_failure(search, progress, console))
    return progress.results


def _plan(search: Search, slots: list[Slot], num_done: int) -> str:
    counts = Counter(job.task for job in search.jobs)
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    devices = (
        f"on GPUs {', '.join('+'.join(map(str, slot.gpus)) for slot in slots)}"
        if slots[0].gpus
        else f"in {len(slots)} processes on the CPU, {slots[0].num_threads} threads each"
    )
    done = f", {num_done} of them done" if num_done else ""
    return f"{len(search.jobs)} runs ({listed}){done}; {devices}"


def _describe(job: Job, outcome: dict | Exception) -> str:
    if isinstance(outcome, Exception):
        lines = str(outcome).strip().splitlines() or ["no message"]
        return f"{job} failed, {type(outcome).__name__}: {lines[0]}"
    return f"{job}: {outcome['score']:.3f}"


def _failure(search: Search, progress: SearchProgress, console: Console) -> str:
    """Says which runs failed and where their logs are; returns one line on the whole."""
    for job in progress.failures:
        console.say(f"see {search.log(job.task, search.model.pretrain_id, job.setting)}")
    waiting = sorted({job.task for job in progress.waiting})
    first = _describe(*next(iter(progress.failures.items())))
    not_run = f"; {', '.join(waiting)} waited for MNLI and did not run" if waiting else ""
    return (
        f"{len(progress.failures)} of {len(search.jobs)} runs failed; {first}"
        f"{not_run}; {len(progress.results)} results are kept for the next run"
    )


def _summary(search: Search, results: dict[Job, dict]) -> dict[str, Any]:
    """All settings with their dev scores, and the best setting of each task."""
    best = {}
    for task in search.tasks:
        scores = {job: result["score"] for job, result in results.items() if job.task == task.name}
        best[task.name] = best_job(scores).setting
    keys = ("task", "setting", "score", "dev", "num_steps", "seconds")
    return {
        "dataset_id": search.model.dataset_id,
        "pretrain_id": search.model.pretrain_id,
        "best": best,
        "runs": [{key: results[job][key] for key in keys} for job in search.jobs],
    }
