"""What the keys of FINETUNE must satisfy, key by key and across keys."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from yacs.config import CfgNode

from configs.defaults import GLUE_TASKS, SUPERGLUE_TASKS
from configs.predicates import (
    BUILTIN,
    FILE_NAME,
    MODEL_NAME_OR_PATH,
    PATH,
    SEED,
    Rule,
    above,
    at_least,
    between,
    each,
    no_folder,
    one_of,
)

# Names that stand for all tasks of a benchmark.
TASK_GROUPS = {"GLUE": GLUE_TASKS, "SuperGLUE": SUPERGLUE_TASKS}
# They stand for something else where the name of a task may stand, also among folders.
RESERVED_NAMES = (*TASK_GROUPS, "DEFAULT", "search")
CLASS_METRICS = ("accuracy", "f1", "f1_macro", "matthews_correlation")
REGRESSION_METRICS = ("pearson", "spearman")
TABLE_ENDINGS = (".tsv", ".csv", ".jsonl")
MAX_ID = 64  # characters
MAX_LISTED = 50  # names in a message
MAX_RUNS = 20_000  # of a search: years of work, and planning lists them all

FINETUNE_RULES: dict[str, Rule] = {
    "FINETUNE.ID": (  # it goes into file names beside PRETRAIN.ID
        lambda value: FILE_NAME[0](value) and len(value) <= MAX_ID,
        f"{FILE_NAME[1]}, with at most {MAX_ID} characters",
    ),
    "FINETUNE.MODEL_NAME_OR_PATH": MODEL_NAME_OR_PATH,
    "FINETUNE.SEARCH": one_of("grid", "halving"),
    "FINETUNE.SEEDS": (
        lambda seeds: seeds and all(map(SEED[0], seeds)),
        f"at least one seed, each {SEED[1]}",
    ),
    "FINETUNE.EVALS_PER_EPOCH": at_least(0),
    "FINETUNE.EARLY_STOPPING_PATIENCE": at_least(0),
    "FINETUNE.MAX_SEQ_LENGTH": at_least(8),
    "FINETUNE.WEIGHT_DECAY": at_least(0),
    "FINETUNE.WARMUP_PROPORTION": between(0, 1),
    "FINETUNE.LR_SCHEDULER_TYPE": one_of("polynomial", "linear", "cosine", "constant_with_warmup"),
    "FINETUNE.MAX_GRAD_NORM": above(0),
    "FINETUNE.EVAL_BATCH_SIZE": at_least(1),
    "FINETUNE.MULTIPROCESS_GPU_LIST": each(
        (lambda gpus: gpus and min(gpus) >= 0, "a list of GPU numbers, e.g. [0, 1]")
    ),
}

GRID_RULES: dict[str, Rule] = {
    "EPOCHS": each(at_least(1)),
    "BATCH_SIZES": each(at_least(1)),
    "LEARNING_RATES": each(above(0)),
    "MAX_SEQ_LENGTH": (lambda value: value == 0 or value >= 8, "0 or at least 8"),
}

CUSTOM_TASK_RULES: dict[str, Rule] = {
    **dict.fromkeys(("TRAIN", "DEV", "TEST"), PATH),
    "TEXT_COLUMNS": (
        lambda columns: 1 <= len(columns) <= 2 and len(set(columns)) == len(columns),
        "one or two names of columns",
    ),
    "SCORE_RANGE": (
        lambda ends: not ends or (len(ends) == 2 and ends[0] < ends[1]),
        "[lowest, highest], or [] for classification",
    ),
    "LABELS": (
        lambda labels: len(labels) != 1 and len(set(labels)) == len(labels),
        "at least two different words, or [] to take them from TRAIN",
    ),
    "METRICS": each(one_of(*CLASS_METRICS, *REGRESSION_METRICS)),
}


def finetune_rules_of(finetune: CfgNode) -> Iterator[tuple[str, Rule]]:
    """Rules of the keys that stand under names of tasks."""
    for task in finetune.GRID:
        for name, rule in GRID_RULES.items():
            yield f"FINETUNE.GRID.{task}.{name}", rule
    for task in finetune.CUSTOM_TASKS:
        for name, rule in CUSTOM_TASK_RULES.items():
            yield f"FINETUNE.CUSTOM_TASKS.{task}.{name}", rule


def task_names(names: list[str], finetune: CfgNode) -> list[str]:
    """Tasks without duplicates, in their usual spelling; what is unknown stays as it is."""
    known = [*GLUE_TASKS, *SUPERGLUE_TASKS, *finetune.CUSTOM_TASKS]
    usual = {plain_name(name): [name] for name in known}
    groups = {plain_name(name): tasks for name, tasks in TASK_GROUPS.items()}
    found = [(usual | groups).get(plain_name(name), [name]) for name in names]
    return list(dict.fromkeys(name for some in found for name in some))


def plain_name(name: str) -> str:
    """`STS-B`, `sts_b` and `stsb` are the same task."""
    return re.sub("[^a-z0-9]", "", name.lower())


def problems_of_search(finetune: CfgNode) -> Iterator[str]:
    """What would go wrong in planning already: names that folders get, and the number of runs."""
    plain = Counter(map(plain_name, finetune.CUSTOM_TASKS))
    taken = {plain_name(name) for name in (*GLUE_TASKS, *SUPERGLUE_TASKS, *RESERVED_NAMES)}
    for name in finetune.CUSTOM_TASKS:
        if plain[plain_name(name)] > 1:
            yield (
                f"FINETUNE.CUSTOM_TASKS.{name}: only case or punctuation tells it from another "
                "task of your own, expected another name"
            )
        if plain_name(name) in taken or not name or not FILE_NAME[0](name):
            yield (
                f"FINETUNE.CUSTOM_TASKS.{name}: not a name for a task of your own, expected "
                f"{FILE_NAME[1]}, and not the name of a task of GLUE or SuperGLUE, nor any of "
                f"{', '.join(RESERVED_NAMES)}"
            )
    num_runs = sum(
        prod(len(values) for values in _tried(finetune, task).values()) * len(finetune.SEEDS)
        for task in task_names(finetune.TASKS, finetune)
    )
    if num_runs > MAX_RUNS:
        yield f"FINETUNE.GRID: got {num_runs:,} runs in all, expected at most {MAX_RUNS:,}"


def _tried(finetune: CfgNode, task: str) -> dict[str, list]:
    """The values of a task's grid, those of the default where it has none of its own."""
    own, default = finetune.GRID.get(task, finetune.GRID.DEFAULT), finetune.GRID.DEFAULT
    return {key: own[key] or default[key] for key in ("EPOCHS", "BATCH_SIZES", "LEARNING_RATES")}


def problems_of_finetuning(config: CfgNode) -> Iterator[str]:
    """Values of keys of FINETUNE that contradict each other."""
    finetune = config.FINETUNE
    tasks = task_names(finetune.TASKS, finetune)
    yield from _problems_of_names(finetune)
    if not tasks:
        yield "FINETUNE.TASKS: no task, expected at least one of " + ", ".join(GLUE_TASKS)
    for task in tasks:
        for name, values in _tried(finetune, task).items():
            if not values:
                yield f"FINETUNE.GRID.{task}.{name}: nothing to try, expected at least one value"
    yield from _problems_of_folders(finetune, tasks)
    for task in sorted(set(tasks) & set(finetune.CUSTOM_TASKS)):
        yield from _problems_of_custom_task(task, finetune.CUSTOM_TASKS[task])
    yield from _problems_of_stilt(finetune, tasks)
    if finetune.EARLY_STOPPING_PATIENCE and not finetune.EVALS_PER_EPOCH:
        yield (
            "FINETUNE.EARLY_STOPPING_PATIENCE: nothing to stop by, got "
            f"{finetune.EARLY_STOPPING_PATIENCE} with FINETUNE.EVALS_PER_EPOCH 0, expected at "
            "least 1 evaluation per epoch"
        )
    if not finetune.MODEL_NAME_OR_PATH:
        yield from _problems_of_length(config, tasks)


def _problems_of_names(finetune: CfgNode) -> Iterator[str]:
    known = [*GLUE_TASKS, *SUPERGLUE_TASKS, *finetune.CUSTOM_TASKS]
    listed = ", ".join(known[:MAX_LISTED]) + (", ..." if len(known) > MAX_LISTED else "")
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
    for part in ("TRAIN", "DEV", "TEST"):
        path = task[part]
        if not path and part == "TEST":
            continue
        if not os.path.isfile(path):
            shown = Path(path).absolute() if path else "nothing"
            yield f"{key}.{part}: no such file, got {shown}, expected a .tsv, .csv or .jsonl file"
        elif Path(path).suffix.lower() not in TABLE_ENDINGS:
            yield f"{key}.{part}: got {path}, expected a .tsv, .csv or .jsonl file"
    if task.TRAIN and task.TRAIN == task.DEV:
        yield f"{key}.DEV: got the file of TRAIN, expected other rows, as scores are those of DEV"
    if not task.LABEL_COLUMN:
        yield f"{key}.LABEL_COLUMN: got nothing, expected the name of a column"
    if task.LABEL_COLUMN in task.TEXT_COLUMNS:
        yield f"{key}.LABEL_COLUMN: got {task.LABEL_COLUMN}, expected none of TEXT_COLUMNS"
    if task.SCORE_RANGE and task.LABELS:
        yield f"{key}.LABELS: got {task.LABELS}, expected none with SCORE_RANGE (a regression)"
    allowed = REGRESSION_METRICS if task.SCORE_RANGE else CLASS_METRICS
    wrong = [metric for metric in task.METRICS if metric not in allowed]
    if wrong:
        kind = "a regression" if task.SCORE_RANGE else "a classification"
        yield f"{key}.METRICS: got {wrong}, expected for {kind} some of {', '.join(allowed)}"


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


def _problems_of_length(config: CfgNode, tasks: list[str]) -> Iterator[str]:
    room, grids = config.DATASET.MAX_SEQ_LENGTH, config.FINETUNE.GRID
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
