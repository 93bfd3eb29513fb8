"""The configured tasks: their files and digests."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.finetune_rules import TAGS, task_names
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.demo_glue import DEMO_DIGESTS
from finetune.data.examples import HUB_DATASET, find_file, has_split, hub_files
from finetune.data.files.parquet_tables import ENDING, parquet_files
from finetune.data.tasks import SPLIT_SEED, Split, Task, find_task
from pipeline.errors import ConfigError
from pipeline.store.checksums import file_digest, fingerprint

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Benchmark -> the key of its folder. The user's own tasks name their files one by one.
FOLDER_KEYS = {"GLUE": "FINETUNE.GLUE_DIR", "SuperGLUE": "FINETUNE.SUPERGLUE_DIR"}


def configured_tasks(finetune: "CfgNode") -> tuple[Task, ...]:
    """Returns the tasks sorted by name, without duplicates; the YAML's order does not matter.

    Raises ConfigError for an unknown name, and for a user's own task without its files.
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
    keys = TaskKeys(**{key.lower(): value for key, value in node.items()})
    if keys.type != TAGS:
        return custom_task(name, keys)
    from finetune.tagging.tagged_tasks import tagged_task  # needs numpy

    return tagged_task(name, keys)


def check_files(tasks: Iterable[Task], data_dirs: Mapping[str, str]) -> None:
    """Raises ConfigError for missing training and dev files; test files are optional.

    data_dirs: folder by benchmark; without a folder, GLUE comes from the Hub.
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
        missing = [split for split in needed if not has_split(split, folder)]
        problems += [f"{key}: {_no_file(split)} in {folder}" for split in missing]
    if problems:
        raise ConfigError(problems)


def _no_file(split: Split) -> str:
    return f"no file {' or '.join((split.files[0], *hub_files(split)))}"


def task_inputs(task: Task, data_dir: str, is_demo: bool) -> dict[str, Any]:
    """Returns the identity of a task and its data, wherever the data lies: digests by split, and
    the keys of a user's own task."""
    if is_demo:
        found = {split.name: demo_file(split) for split in task.splits}
        demo = {
            name: DEMO_DIGESTS[file] + Path(file).suffix for name, file in found.items() if file
        }
        return {"task_files": demo}
    if not data_dir:
        return {"task_files": HUB_DATASET}
    paths = {split.name: find_file(split, Path(data_dir)) for split in task.splits}
    digest = _digest_of_tagged if task.train.tag_column else _digest
    files = {name: digest(path) for name, path in paths.items() if path}
    if task.benchmark:
        return {"task_files": files}
    described: dict[str, Any] = {
        "text_columns": list(task.text_columns),
        "label_column": task.label_column,
        "labels": list(task.labels),
        "score_range": list(task.score_range),
        "metrics": list(task.metrics),
    }
    # Keys that older results lack.
    if task.train.header:
        described["columns"] = list(task.train.header)
    if column := task.train.tag_column:
        described |= {"type": task.type, "tag_column": column}
    if task.has_label_sets:
        described |= {"type": task.type, "label_separator": task.separator}
    if part := task.train.part:
        described |= {
            "dev_share": part.share,
            "group_column": part.group_column,
            "split": SPLIT_SEED,
        }
    if task.class_weights:
        described["class_weights"] = task.class_weights
    if task.num_folds:
        folds = {"folds": task.num_folds, "group_column": task.group_column, "split": SPLIT_SEED}
        described |= folds
    return {"task_files": files, "task_keys": described}


def _digest(path: Path) -> str:
    """Returns the digest of a file, or of the files of a folder, and the ending: it decides how a
    file is read."""
    if not path.is_dir():
        return file_digest(path) + path.suffix
    parts = [file_digest(file) for file in parquet_files(path)]
    return fingerprint({"files": parts}) + ENDING


def _digest_of_tagged(path: Path) -> str:
    """Returns the digest of a file, or of a folder of files, each with its ending."""
    from finetune.tagging.tagged_files import tagged_files  # needs numpy

    digests = [file_digest(file) + file.suffix for file in tagged_files(path)]
    return fingerprint({"files": digests}) if path.is_dir() else digests[0]


def demo_file(split: Split) -> str:
    """Returns the built-in benchmark's file of a split, or an empty string."""
    return next((file for file in split.files if file in DEMO_DIGESTS), "")
