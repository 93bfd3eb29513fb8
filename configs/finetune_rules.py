"""Contradictions between values of FINETUNE, and the spelling of tasks' names."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from yacs.config import CfgNode

from configs.defaults import (
    CLASS_METRICS,
    GLUE_TASKS,
    MULTI_LABEL_METRICS,
    REGRESSION_METRICS,
    SUPERGLUE_TASKS,
    TOKEN_METRICS,
    custom_task_node,
)
from configs.predicates import BUILTIN, FILE_NAME, no_folder

# Names for all tasks of a benchmark.
TASK_GROUPS = {"GLUE": GLUE_TASKS, "SuperGLUE": SUPERGLUE_TASKS}
# Names with another meaning among tasks and among their folders.
RESERVED_NAMES = (*TASK_GROUPS, "DEFAULT", "search")
TABLE_ENDINGS = (".tsv", ".csv", ".jsonl", ".parquet")
TABLE = "a .tsv, .csv, .jsonl or .parquet file, or a folder of .parquet files"
MULTI_LABEL = "multi_label"  # the value of TYPE for several labels per text
# The value of TYPE for named entities, its keys, and its files.
TAGS = "token_classification"
TAG_KEYS = ("TYPE", "TRAIN", "DEV", "TEST", "TAG_COLUMN", "LABELS", "METRICS")
TAGGED = "a file of tagged sentences, or a folder of them"


def task_names(names: list[str], finetune: CfgNode) -> list[str]:
    """Returns tasks without duplicates, in their usual spelling; unknown names are kept."""
    known = [*GLUE_TASKS, *SUPERGLUE_TASKS, *finetune.CUSTOM_TASKS]
    usual = {plain_name(name): [name] for name in known}
    groups = {plain_name(name): tasks for name, tasks in TASK_GROUPS.items()}
    found = [(usual | groups).get(plain_name(name), [name]) for name in names]
    return list(dict.fromkeys(name for some in found for name in some))


def plain_name(name: str) -> str:
    """Returns the same for `STS-B`, `sts_b` and `stsb`."""
    return re.sub("[^a-z0-9]", "", name.lower())


def problems_with_task_names(finetune: CfgNode) -> Iterator[str]:
    """Yields a line for each task of the user's own with an ambiguous or impossible name."""
    plain = Counter(map(plain_name, finetune.CUSTOM_TASKS))
    taken = {plain_name(name) for name in (*GLUE_TASKS, *SUPERGLUE_TASKS, *RESERVED_NAMES)}
    for name in finetune.CUSTOM_TASKS:
        if plain[plain_name(name)] > 1:
            yield (
                f"FINETUNE.CUSTOM_TASKS.{name}: differs from another task of your "
                "own in case or punctuation only, expected another name"
            )
        if plain_name(name) in taken or not name or not FILE_NAME.test(name):
            yield (
                f"FINETUNE.CUSTOM_TASKS.{name}: not a name for a task of your own, expected "
                f"{FILE_NAME.expected}, and neither a task of GLUE or SuperGLUE nor any of "
                f"{', '.join(RESERVED_NAMES)}"
            )


def grid_of(finetune: CfgNode, task: str) -> dict[str, list]:
    """Returns the values of a task's grid; an empty list is replaced by the default's."""
    own, default = finetune.GRID.get(task, finetune.GRID.DEFAULT), finetune.GRID.DEFAULT
    return {key: own[key] or default[key] for key in ("EPOCHS", "BATCH_SIZES", "LEARNING_RATES")}


def problems_of_finetuning(config: CfgNode, room: int) -> Iterator[str]:
    """Yields a line for each contradiction between values of FINETUNE and for each missing file.

    room: positions of the model pretrained here, the most tokens per row of any phase.
    """
    finetune = config.FINETUNE
    tasks = task_names(finetune.TASKS, finetune)
    yield from _problems_of_names(finetune)
    if not tasks:
        yield "FINETUNE.TASKS: no task, expected at least one of " + ", ".join(GLUE_TASKS)
    for task in tasks:
        for name, values in grid_of(finetune, task).items():
            if not values:
                yield f"FINETUNE.GRID.{task}.{name}: nothing to try, expected at least one value"
    yield from _problems_of_folders(finetune, tasks)
    for task in sorted(set(tasks) & set(finetune.CUSTOM_TASKS)):
        yield from _problems_of_custom_task(task, finetune.CUSTOM_TASKS[task])
    yield from _problems_of_stilt(finetune, tasks)
    in_folds = [task for task in tasks if finetune.CUSTOM_TASKS.get(task, {}).get("FOLDS")]
    if in_folds and finetune.EVALS_PER_EPOCH:
        yield (
            f"FINETUNE.EVALS_PER_EPOCH: got {finetune.EVALS_PER_EPOCH} with FOLDS of "
            f"{', '.join(in_folds)}, expected 0: the last run, on all rows, has no dev rows to "
            "choose its best weights by"
        )
    if finetune.EARLY_STOPPING_PATIENCE and not finetune.EVALS_PER_EPOCH:
        yield (
            "FINETUNE.EARLY_STOPPING_PATIENCE: needs evaluations, got "
            f"{finetune.EARLY_STOPPING_PATIENCE} with FINETUNE.EVALS_PER_EPOCH 0, expected at "
            "least 1 evaluation per epoch"
        )
    # A model to start from may have more positions; where it has fewer, samples are cut.
    if not finetune.MODEL_NAME_OR_PATH and not config.PRETRAIN.START_FROM:
        yield from _problems_of_length(config, tasks, room)


def _problems_of_names(finetune: CfgNode) -> Iterator[str]:
    known = [*GLUE_TASKS, *SUPERGLUE_TASKS, *finetune.CUSTOM_TASKS]
    listed = ", ".join(known)
    for key in ("TASKS", "STILT_TASKS"):
        for name in sorted(set(task_names(finetune[key], finetune)) - set(known)):
            yield f"FINETUNE.{key}: unknown task, got {name}, expected some of {listed}"
    for name in sorted(set(finetune.GRID) - {"DEFAULT", *known}):
        yield f"FINETUNE.GRID.{name}: unknown task, expected DEFAULT or one of {listed}"


def _problems_of_folders(finetune: CfgNode, tasks: list[str]) -> Iterator[str]:
    if finetune.GLUE_DIR.startswith(BUILTIN):
        if finetune.GLUE_DIR != "builtin:demo":
            yield (
                f"FINETUNE.GLUE_DIR: unknown built-in benchmark, got {finetune.GLUE_DIR}, "
                "expected builtin:demo"
            )
    elif finetune.GLUE_DIR and not os.path.isdir(finetune.GLUE_DIR):
        yield no_folder("FINETUNE.GLUE_DIR", finetune.GLUE_DIR)
    of_superglue = [task for task in tasks if task in SUPERGLUE_TASKS]
    if of_superglue and not finetune.SUPERGLUE_DIR:
        yield (
            f"FINETUNE.SUPERGLUE_DIR: needed for {', '.join(of_superglue)}, got nothing, expected "
            "the folder of https://super.gluebenchmark.com/tasks (combined.zip, unpacked)"
        )
    elif of_superglue and not os.path.isdir(finetune.SUPERGLUE_DIR):
        yield no_folder("FINETUNE.SUPERGLUE_DIR", finetune.SUPERGLUE_DIR)


def _problems_of_custom_task(name: str, task: CfgNode) -> Iterator[str]:
    key = f"FINETUNE.CUSTOM_TASKS.{name}"
    has_tags = task.TYPE == TAGS
    for part in ("TRAIN", "DEV", "TEST"):
        path, expected = task[part], TAGGED if has_tags else TABLE
        if not path and (part == "TEST" or (part == "DEV" and (task.DEV_SHARE or task.FOLDS))):
            continue
        if not os.path.isfile(path) and not os.path.isdir(path):
            shown = Path(path).absolute() if path else "nothing"
            has_way_out = part == "DEV" and not (path or has_tags)
            instead = ", or a DEV_SHARE or FOLDS of TRAIN" if has_way_out else ""
            yield f"{key}.{part}: no such file, got {shown}, expected {expected}{instead}"
        elif not (os.path.isdir(path) or has_tags or _is_table(path)):
            yield f"{key}.{part}: got {path}, expected {TABLE}"
    if task.TRAIN and task.TRAIN == task.DEV:
        yield f"{key}.DEV: got the file of TRAIN, expected other rows, for the scores"
    elif os.path.isdir(task.TRAIN) and Path(task.TRAIN) in Path(task.DEV).parents:
        yield f"{key}.DEV: got a file in the folder of TRAIN, expected other rows, for the scores"
    yield from _problems_of_tags(key, task) if has_tags else _problems_of_table(key, task)


def _is_table(path: str) -> bool:
    return Path(path).suffix.lower() in TABLE_ENDINGS


def _problems_of_tags(key: str, task: CfgNode) -> Iterator[str]:
    default = custom_task_node()
    for name in sorted(task.keys() - set(TAG_KEYS)):
        if task[name] != default[name]:
            yield f"{key}.{name}: got {task[name]}, expected none with TYPE {TAGS}"
    if wrong := [metric for metric in task.METRICS if metric not in TOKEN_METRICS]:
        yield f"{key}.METRICS: got {wrong}, expected {', '.join(TOKEN_METRICS)} with TYPE {TAGS}"
    if "O" in task.LABELS:
        yield f"{key}.LABELS: got {task.LABELS}, expected types of entities, like PER, not tags"


def _problems_of_table(key: str, task: CfgNode) -> Iterator[str]:
    if task.TAG_COLUMN != custom_task_node().TAG_COLUMN:
        yield f"{key}.TAG_COLUMN: got {task.TAG_COLUMN}, expected none without TYPE {TAGS}"
    is_regression = task.TYPE == "regression"
    if task.TYPE and is_regression != bool(task.SCORE_RANGE):
        expected = "[lowest, highest]" if is_regression else "none"
        got = task.SCORE_RANGE or "nothing"
        yield f"{key}.SCORE_RANGE: got {got}, expected {expected} with TYPE {task.TYPE}"
    if not task.TEXT_COLUMNS:
        yield f"{key}.TEXT_COLUMNS: got nothing, expected one or two names of columns"
    if len(task.LABELS) == 1:
        yield f"{key}.LABELS: got {task.LABELS}, expected at least two different words"
    if not task.LABEL_COLUMN:
        yield f"{key}.LABEL_COLUMN: got nothing, expected the name of a column"
    if task.LABEL_COLUMN in task.TEXT_COLUMNS:
        yield f"{key}.LABEL_COLUMN: got {task.LABEL_COLUMN}, expected none of TEXT_COLUMNS"
    yield from _problems_of_columns(key, task)
    yield from _problems_of_held_out(key, task)
    if task.LABELS_FILE:
        others = [name for name in ("LABELS", "SCORE_RANGE") if task[name]]
        for name in others:
            yield f"{key}.LABELS_FILE: got one and {name} {task[name]}, expected one of them"
        if not os.path.isfile(task.LABELS_FILE):
            path = Path(task.LABELS_FILE).absolute()
            yield f"{key}.LABELS_FILE: no such file, got {path}, expected a line for each label"
    if task.SCORE_RANGE and task.LABELS:
        yield f"{key}.LABELS: got {task.LABELS}, expected none with SCORE_RANGE (a regression)"
    has_sets = task.TYPE == MULTI_LABEL
    if task.CLASS_WEIGHTS and (task.SCORE_RANGE or has_sets):
        beside = f"TYPE {MULTI_LABEL}" if has_sets else "SCORE_RANGE"
        yield f"{key}.CLASS_WEIGHTS: got {task.CLASS_WEIGHTS}, expected none with {beside}"
    if task.LABEL_SEPARATOR != custom_task_node().LABEL_SEPARATOR and not has_sets:
        expected = f"none without TYPE {MULTI_LABEL}"
        yield f"{key}.LABEL_SEPARATOR: got {task.LABEL_SEPARATOR!r}, expected {expected}"
    allowed, kind = _allowed_metrics(task)
    wrong = [metric for metric in task.METRICS if metric not in allowed]
    if wrong:
        yield f"{key}.METRICS: got {wrong}, expected for {kind} some of {', '.join(allowed)}"


def _allowed_metrics(task: CfgNode) -> tuple[tuple[str, ...], str]:
    """Returns the metrics of a task, and its kind in words."""
    if task.TYPE == MULTI_LABEL:
        return MULTI_LABEL_METRICS, "several labels per text"
    if task.SCORE_RANGE:
        return REGRESSION_METRICS, "a regression"
    return CLASS_METRICS, "a classification"


def _problems_of_held_out(key: str, task: CfgNode) -> Iterator[str]:
    given = [name for name in ("DEV", "DEV_SHARE", "FOLDS") if task[name]]
    if len(given) > 1:
        listed = " and ".join(f"{name} {task[name]}" for name in given)
        yield f"{key}.{given[-1]}: got {listed}, expected one of them"
    if not task.GROUP_COLUMN:
        return
    if not (task.DEV_SHARE or task.FOLDS):
        expected = "a DEV_SHARE or FOLDS beside it"
        yield f"{key}.GROUP_COLUMN: got {task.GROUP_COLUMN}, expected {expected}"
    if task.GROUP_COLUMN == task.LABEL_COLUMN:
        yield f"{key}.GROUP_COLUMN: got LABEL_COLUMN, {task.LABEL_COLUMN}, expected another one"
    if task.COLUMNS and task.GROUP_COLUMN not in task.COLUMNS:
        yield f"{key}.GROUP_COLUMN: got {task.GROUP_COLUMN}, expected one of {task.COLUMNS}"


def _problems_of_columns(key: str, task: CfgNode) -> Iterator[str]:
    if not task.COLUMNS:
        return
    for part in ("TRAIN", "DEV", "TEST"):
        if task[part] and Path(task[part]).suffix.lower() not in (".tsv", ".csv"):
            yield (
                f"{key}.COLUMNS: got {task.COLUMNS}, and {task[part]} as {part}, expected no names "
                "or files without a header line, .tsv or .csv"
            )
    if missing := [name for name in task.TEXT_COLUMNS if name not in task.COLUMNS]:
        yield f"{key}.TEXT_COLUMNS: got {missing[0]}, expected some of COLUMNS, {task.COLUMNS}"
    if task.LABEL_COLUMN not in task.COLUMNS:
        yield f"{key}.LABEL_COLUMN: got {task.LABEL_COLUMN}, expected one of {task.COLUMNS}"


def _problems_of_stilt(finetune: CfgNode, tasks: list[str]) -> Iterator[str]:
    stilt = task_names(finetune.STILT_TASKS, finetune)
    waiting = [task for task in stilt if task in tasks]
    if waiting and "MNLI" not in tasks:
        yield (
            f"FINETUNE.STILT_TASKS: {', '.join(waiting)} start from the best MNLI model, but "
            "MNLI is not in FINETUNE.TASKS; add it there, or set FINETUNE.STILT_TASKS: []"
        )
    if "MNLI" in stilt:
        yield "FINETUNE.STILT_TASKS: MNLI cannot start from itself, expected other tasks"


def _problems_of_length(config: CfgNode, tasks: list[str], room: int) -> Iterator[str]:
    grids = config.FINETUNE.GRID
    lengths = {"FINETUNE.MAX_SEQ_LENGTH": config.FINETUNE.MAX_SEQ_LENGTH}
    for task in ("DEFAULT", *tasks):
        if task in grids:
            lengths[f"FINETUNE.GRID.{task}.MAX_SEQ_LENGTH"] = grids[task].MAX_SEQ_LENGTH
    for key, length in lengths.items():
        if length > room:
            yield (
                f"{key}: longer than the pretrained model's positions, got {length}, expected at "
                f"most DATASET.MAX_SEQ_LENGTH = {room}"
            )
