"""Size and needs of a search."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.checks import tasks_in_folders
from finetune.data.custom_tasks import FOLDER
from finetune.data.demo_glue import demo_files
from finetune.data.examples import HUB_DATASET, has_split, num_train_rows, num_tsv_rows
from finetune.data.task_data import demo_file
from finetune.data.tasks import Task
from finetune.plan import FinetunePlan
from finetune.search.grid import ALL, HALVING, NONE, by_task, total_rows
from finetune.search.search import Search, count_runs
from pipeline.console import WARNING_PREFIX
from pipeline.hub.models import MODEL_FILES
from pipeline.hub.needs import HubNeed
from pipeline.stage_plan import Estimate
from pipeline.store.disk import DiskNeed, size_of
from pipeline.store.record_files import read_json
from pretrain.estimate import model_bytes

if TYPE_CHECKING:
    from yacs.config import CfgNode


def estimate(config: "CfgNode", plan: FinetunePlan) -> Estimate:
    """Returns the number of runs and rows, the disk space and the needs from the Hub."""
    search = plan.search
    return Estimate(
        notes=tuple(_notes(search, config.FINETUNE.CUSTOM_TASKS)),
        disk=tuple(_disk_needs(config, search)),
        hub=tuple(_hub_needs(search)),
    )


def run_notes(config: "CfgNode", plan: FinetunePlan) -> Iterator[str]:
    """Yields lines on the rows of the benchmarks' files, for a search that will run.

    The estimate covers custom tasks.
    """
    from finetune.data.row_checks import notes_on_task  # needs numpy

    for task in tasks_in_folders(plan.search):
        yield from notes_on_task(task, plan.search.data_dir(task))


def _disk_needs(config: "CfgNode", search: Search) -> Iterator[DiskNeed]:
    """Yields the space for the models to keep; everything else is small."""
    tasks = search.stilt_sources if search.keep_models == NONE else set(search.max_seq_lengths)
    if not tasks:
        return
    size = size_of(Path(search.model.path))  # 0 before it is made or loaded
    if not size and search.model.artifact:
        size = model_bytes(config, config.TOKENIZER.VOCAB_SIZE)
    number = len(tasks) + 1  # a candidate beside the best ones
    if search.keep_models == ALL:
        number = sum(count_runs(search).values())
    key = "FINETUNE.STILT_TASKS" if search.keep_models == NONE else "FINETUNE.KEEP_MODELS"
    yield DiskNeed(search.task_dir(min(tasks)), number * size, "models of finetuning", key)


def _hub_needs(search: Search) -> Iterator[HubNeed]:
    name = search.model.path
    if not search.model.artifact and not Path(name).is_dir():
        yield HubNeed(
            "model",
            name,
            "FINETUNE.MODEL_NAME_OR_PATH",
            "the model to finetune",
            "a folder with a model here",
            files=tuple(MODEL_FILES.values()),
        )
    of_glue = [task for task in search.tasks if task.benchmark == "GLUE"]
    if of_glue and not search.data_dirs["GLUE"]:
        later = (
            ", or --stages dataset,pretrain to do just these now" if search.model.artifact else ""
        )
        yield HubNeed(
            "dataset",
            HUB_DATASET,
            "FINETUNE.GLUE_DIR",
            f"the data of {', '.join(task.name for task in of_glue)}",
            f"a folder with the tasks here{later}",
            subsets=tuple({split.hub_config: 0 for task in of_glue for split in task.splits}),
        )


def _notes(search: Search, custom_tasks: Iterable[str]) -> Iterator[str]:
    from finetune.data.row_checks import notes_on_task  # needs numpy

    counts = count_runs(search)
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    yield f"{sum(counts.values())} runs: {listed}"
    total = total_rows(search.jobs, search.kind, training_rows(search))
    yield f"{total:,} rows to train on, over all runs and epochs"
    if search.kind == HALVING:
        yield from _halving_notes(search)
    yield from _missing_tests_note(search)
    yield from _length_notes(search)
    for task in search.tasks:
        if not task.benchmark:
            yield from notes_on_task(task, FOLDER)
    if unused := sorted(set(custom_tasks) - {task.name for task in search.tasks}):
        yield f"not searched: {', '.join(unused)} of FINETUNE.CUSTOM_TASKS, not in FINETUNE.TASKS"


def training_rows(search: Search) -> dict[str, int]:
    """Returns the rows of each task's training set."""
    return {task.name: _num_rows(search, task) for task in search.tasks}


def _num_rows(search: Search, task: Task) -> int:
    if not task.benchmark:
        from finetune.data.row_checks import row_facts  # need numpy
        from finetune.tagging.tag_checks import tag_facts

        facts = tag_facts(task) if task.train.tag_column else row_facts(task, FOLDER)
        return facts[task.train].num_rows
    if search.is_demo(task):  # maybe not written yet
        lines = demo_files()[demo_file(task.train)].encode().splitlines()
        return num_tsv_rows(lines, task.train)
    return num_train_rows(task, search.data_dir(task))


def _length_notes(search: Search) -> Iterator[str]:
    """Yields warnings of samples longer than the model's positions."""
    model = read_json(Path(search.model.path) / "config.json") or {}
    positions = model.get("max_position_embeddings")
    with_windows = {task.name for task in search.tasks if task.train.tag_column}
    too_long = {
        search.length_keys[task]: length
        for task, length in search.max_seq_lengths.items()
        if isinstance(positions, int) and 0 < positions < length and task not in with_windows
    }
    for key, length in too_long.items():
        yield (
            f"{WARNING_PREFIX}samples are cut, as the model has only {positions} positions; "
            f"{key} is {length}"
        )


def _halving_notes(search: Search) -> Iterator[str]:
    """Yields the number of runs after halving, and tasks without effect of halving."""
    grids = by_task(search.jobs)
    yield f"halving: {sum(count_runs(search).values())} of the grid's {len(search.jobs)} runs"
    single = [task for task, jobs in grids.items() if len({job.epochs for job in jobs}) == 1]
    if single:
        yield f"halving: all of the grid for {', '.join(single)}, with one number of epochs"


def _missing_tests_note(search: Search) -> Iterator[str]:
    """Yields a line on missing test sets."""
    missing = [
        split.files[0]
        for task in search.tasks
        if not search.is_demo(task)
        for split in task.test
        if not has_split(split, search.data_dir(task))
    ]
    if missing:
        yield f"no predictions for {', '.join(missing)}: no such files"
