"""The finetuning stage: searches the grid of every task for the best setting."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checks import check_machine, check_model, slots_for
from finetune.data.demo_glue import write_demo_glue
from finetune.data.examples import HUB_DATASET, HUB_GLUE, find_file, load_examples
from finetune.data.row_checks import notes_on_task
from finetune.data.tasks import Task
from finetune.estimate import training_rows
from finetune.kept_models import kept_models
from finetune.plan import FinetunePlan, plan
from finetune.search.dask_workers import dask_workers
from finetune.search.grid import (
    ALL_ROWS,
    Job,
    best_job,
    by_task,
    rows_of_last,
    rows_per_epoch,
    run_order,
    total_rows,
)
from finetune.search.job_folder import (
    OPTIONAL_KEYS,
    SUMMARY_KEYS,
    InputPaths,
    JobRun,
    damage_to_run,
    model_path,
)
from finetune.search.local_workers import LocalWorkers
from finetune.search.scheduler import WorkerPool, run_jobs
from finetune.search.search import Search, count_runs
from finetune.search.search_state import SearchState
from finetune.search.worker import TaskCheck, run_job
from pipeline.console import WARNING_PREFIX, Console, stage_console
from pipeline.errors import ConfigError, StageError
from pipeline.hub.models import local_model
from pipeline.hub.repository import cached_commit
from pipeline.runtime.executor import local_pool, run_unordered
from pipeline.store.atomic_files import write_json
from pipeline.store.ownership import owned
from pipeline.store.paths import SUMMARY, demo_glue_dir
from pretrain.start.completion import completed

if TYPE_CHECKING:
    from yacs.config import CfgNode


def finetune(config: "CfgNode") -> None:
    """Runs the search of this config, or the rest of it.

    Raises ConfigError before anything is touched, StageError if the pretrained model is missing or
    if runs failed; it names them and keeps the results of the others.
    """
    config = completed(config)
    run(config, plan(config))


def run(config: "CfgNode", plan: FinetunePlan) -> None:
    """Runs the planned search; see `finetune`."""
    artifact, search = plan.artifact, plan.search
    check_machine(config, plan)
    console_log = search.log("search", search.name)
    with stage_console("finetune", console_log) as console:
        if artifact.status().done:
            console.say(f"up to date ({artifact.directory})")
            return
        _check_pretrained(search)
        artifact.begin()
        console.show_life(artifact.directory)
        if search.with_demo:
            demo = demo_glue_dir(search.root)
            with owned(demo, console.say, wait=True):  # other searches need it, too
                write_demo_glue(demo)
        for task in search.tasks:
            if folder := search.data_dir(task):
                for note in notes_on_task(task, folder):
                    console.say(note)
        local, commits = _fetched(search)
        results = _run_search(config, local, artifact.directory, console)
        summary = _summary(search, results)
        write_json(artifact.directory / SUMMARY, summary)
        artifact.finish({"best": summary["best"], "num_runs": len(results), "commits": commits})
        if models := kept_models(search, summary["best"]):
            console.say(f"models kept: {len(models)}, as {search.task_dir('TASK')}/SETTING/model")


def _check_pretrained(search: Search) -> None:
    pretrained = search.model.artifact
    if pretrained and not pretrained.status().done:
        raise StageError(
            f"the pretrained model is not there, or not as it was: {pretrained.directory} "
            f"({pretrained.status().reason}); run the pretrain stage first (PRETRAIN.ENABLED: "
            "True, or --stages pretrain)"
        )


def _fetched(search: Search) -> tuple[Search, dict[str, str]]:
    """Returns the search with a local model, and the commits of repositories on the Hub.

    Raises StageError for anything missing, now and not hours into the search.
    """
    path: str = search.model.path
    commits: dict[str, str] = {}
    if not search.model.artifact:
        path, commits = local_model(search.model.path, "FINETUNE.MODEL_NAME_OR_PATH")
        try:
            check_model(Path(path))
        except ConfigError as error:  # of a model just fetched
            raise StageError("; ".join(error.problems)) from error
    on_hub = [task for task in search.tasks if not search.data_dir(task)]
    if on_hub:
        with local_pool(1) as pool:  # a child process, to free its memory
            for _ in run_unordered(pool, _load_all, on_hub):
                pass
        commits[HUB_DATASET] = cached_commit(HUB_GLUE)
    return replace(search, model=replace(search.model, path=path)), commits


def _load_all(task: Task) -> None:
    for split in task.splits:
        load_examples(task, split, "")


# --- running -----------------------------------------------------------------------------------


def _run_search(
    config: "CfgNode", search: Search, directory: Path, console: Console
) -> dict[Job, dict]:
    """Runs the unfinished jobs; returns all results. Raises StageError if some have none."""
    rows = training_rows(search)
    progress = SearchState(
        run_order(search.jobs, rows), search.make_run, search.kind, search.keep_models
    )
    if progress.incomplete_tasks or progress.without_model:
        with _workers(config, search, directory) as (workers, described):
            console.say(_plan(search, len(progress.results), described))
            again = {job.task for job in progress.without_model}
            _check_texts(search, {*progress.incomplete_tasks, *again}, workers, console)
            _run_jobs(search, progress, rows, workers, console)
    if progress.incomplete_tasks:
        raise StageError(_failure(search, progress, console))
    return progress.results


@contextmanager
def _workers(
    config: "CfgNode", search: Search, directory: Path
) -> Iterator[tuple[WorkerPool, str]]:
    """Yields worker processes, here or on the cluster, and a line that describes them."""
    scheduler = config.SYSTEM.DASK_SCHEDULER
    if scheduler:
        with dask_workers(scheduler, directory, _inputs_of(search)) as workers:
            yield workers, f"on {workers.num_workers} workers of {scheduler}"
        return
    slots = slots_for(config, search)
    if slots[0].gpu is not None:
        described = f"a run each on GPUs {', '.join(str(slot.gpu) for slot in slots)}"
        if any(len(gpus) > 1 for gpus in config.FINETUNE.MULTIPROCESS_GPU_LIST):
            described += " (FINETUNE.MULTIPROCESS_GPU_LIST: no run takes several)"
    else:
        threads = slots[0].num_threads
        described = f"in {len(slots)} process(es) on the CPU, {threads} thread(s) each"
    with LocalWorkers(slots) as workers:
        yield workers, described


def _inputs_of(search: Search) -> Iterator[Path]:
    """Yields files and folders that all workers read."""
    yield Path(search.model.path)
    for task in search.tasks:
        found = (find_file(split, Path(search.data_dir(task))) for split in task.splits)
        yield from (path for path in found if path and search.data_dir(task))


def _check_texts(
    search: Search, tasks: Iterable[str], workers: WorkerPool, console: Console
) -> None:
    """Prints the truncated and unknown share of each task's texts, measured in a worker.

    Raises StageError if the model cannot be used or would see next to nothing.
    """
    found = [task for task in search.tasks if task.name in set(tasks)]
    checks = []
    for task in reversed(found):
        paths = InputPaths(search.model.path, search.model.path, search.data_dir(task))
        checks.append(TaskCheck(task, paths.absolute(), search.max_seq_lengths[task.name]))

    def next_check() -> TaskCheck | None:
        return checks.pop() if checks else None

    looks = run_jobs(workers, TaskCheck.run, next_check, console.note, console.heart.alive)
    for check, outcome in looks:
        if isinstance(outcome, StageError):
            raise outcome
        if isinstance(outcome, Exception):  # its runs will fail in the same way and report it
            console.note(f"{check} failed: {outcome}")
            continue
        console.say(str(outcome))
        for warning in outcome.warnings(search.length_keys[check.task.name]):
            console.say(WARNING_PREFIX + warning)


def _run_jobs(
    search: Search,
    progress: SearchState,
    rows: Mapping[str, int],
    workers: WorkerPool,
    console: Console,
) -> None:
    """Runs the jobs without a result; extrapolates the time left from the rows trained on."""

    grids = by_task(search.jobs)

    def rows_of(job: Job) -> int:
        grid, number = grids[job.task], rows[job.task]
        if job.fold == ALL_ROWS:
            return rows_of_last(grid, number)
        return job.epochs * rows_per_epoch(grid, number)

    def rows_done() -> int:
        return sum(map(rows_of, progress.results))

    total = total_rows(search.jobs, search.kind, rows)
    with console.progress("finetuning", total, "rows") as shown:
        shown.update(rows_done(), _num_done(search, progress))
        next_run = _next(progress, console)
        for run, outcome in run_jobs(workers, run_job, next_run, console.note, console.heart.alive):
            progress.record(run.job, outcome)
            note = _describe(run.job, outcome)
            (console.say if isinstance(outcome, Exception) else console.note)(note)
            shown.update(rows_done(), f"{_num_done(search, progress)}, {note}")


def _next(progress: SearchState, console: Console) -> Callable[[], JobRun | None]:
    def next_run() -> JobRun | None:
        run = progress.next_run()
        if run and (why := _why_again(run, run.job in progress.results)):
            console.say(f"{run} runs again, as {why}")
        return run.absolute() if run else None

    return next_run


def _why_again(run: JobRun, is_done: bool) -> str:
    """Returns a reason to repeat a finished run, or an empty string."""
    if is_done:
        found = "is damaged" if model_path(run.folder).exists() else "was not kept"
        return f"its model is needed and {found}"
    return damage_to_run(run.folder)


# --- words -------------------------------------------------------------------------------------


def _plan(search: Search, num_done: int, where: str) -> str:
    counts = count_runs(search)
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    kind = "" if search.kind == "grid" else f", by {search.kind}"
    done = f", {num_done} of them done" if num_done else ""
    return f"{sum(counts.values())} runs ({listed}){kind}{done}; {where}"


def _num_done(search: Search, progress: SearchState) -> str:
    return f"{len(progress.results)} of {sum(count_runs(search).values())} runs done"


def _describe(job: Job, outcome: dict | Exception) -> str:
    if isinstance(outcome, Exception):
        lines = str(outcome).strip().splitlines() or ["no message"]
        return f"{job} failed: {lines[0]}"
    score = outcome["score"]
    return f"{job}: trained on all rows" if score is None else f"{job}: {score:.3f}"


def _failure(search: Search, progress: SearchState, console: Console) -> str:
    """Prints the failed runs and their logs; returns one line for all."""
    for job, error in progress.failures.items():
        log = search.log(job.task, search.name, job.setting)
        console.say(f"{_describe(job, error)}; see {log}")
    failed = {job.task for job in progress.failures}
    waiting = [task for task in progress.incomplete_tasks if task not in failed]
    first = _describe(*next(iter(progress.failures.items())))
    not_run = f"; {', '.join(waiting)} waited for MNLI and did not run" if waiting else ""
    return (
        f"{len(progress.failures)} of {sum(count_runs(search).values())} runs failed; {first}"
        f"{not_run}; {len(progress.results)} results are kept for the next run"
    )


def _summary(search: Search, results: dict[Job, dict]) -> dict[str, Any]:
    """Returns all runs with their dev scores, and the best setting of each task."""
    done = [job for job in search.jobs if job in results]
    best = {
        task: best_job({job: results[job]["score"] for job in jobs}).setting
        for task, jobs in by_task(done).items()
    }
    done += [job for job in results if job.fold == ALL_ROWS]
    return {
        "dataset_id": search.model.dataset_id,
        "pretrain_id": search.model.pretrain_id,
        "finetune_id": search.finetune_id,
        "model": search.model.path,
        "search": search.kind,
        "best": best,
        "runs": [_summary_row(job, results[job]) for job in done],
    }


def _summary_row(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    return {
        **asdict(job),
        "setting": job.setting,
        **{key: result[key] for key in (*SUMMARY_KEYS, *OPTIONAL_KEYS) if key in result},
    }
