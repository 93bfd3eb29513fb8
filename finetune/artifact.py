"""What the finetuning stage makes and from what: the search, unpacked from the config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.demo_glue import DEMO_NAME, demo_digests
from finetune.examples import HUB_DATASET, file_digests, has_split
from finetune.runs import JobRun, Source, TrainingSettings, model_path
from finetune.search import STILT_SOURCE, Grid, Job, plan_jobs
from finetune.slots import Slot, plan_slots
from finetune.tasks import Task, find_task
from pipeline.artifacts import (
    Artifact,
    demo_glue_dir,
    file_digest,
    finetune_search_dir,
    finetune_task_dir,
    log_path,
)
from pipeline.devices import num_gpus
from pipeline.errors import ConfigError
from pretrain.artifact import pretrain_artifact

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 1
# Dataset ID of models that were not pretrained here.
EXTERNAL = "external"
# Settings that hold for every run; evaluation's batch size does not change a result.
_RUN_KEYS = (
    "MAX_SEQ_LENGTH",
    "WEIGHT_DECAY",
    "WARMUP_PROPORTION",
    "LR_SCHEDULER_TYPE",
    "MAX_GRAD_NORM",
)


@dataclass(frozen=True)
class StartingModel:
    """The model that is finetuned. inputs: its identity; artifact: of the stage that makes it,
    None if it comes from elsewhere."""

    path: str
    dataset_id: str
    pretrain_id: str
    inputs: dict[str, Any]
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Search:
    """A search in plain values. run_inputs: config keys that every run depends on; task_files:
    what each task's data is, by task; eval_batch_size: samples per forward pass."""

    root: Path
    model: StartingModel
    glue_dir: str
    tasks: tuple[Task, ...]
    jobs: tuple[Job, ...]
    run_inputs: dict[str, Any]
    task_files: dict[str, Any]
    eval_batch_size: int

    def task_dir(self, task: str) -> Path:
        model = self.model
        return finetune_task_dir(self.root, model.dataset_id, task, model.pretrain_id)

    def job_dir(self, job: Job) -> Path:
        return self.task_dir(job.task) / job.setting

    def log(self, *parts: str) -> Path:
        return log_path(self.root, "finetune", self.model.dataset_id, *parts)

    def make_run(self, job: Job, source: Job | None) -> JobRun:
        """source: the MNLI job that it starts from, None for the pretrained model."""
        start = str(model_path(self.job_dir(source))) if source else self.model.path
        return JobRun(
            job=job,
            task=next(task for task in self.tasks if task.name == job.task),
            inputs=self._inputs(job, source),
            source=Source(start, self.model.path, self.glue_dir),
            settings=self._settings(job),
            folder=self.job_dir(job),
            log=self.log(job.task, self.model.pretrain_id, job.setting),
            keep_model=job.task == STILT_SOURCE and any(other.stilt for other in self.jobs),
        )

    def _inputs(self, job: Job, source: Job | None) -> dict[str, Any]:
        return {
            **self.run_inputs,
            **self.model.inputs,
            "task": job.task,
            "task_files": self.task_files[job.task],
            "epochs": job.epochs,
            "batch_size": job.batch_size,
            "learning_rate": job.learning_rate,
            "seed": job.seed,
            "start": self.make_run(source, None).fingerprint if source else "pretrained",
            "format": FORMAT,
        }

    def _settings(self, job: Job) -> TrainingSettings:
        keys = self.run_inputs
        return TrainingSettings(
            epochs=job.epochs,
            batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            seed=job.seed,
            max_seq_length=keys["FINETUNE.MAX_SEQ_LENGTH"],
            weight_decay=keys["FINETUNE.WEIGHT_DECAY"],
            warmup=keys["FINETUNE.WARMUP_PROPORTION"],
            lr_scheduler_type=keys["FINETUNE.LR_SCHEDULER_TYPE"],
            max_grad_norm=keys["FINETUNE.MAX_GRAD_NORM"],
            eval_batch_size=self.eval_batch_size,
        )


def finetune_artifact(config: "CfgNode") -> Artifact:
    """The search as an artifact. Raises ConfigError for what is missing or contradictory."""
    search = load_search(config)
    names = [task.name for task in search.tasks]
    grids = _grids(config, search.tasks)
    return Artifact(
        stage="finetune",
        directory=finetune_search_dir(
            search.root, search.model.dataset_id, search.model.pretrain_id
        ),
        inputs={
            "FINETUNE.TASKS": names,
            "FINETUNE.SEEDS": sorted(set(config.FINETUNE.SEEDS)),
            "FINETUNE.STILT_TASKS": sorted({job.task for job in search.jobs if job.stilt}),
            **_grid_inputs(grids),
            **search.run_inputs,
            **search.model.inputs,
            "task_files": search.task_files,
            "format": FORMAT,
        },
        parts=tuple(search.task_dir(name) for name in names),
        notes=(_count_note(search), *_missing_tests_note(search)),
    )


def check_machine(config: "CfgNode") -> None:
    """Raises ConfigError if the search cannot run on the GPUs of this machine."""
    slots_for(config, load_search(config))


def slots_for(config: "CfgNode", search: Search) -> list[Slot]:
    """The processes that the search runs in. Raises ConfigError for GPUs that cannot be used."""
    slots = plan_slots(
        num_gpus(config.SYSTEM.NUM_GPUS),
        config.FINETUNE.MULTIPROCESS_GPU_LIST,
        config.SYSTEM.NUM_WORKERS,
    )
    for count in {len(slot.gpus) for slot in slots if slot.gpus}:
        uneven = sorted({job.batch_size for job in search.jobs if job.batch_size % count})
        if uneven:
            raise ConfigError(
                [
                    f"FINETUNE.MULTIPROCESS_GPU_LIST: {count} GPUs cannot share a batch of "
                    f"{' or '.join(map(str, uneven))} evenly"
                ]
            )
    return slots


def load_search(config: "CfgNode") -> Search:
    """Unpacks the config. Raises ConfigError for what is missing or contradictory."""
    finetune = config.FINETUNE
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    tasks = _tasks(finetune.TASKS)
    glue_dir = finetune.GLUE_DIR
    return Search(
        root=root,
        model=_starting_model(config),
        glue_dir=str(demo_glue_dir(root)) if glue_dir == DEMO_NAME else glue_dir,
        tasks=tasks,
        jobs=_jobs(config, tasks),
        run_inputs={f"FINETUNE.{key}": finetune[key] for key in _RUN_KEYS},
        task_files=_task_files(tasks, glue_dir),
        eval_batch_size=finetune.EVAL_BATCH_SIZE,
    )


def _tasks(names: list[str]) -> tuple[Task, ...]:
    """Without duplicates, in the order of their names, which the YAML's order does not change."""
    try:
        found = {find_task(name).name: find_task(name) for name in names}
    except KeyError as error:
        raise ConfigError([f"FINETUNE.TASKS: {error.args[0]}"]) from error
    if not found:
        raise ConfigError(["FINETUNE.TASKS: no task, got [], expected at least one"])
    return tuple(found[name] for name in sorted(found))


def _grids(config: "CfgNode", tasks: tuple[Task, ...]) -> dict[str, Grid]:
    default, grids = config.FINETUNE.GRID.DEFAULT, {}
    for task in tasks:
        own = config.FINETUNE.GRID[task.name]
        values = (own[key] or default[key] for key in ("EPOCHS", "BATCH_SIZES", "LEARNING_RATES"))
        grids[task.name] = Grid(*(tuple(value) for value in values))
    return grids


def _grid_inputs(grids: Mapping[str, Grid]) -> dict[str, Any]:
    inputs = {}
    for task, grid in grids.items():
        inputs[f"FINETUNE.GRID.{task}.EPOCHS"] = sorted(set(grid.epochs))
        inputs[f"FINETUNE.GRID.{task}.BATCH_SIZES"] = sorted(set(grid.batch_sizes))
        inputs[f"FINETUNE.GRID.{task}.LEARNING_RATES"] = sorted(set(grid.learning_rates))
    return inputs


def _jobs(config: "CfgNode", tasks: tuple[Task, ...]) -> tuple[Job, ...]:
    stilt = [find_task(name).name for name in config.FINETUNE.STILT_TASKS]
    try:
        return tuple(plan_jobs(_grids(config, tasks), config.FINETUNE.SEEDS, stilt))
    except ValueError as error:
        raise ConfigError(
            [
                f"FINETUNE.STILT_TASKS: {error}; add {STILT_SOURCE} to FINETUNE.TASKS, or take "
                "them out of FINETUNE.STILT_TASKS to start from the pretrained model"
            ]
        ) from error


def _task_files(tasks: tuple[Task, ...], glue_dir: str) -> dict[str, Any]:
    """Digests of each task's files. Training and dev files must be there, test files may lack."""
    if not glue_dir:
        return {task.name: HUB_DATASET for task in tasks}
    if glue_dir == DEMO_NAME:
        digests = demo_digests()
        names = {task.name: [f for split in task.splits for f in split.files] for task in tasks}
        return {
            task: {name: digests[name] for name in files if name in digests}
            for task, files in names.items()
        }
    if not Path(glue_dir).is_dir():
        raise ConfigError([f"FINETUNE.GLUE_DIR: no such folder, got {glue_dir}"])
    needed = [split for task in tasks for split in (task.train, *task.dev)]
    missing = [split.files[0] for split in needed if not has_split(split, glue_dir)]
    if missing:
        raise ConfigError([f"FINETUNE.GLUE_DIR: no file {name} in {glue_dir}" for name in missing])
    return {task.name: file_digests(task, Path(glue_dir)) for task in tasks}


def _starting_model(config: "CfgNode") -> StartingModel:
    name = config.FINETUNE.MODEL_NAME_OR_PATH
    if not name:
        artifact = pretrain_artifact(config)
        return StartingModel(
            path=str(artifact.directory / "model"),
            dataset_id=artifact.directory.parent.name,
            pretrain_id=artifact.directory.name,
            inputs={"pretrain": artifact.fingerprint},
            artifact=artifact,
        )
    inputs: dict[str, Any] = {"FINETUNE.MODEL_NAME_OR_PATH": name}
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).iterdir() if path.is_file())
        inputs = {"model": {path.name: file_digest(path) for path in files}}
    elif name.startswith(("/", ".", "~")):
        raise ConfigError([f"FINETUNE.MODEL_NAME_OR_PATH: no such folder, got {name}"])
    return StartingModel(name, config.DATASET.ID or EXTERNAL, _slug(name), inputs)


def _slug(name: str) -> str:
    """A folder name for a model: `bert-base-uncased`, `google--bert`, `models--mine`."""
    parts = [part for part in Path(name).parts if part.strip("./~")]
    return "--".join(parts[-2:]) or "model"


def _count_note(search: Search) -> str:
    counts = {task.name: sum(job.task == task.name for job in search.jobs) for task in search.tasks}
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    return f"{len(search.jobs)} runs: {listed}"


def _missing_tests_note(search: Search) -> tuple[str, ...]:
    """Test sets that will not be predicted because GLUE_DIR lacks them."""
    if not search.glue_dir or search.glue_dir == str(demo_glue_dir(search.root)):
        return ()
    tests = [split for task in search.tasks for split in task.test]
    missing = [split.files[0] for split in tests if not has_split(split, search.glue_dir)]
    return (f"no predictions for {', '.join(missing)}: no such files",) if missing else ()
