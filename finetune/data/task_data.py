"""The tasks that the config names, whether their data is there, and what it is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.finetune_rules import task_names
from finetune.data.custom_tasks import custom_task
from finetune.data.demo_glue import demo_digests, demo_files
from finetune.data.examples import HUB_DATASET, find_file, has_split
from finetune.data.tasks import Split, Task, find_task
from pipeline.errors import ConfigError
from pipeline.store.checksums import file_digest

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Benchmark -> the key that names its folder. The files of a user's own tasks are named one by one.
FOLDER_KEYS = {"GLUE": "FINETUNE.GLUE_DIR", "SuperGLUE": "FINETUNE.SUPERGLUE_DIR"}


def configured_tasks(finetune: "CfgNode") -> tuple[Task, ...]:
    """Without duplicates, in the order of their names, which the YAML's order does not change.

    Raises ConfigError for a name that is no task, and for a user's own task without its files.
    """
    names = sorted(task_names(finetune.TASKS, finetune))
    if not names:
        raise ConfigError(["FINETUNE.TASKS: no task, got [], expected at least one"])
    own = finetune.CUSTOM_TASKS
    try:
        return tuple(
            _own_task(name, own[name]) if name in own else find_task(name) for name in names
        )
    except KeyError as error:
        raise ConfigError([f"FINETUNE.TASKS: {error.args[0]}"]) from error


def _own_task(name: str, node: "CfgNode") -> Task:
    for key in ("TRAIN", "DEV", "TEST"):
        if (node[key] or key != "TEST") and not Path(node[key]).is_file():
            raise ConfigError(
                [f"FINETUNE.CUSTOM_TASKS.{name}.{key}: no such file, got {node[key] or 'nothing'}"]
            )
    return custom_task(name, **{key.lower(): value for key, value in node.items()})


def check_files(tasks: Iterable[Task], data_dirs: Mapping[str, str]) -> None:
    """Raises ConfigError for training and dev files that are not there; test files may lack.

    data_dirs: folder by benchmark; without one, GLUE is taken from the Hub.
    """
    tasks, problems = list(tasks), []
    for benchmark, key in FOLDER_KEYS.items():
        of_benchmark = [task for task in tasks if task.benchmark == benchmark]
        folder = data_dirs[benchmark]
        if not of_benchmark or (benchmark == "GLUE" and not folder):
            continue
        if not folder or not Path(folder).is_dir():
            names = ", ".join(task.name for task in of_benchmark)
            problems.append(f"{key}: no such folder, got {folder or 'nothing'}, needed for {names}")
            continue
        needed = [split for task in of_benchmark for split in (task.train, *task.dev)]
        missing = [split.files[0] for split in needed if not has_split(split, folder)]
        problems += [f"{key}: no file {name} in {folder}" for name in missing]
    if problems:
        raise ConfigError(problems)


def task_inputs(task: Task, data_dir: str, is_demo: bool) -> dict[str, Any]:
    """What a task and its data are, wherever the data lies: digests by split.

    A task of the user's own is described too; what the others are is part of this program.
    """
    if is_demo:
        return {"task_files": _demo_digests(task)}
    if not data_dir:
        return {"task_files": HUB_DATASET}
    found = {split.name: find_file(split, Path(data_dir)) for split in task.splits}
    # How a file is read depends on its ending, too.
    files = {name: file_digest(path) + path.suffix for name, path in found.items() if path}
    if task.benchmark:
        return {"task_files": files}
    described = {
        "text_columns": list(task.text_columns),
        "label_column": task.label_column,
        "labels": list(task.labels),
        "score_range": list(task.score_range),
        "metrics": list(task.metrics),
    }
    return {"task_files": files, "task_keys": described}


def _demo_digests(task: Task) -> dict[str, str]:
    digests = demo_digests()
    found = {split.name: demo_file(split) for split in task.splits}
    return {name: digests[file] + Path(file).suffix for name, file in found.items() if file}


def demo_file(split: Split) -> str:
    """The file of the built-in benchmark that holds a split, or an empty string."""
    return next((file for file in split.files if file in demo_files()), "")
