"""The plan of the finetuning stage: the search, its folders and its identity."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.finetune_rules import grid_of, task_names
from configs.keys import identity_inputs
from finetune.data.custom_tasks import FOLDER
from finetune.data.demo_glue import DEMO_NAME
from finetune.data.task_data import check_files, configured_tasks, task_inputs
from finetune.data.tasks import Task
from finetune.search.grid import BEST, NONE, STILT_SOURCE, Grid, Job, by_task, plan_jobs
from finetune.search.job_folder import RESULT, model_files
from finetune.search.search import FORMAT, Search, StartingModel
from pipeline.errors import ConfigError
from pipeline.hub.models import can_only_be_a_folder
from pipeline.stage_plan import StagePlan
from pipeline.store.artifacts import Artifact, Extension
from pipeline.store.checksums import file_digest, fingerprint
from pipeline.store.paths import MODEL, MODEL_CARD, SUMMARY, demo_glue_dir
from pretrain.plan import CURVE, PretrainPlan
from pretrain.plan import plan as plan_pretraining

if TYPE_CHECKING:
    from yacs.config import CfgNode

# A warning about a search of the same name.
REPLACES = "writes over the summary of the other search (set FINETUNE.ID to keep both)"
KEEP_MODELS = "FINETUNE.KEEP_MODELS"
# Dataset ID of models that were not pretrained here.
EXTERNAL = "external"
# Longest part of a folder's name from a model's folder, in characters: file systems take 255 bytes.
MODEL_WORDS = 60


@dataclass(frozen=True)
class FinetunePlan(StagePlan):
    """upstream: pretraining, or None for a model from elsewhere."""

    upstream: PretrainPlan | None
    search: Search


def plan(config: "CfgNode", upstream: PretrainPlan | None = None) -> FinetunePlan:
    """Plans the search. Raises ConfigError for missing or contradictory values."""
    if not config.FINETUNE.MODEL_NAME_OR_PATH:
        upstream = upstream or plan_pretraining(config)
    search = load_search(config, upstream)
    names = [task.name for task in search.tasks]
    inputs = {
        "FINETUNE.TASKS": names,
        "FINETUNE.SEARCH": search.kind,
        "FINETUNE.SEEDS": sorted({job.seed for job in search.jobs}),
        "FINETUNE.STILT_TASKS": sorted({job.task for job in search.jobs if job.stilt}),
        **_grid_inputs(search),
        **search.run_inputs,
        **search.model.inputs,
        "task_data": search.task_inputs,
        "format": FORMAT,
    }
    if search.keep_models != BEST:
        inputs[KEEP_MODELS] = search.keep_models
    artifact = Artifact(
        stage="finetune",
        directory=search.directory,
        inputs=inputs,
        parts=tuple(search.task_dir(name) for name in names),
        user_named="FINETUNE.ID" if search.finetune_id else "",
        made_from=next(iter(search.model.inputs)),
        files_in=lambda results: _files_of(search, results),
        replaces={} if search.finetune_id else dict.fromkeys(inputs.keys() - {"format"}, REPLACES),
        extension=lambda before: _extension(inputs, before),
    )
    return FinetunePlan(artifact, upstream, search)


def _extension(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> Extension | None:
    """Returns an extension if nothing but the models to keep has changed."""
    others = [{k: v for k, v in some.items() if k != KEEP_MODELS} for some in (inputs, before)]
    return Extension("extended, keeps other models") if others[0] == others[1] else None


def load_search(config: "CfgNode", pretrained: PretrainPlan | None) -> Search:
    """Returns the search of this config; pretrained: the plan of its model, if we make it.

    Raises ConfigError for missing or contradictory values.
    """
    finetune = config.FINETUNE
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    tasks = configured_tasks(finetune)
    with_demo = finetune.GLUE_DIR == DEMO_NAME
    data_dirs = {
        "GLUE": str(demo_glue_dir(root)) if with_demo else finetune.GLUE_DIR,
        "SuperGLUE": finetune.SUPERGLUE_DIR,
        "": FOLDER,
    }
    check_files([task for task in tasks if not (with_demo and task.benchmark == "GLUE")], data_dirs)
    return Search(
        root=root,
        finetune_id=finetune.ID,
        kind=finetune.SEARCH,
        model=_starting_model(config, pretrained),
        data_dirs=data_dirs,
        with_demo=with_demo,
        tasks=tasks,
        jobs=_jobs(finetune, tasks),
        max_seq_lengths={task.name: _max_seq_length(finetune, task.name)[1] for task in tasks},
        length_keys={task.name: _max_seq_length(finetune, task.name)[0] for task in tasks},
        run_inputs=identity_inputs(config, "FINETUNE"),
        task_inputs={
            task.name: task_inputs(
                task, data_dirs[task.benchmark], with_demo and task.benchmark == "GLUE"
            )
            for task in tasks
        },
        eval_batch_size=finetune.EVAL_BATCH_SIZE,
        keep_models=finetune.KEEP_MODELS,
    )


def _max_seq_length(finetune: "CfgNode", task: str) -> tuple[str, int]:
    """Returns the key that applies to a task, and its value."""
    for name in (task, "DEFAULT"):
        if name in finetune.GRID and (length := finetune.GRID[name].MAX_SEQ_LENGTH):
            return f"FINETUNE.GRID.{name}.MAX_SEQ_LENGTH", length
    return "FINETUNE.MAX_SEQ_LENGTH", finetune.MAX_SEQ_LENGTH


def _grids(finetune: "CfgNode", tasks: tuple[Task, ...]) -> dict[str, Grid]:
    return {task.name: Grid(*map(tuple, grid_of(finetune, task.name).values())) for task in tasks}


def _grid_inputs(search: Search) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for task, jobs in by_task(search.jobs).items():
        key = f"FINETUNE.GRID.{task}"
        inputs[f"{key}.EPOCHS"] = sorted({job.epochs for job in jobs})
        inputs[f"{key}.BATCH_SIZES"] = sorted({job.batch_size for job in jobs})
        inputs[f"{key}.LEARNING_RATES"] = sorted({job.learning_rate for job in jobs})
        inputs[f"{key}.MAX_SEQ_LENGTH"] = search.max_seq_lengths[task]
    return inputs


def _jobs(finetune: "CfgNode", tasks: tuple[Task, ...]) -> tuple[Job, ...]:
    stilt = task_names(finetune.STILT_TASKS, finetune)
    try:
        return tuple(
            plan_jobs(
                _grids(finetune, tasks),
                finetune.SEEDS,
                stilt,
                {task.name: task.num_folds for task in tasks},
            )
        )
    except ValueError as error:
        raise ConfigError(
            [
                f"FINETUNE.STILT_TASKS: {error}; add {STILT_SOURCE} to FINETUNE.TASKS, or take "
                "them out of FINETUNE.STILT_TASKS to start from the pretrained model"
            ]
        ) from error


def _starting_model(config: "CfgNode", pretrained: PretrainPlan | None) -> StartingModel:
    name = config.FINETUNE.MODEL_NAME_OR_PATH
    if pretrained:
        artifact = pretrained.artifact
        return StartingModel(
            path=str(artifact.directory / MODEL),
            dataset_id=artifact.directory.parent.name,
            pretrain_id=artifact.directory.name,
            inputs={"pretrain": artifact.fingerprint},
            artifact=artifact,
        )
    inputs: dict[str, Any] = {"FINETUNE.MODEL_NAME_OR_PATH": name}
    folder_name = name.replace("/", "--")
    if Path(name).is_dir():
        inputs = {"model": _model_digests(Path(name))}
        folder_name = _folder_name(Path(name), fingerprint(inputs))
    elif can_only_be_a_folder(name):
        raise ConfigError(
            [f"FINETUNE.MODEL_NAME_OR_PATH: no such folder, got {Path(name).absolute()}"]
        )
    return StartingModel(name, config.DATASET.ID or EXTERNAL, folder_name, inputs)


def _model_digests(folder: Path) -> dict[str, str]:
    """Returns digests of a model's files, except hidden ones and those for people."""
    files = (path for path in folder.glob("[!.]*") if path.is_file())
    return {path.name: file_digest(path) for path in files if path.name not in (MODEL_CARD, CURVE)}


def _folder_name(model: Path, digest: str) -> str:
    """Returns a folder's name for results of a local model, like `models--mine-0a1b2c3d`.

    The digest tells models of the same name apart: many are called `checkpoint-1000` or `model`.
    """
    parts = [part for part in model.parts if part.strip("./~")]
    words = "--".join(parts[-2:])[-MODEL_WORDS:].lstrip(".-") or "model"
    return f"{words}-{digest[:8]}"


def _files_of(search: Search, results: Mapping[str, Any]) -> Iterator[str]:
    """Yields the summary, and the results, predictions and models of the best runs."""
    yield SUMMARY
    for task, setting in results["best"].items():
        folder = search.task_dir(task) / setting
        paths = [folder / RESULT, *sorted(folder.glob("*.tsv"))]
        if search.keep_models != NONE:
            paths += model_files(folder)
        for path in paths:
            yield os.path.relpath(path, search.directory)
