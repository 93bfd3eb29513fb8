"""Checks of this machine, the model and the data for a search."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.task_data import FOLDER_KEYS
from finetune.data.tasks import Task
from finetune.plan import FinetunePlan
from finetune.search.local_workers import Slot, plan_slots
from finetune.search.search import Search
from pipeline.errors import ConfigError
from pipeline.hub.models import MODEL_FILES, problem_with_places
from pipeline.runtime.devices import usable_gpus

if TYPE_CHECKING:
    from yacs.config import CfgNode


def check_machine(config: "CfgNode", plan: FinetunePlan) -> None:
    """Raises ConfigError if the GPUs, the model or the data do not allow the search."""
    from finetune.data.row_checks import problems_of_rows  # needs numpy; only a search that runs

    search = plan.search
    if not search.model.artifact and Path(search.model.path).is_dir():
        check_model(Path(search.model.path))
    if not config.SYSTEM.DASK_SCHEDULER:
        slots_for(config, search)
    problems = [
        f"{FOLDER_KEYS[task.benchmark]}: {problem}"
        for task in tasks_in_folders(search)
        for _, problem in problems_of_rows(task, search.data_dir(task))
    ]
    if problems:
        raise ConfigError(problems)


def tasks_in_folders(search: Search) -> Iterator[Task]:
    """Yields the benchmarks' tasks with files in a folder, without the built-in benchmark.

    Reading all of GLUE takes seconds: call this only for a search that will run.
    """
    for task in search.tasks:
        if task.benchmark and search.data_dir(task) and not search.is_demo(task):
            yield task


def check_model(folder: Path) -> None:
    """Raises ConfigError for missing files, and for references to files elsewhere.

    Without tokenizer files, transformers makes up a tokenizer that knows no word.
    """
    for what, patterns in MODEL_FILES.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise ConfigError(
                [
                    f"FINETUNE.MODEL_NAME_OR_PATH: no {what} in {folder.absolute()}, expected a "
                    f"model in Hugging Face format, with {' or '.join(patterns)}"
                ]
            )
    if problem := problem_with_places(folder):
        raise ConfigError([f"FINETUNE.MODEL_NAME_OR_PATH: {problem}"])


def slots_for(config: "CfgNode", search: Search) -> list[Slot]:
    """Returns the slots of the search. Raises ConfigError for unusable GPUs."""
    return plan_slots(
        len(usable_gpus(config.SYSTEM.NUM_GPUS)),
        config.FINETUNE.MULTIPROCESS_GPU_LIST,
        config.SYSTEM.NUM_WORKERS,
        len(search.jobs),
    )
