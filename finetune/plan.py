"""What the finetuning stage makes and from what: the search, unpacked from the config."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.finetune_rules import task_names
from finetune.data.custom_tasks import FOLDER
from finetune.data.demo_glue import DEMO_NAME, demo_files
from finetune.data.examples import HUB_DATASET, has_split, num_train_rows, num_tsv_rows
from finetune.data.row_checks import notes_on_task, problems_of_rows, row_facts
from finetune.data.task_data import (
    FOLDER_KEYS,
    check_files,
    configured_tasks,
    demo_file,
    task_inputs,
)
from finetune.data.tasks import Task
from finetune.search.cost_estimate import by_task
from finetune.search.grid import HALVING, STILT_SOURCE, Grid, Job, num_runs, plan_jobs
from finetune.search.job_folder import RESULT, JobRun, Source, TrainingSettings, model_path
from finetune.search.local_workers import Slot, plan_slots
from finetune.training.foreign_models import (
    can_only_be_a_folder,
    positions_of,
    problem_with_places,
    problem_with_vocabulary,
)
from pipeline.console import WARNING_PREFIX
from pipeline.errors import ConfigError
from pipeline.hub.needs import HubNeed
from pipeline.runtime.devices import num_gpus
from pipeline.store.artifacts import Artifact, fingerprint
from pipeline.store.checksums import file_digest
from pipeline.store.disk import DiskNeed, size_of
from pipeline.store.paths import (
    demo_glue_dir,
    finetune_search_dir,
    finetune_task_dir,
    log_path,
    search_name,
)
from pretrain.plan import CARD, CURVE, model_bytes, pretrain_artifact

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 3
# What a search under the same name does, and the way out.
REPLACES = "writes over the summary of the other search (set FINETUNE.ID to keep both)"
# The table of all runs, in the search's own folder.
SUMMARY = "summary.json"
# Dataset ID of models that were not pretrained here.
EXTERNAL = "external"
# Longest part of a folder's name that is taken from a model's folder, in characters: file systems
# take 255 bytes.
MODEL_WORDS = 60
# Files of a model's folder that nothing can be done without.
_MODEL_FILES = {
    "config": ("config.json",),
    "weights": ("*.safetensors", "*.bin"),
    "tokenizer": ("tokenizer*", "vocab*", "*.model"),
}
# Keys that hold for every run; evaluation's batch size does not change a result.
_RUN_KEYS = (
    "EVALS_PER_EPOCH",
    "EARLY_STOPPING_PATIENCE",
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
    """A search in plain values.

    finetune_id: as configured. kind: `grid` or `halving`. data_dirs: folder of each benchmark, as
    `load_examples` takes it. with_demo: GLUE is the built-in benchmark, which is written when the
    search begins. jobs: the whole grid. max_seq_lengths: tokens per sample that are asked for, by
    task; length_keys: the keys that say so. run_inputs: config keys that every run depends on.
    task_inputs: what each task and its data is. eval_batch_size: samples per forward pass.
    """

    root: Path
    finetune_id: str
    kind: str
    model: StartingModel
    data_dirs: dict[str, str]
    with_demo: bool
    tasks: tuple[Task, ...]
    jobs: tuple[Job, ...]
    max_seq_lengths: dict[str, int]
    length_keys: dict[str, str]
    run_inputs: dict[str, Any]
    task_inputs: dict[str, dict[str, Any]]
    eval_batch_size: int

    def data_dir(self, task: Task) -> str:
        return self.data_dirs[task.benchmark]

    @property
    def name(self) -> str:
        """Of its folders."""
        return search_name(self.model.pretrain_id, self.finetune_id)

    @property
    def directory(self) -> Path:
        return finetune_search_dir(self.root, self.model.dataset_id, self.name)

    def task_dir(self, task: str) -> Path:
        return finetune_task_dir(self.root, self.model.dataset_id, task, self.name)

    def job_dir(self, job: Job) -> Path:
        return self.task_dir(job.task) / job.setting

    def log(self, *parts: str) -> Path:
        return log_path(self.root, "finetune", self.model.dataset_id, *parts)

    def make_run(self, job: Job, source: Job | None) -> JobRun:
        """source: the MNLI job that it starts from, None for the pretrained model."""
        task = next(task for task in self.tasks if task.name == job.task)
        start = str(model_path(self.job_dir(source))) if source else self.model.path
        return JobRun(
            job=job,
            task=task,
            inputs=self._inputs(job, source),
            source=Source(start, self.model.path, self.data_dir(task)),
            settings=self._settings(job),
            folder=self.job_dir(job),
            log=self.log(job.task, self.name, job.setting),
            keep_model=job.task == STILT_SOURCE and any(other.stilt for other in self.jobs),
        )

    def _inputs(self, job: Job, source: Job | None) -> dict[str, Any]:
        return {
            **self.run_inputs,
            **self.model.inputs,
            **self.task_inputs[job.task],
            "task": job.task,
            "max_seq_length_asked": self.max_seq_lengths[job.task],
            "epochs": job.epochs,
            "batch_size": job.batch_size,
            "learning_rate": job.learning_rate,
            "seed": job.seed,
            "start": self.make_run(source, None).fingerprint if source else "pretrained",
            "format": FORMAT,
        }

    def _settings(self, job: Job) -> TrainingSettings:
        keys = self.run_inputs
        evals_per_epoch = keys["FINETUNE.EVALS_PER_EPOCH"]
        return TrainingSettings(
            epochs=job.epochs,
            batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            seed=job.seed,
            max_seq_length=self.max_seq_lengths[job.task],
            weight_decay=keys["FINETUNE.WEIGHT_DECAY"],
            warmup=keys["FINETUNE.WARMUP_PROPORTION"],
            lr_scheduler_type=keys["FINETUNE.LR_SCHEDULER_TYPE"],
            max_grad_norm=keys["FINETUNE.MAX_GRAD_NORM"],
            eval_batch_size=self.eval_batch_size,
            evals_per_epoch=evals_per_epoch,
            keep_best=evals_per_epoch > 0,
            patience=keys["FINETUNE.EARLY_STOPPING_PATIENCE"],
        )


def finetune_artifact(config: "CfgNode") -> Artifact:
    """The search as an artifact. Raises ConfigError for what is missing or contradictory."""
    search = load_search(config)
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
    return Artifact(
        stage="finetune",
        directory=search.directory,
        inputs=inputs,
        parts=tuple(search.task_dir(name) for name in names),
        user_named="FINETUNE.ID" if search.finetune_id else "",
        made_from=next(iter(search.model.inputs)),
        notes=tuple(_notes(search, config.FINETUNE.CUSTOM_TASKS)),
        files_in=lambda results: _files_of(search, results),
        replaces={} if search.finetune_id else dict.fromkeys(inputs.keys() - {"format"}, REPLACES),
        hub=tuple(_hub_needs(search)),
        disk=tuple(_disk_needs(config, search)),
    )


def _disk_needs(config: "CfgNode", search: Search) -> Iterator[DiskNeed]:
    """The MNLI model that others start from, and one that may be better; the rest is small."""
    if not any(job.stilt for job in search.jobs):
        return
    size = size_of(Path(search.model.path))  # 0 if it is not made or loaded yet
    if not size and search.model.artifact:
        size = model_bytes(config, config.TOKENIZER.VOCAB_SIZE)
    folder, key = search.task_dir(STILT_SOURCE), "FINETUNE.STILT_TASKS"
    yield DiskNeed(folder, 2 * size, "models of finetuning", key)


def _files_of(search: Search, results: Mapping[str, Any]) -> Iterator[str]:
    """The table, and the results and predictions of the runs that are to be submitted."""
    yield SUMMARY
    for task, setting in results["best"].items():
        folder = search.task_dir(task) / setting
        for path in (folder / RESULT, *sorted(folder.glob("predictions_*.tsv"))):
            yield os.path.relpath(path, search.directory)


def check_machine(config: "CfgNode") -> None:
    """Raises ConfigError if the search cannot run on the GPUs of this machine, or with the model
    or the data that is there."""
    search = load_search(config)
    if not search.model.artifact and Path(search.model.path).is_dir():
        check_model(Path(search.model.path))
    if not config.SYSTEM.DASK_SCHEDULER:
        slots_for(config, search)
    problems = [
        f"{FOLDER_KEYS[task.benchmark]}: {problem}"
        for task in _tasks_in_folders(search)
        for _, problem in problems_of_rows(task, search.data_dir(task))
    ]
    if problems:
        raise ConfigError(problems)


def row_notes(config: "CfgNode") -> Iterator[str]:
    """For the plan of a search that will run, on the rows of the benchmarks' files.

    Those of the user's own tasks are in the notes of the artifact.
    """
    search = load_search(config)
    for task in _tasks_in_folders(search):
        yield from notes_on_task(task, search.data_dir(task))


def _tasks_in_folders(search: "Search") -> Iterator[Task]:
    """Those of the benchmarks whose files are here: not on the Hub, and not made by this program.

    Reading all of GLUE takes some seconds, which only a search that will run spends.
    """
    for task in search.tasks:
        if task.benchmark and search.data_dir(task) and not _is_demo(search.with_demo, task):
            yield task


def check_model(folder: Path) -> None:
    """Raises ConfigError for a folder that lacks files, or whose files name others elsewhere.

    Without files of its own, transformers makes up a tokenizer that knows no word.
    """
    for what, patterns in _MODEL_FILES.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise ConfigError(
                [
                    f"FINETUNE.MODEL_NAME_OR_PATH: no {what} in {folder.absolute()}, expected a "
                    f"model in Hugging Face format, with {' or '.join(patterns)}"
                ]
            )
    if problem := problem_with_places(folder) or problem_with_vocabulary(folder):
        raise ConfigError([f"FINETUNE.MODEL_NAME_OR_PATH: {problem}"])


def slots_for(config: "CfgNode", search: Search) -> list[Slot]:
    """The processes that the search runs in. Raises ConfigError for GPUs that cannot be used."""
    return plan_slots(
        num_gpus(config.SYSTEM.NUM_GPUS),
        config.FINETUNE.MULTIPROCESS_GPU_LIST,
        config.SYSTEM.NUM_WORKERS,
        len(search.jobs),
    )


def load_search(config: "CfgNode") -> Search:
    """Unpacks the config. Raises ConfigError for what is missing or contradictory."""
    finetune = config.FINETUNE
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    tasks = configured_tasks(finetune)
    with_demo = finetune.GLUE_DIR == DEMO_NAME
    data_dirs = {
        "GLUE": str(demo_glue_dir(root)) if with_demo else finetune.GLUE_DIR,
        "SuperGLUE": finetune.SUPERGLUE_DIR,
        "": FOLDER,
    }
    check_files([task for task in tasks if not _is_demo(with_demo, task)], data_dirs)
    return Search(
        root=root,
        finetune_id=finetune.ID,
        kind=finetune.SEARCH,
        model=_starting_model(config),
        data_dirs=data_dirs,
        with_demo=with_demo,
        tasks=tasks,
        jobs=_jobs(finetune, tasks),
        max_seq_lengths={task.name: _max_seq_length(finetune, task.name)[1] for task in tasks},
        length_keys={task.name: _max_seq_length(finetune, task.name)[0] for task in tasks},
        run_inputs={f"FINETUNE.{key}": finetune[key] for key in _RUN_KEYS},
        task_inputs={
            task.name: task_inputs(task, data_dirs[task.benchmark], _is_demo(with_demo, task))
            for task in tasks
        },
        eval_batch_size=finetune.EVAL_BATCH_SIZE,
    )


def _is_demo(with_demo: bool, task: Task) -> bool:
    return with_demo and task.benchmark == "GLUE"


# --- the grid ------------------------------------------------------------------------------------


def _grid_node(finetune: "CfgNode", task: str) -> "CfgNode":
    """What the config says of a task; a user's own one may have nothing of its own."""
    return finetune.GRID.get(task, finetune.GRID.DEFAULT)


def _max_seq_length(finetune: "CfgNode", task: str) -> tuple[str, int]:
    """The key that holds for a task, and its value."""
    for name in (task, "DEFAULT"):
        if name in finetune.GRID and (length := finetune.GRID[name].MAX_SEQ_LENGTH):
            return f"FINETUNE.GRID.{name}.MAX_SEQ_LENGTH", length
    return "FINETUNE.MAX_SEQ_LENGTH", finetune.MAX_SEQ_LENGTH


def _grids(finetune: "CfgNode", tasks: tuple[Task, ...]) -> dict[str, Grid]:
    default, grids = finetune.GRID.DEFAULT, {}
    for task in tasks:
        own = _grid_node(finetune, task.name)
        values = (own[key] or default[key] for key in ("EPOCHS", "BATCH_SIZES", "LEARNING_RATES"))
        grids[task.name] = Grid(*(tuple(value) for value in values))
    return grids


def _grid_inputs(search: Search) -> dict[str, Any]:
    inputs = {}
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
        return tuple(plan_jobs(_grids(finetune, tasks), finetune.SEEDS, stilt))
    except ValueError as error:
        raise ConfigError(
            [
                f"FINETUNE.STILT_TASKS: {error}; add {STILT_SOURCE} to FINETUNE.TASKS, or take "
                "them out of FINETUNE.STILT_TASKS to start from the pretrained model"
            ]
        ) from error


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
    """Digests of a model's files, without hidden ones, which other programs leave behind, and
    those for people, who are free to change them."""
    files = (path for path in folder.glob("[!.]*") if path.is_file())
    return {path.name: file_digest(path) for path in files if path.name not in (CARD, CURVE)}


def _folder_name(model: Path, digest: str) -> str:
    """For what is made of a model in a folder: `models--mine-0a1b2c3d`.

    The names alone do not tell models apart: many are called `checkpoint-1000` or `model`.
    """
    parts = [part for part in model.parts if part.strip("./~")]
    words = "--".join(parts[-2:])[-MODEL_WORDS:].lstrip(".-") or "model"
    return f"{words}-{digest[:8]}"


def _hub_needs(search: Search) -> Iterator[HubNeed]:
    name = search.model.path
    if not search.model.artifact and not Path(name).is_dir():
        yield HubNeed(
            "model",
            name,
            "FINETUNE.MODEL_NAME_OR_PATH",
            "the model to finetune",
            "a folder with a model here",
            files=tuple(_MODEL_FILES.values()),
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


# --- the plan ------------------------------------------------------------------------------------


def count_runs(search: Search) -> dict[str, int]:
    """Task -> number of runs."""
    return {
        task: sum(num_runs(jobs, search.kind).values())
        for task, jobs in by_task(search.jobs).items()
    }


def _notes(search: Search, custom_tasks: Iterable[str]) -> Iterator[str]:
    counts = count_runs(search)
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    yield f"{sum(counts.values())} runs: {listed}"
    rows = {task.name: _num_rows(search, task) for task in search.tasks}
    total = sum(
        number * epochs * rows[task]
        for task, jobs in by_task(search.jobs).items()
        for epochs, number in num_runs(jobs, search.kind).items()
    )
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


def _num_rows(search: Search, task: Task) -> int:
    if not task.benchmark:
        return row_facts(task, FOLDER)[task.train].num_rows
    if _is_demo(search.with_demo, task):  # it may not have been written yet
        lines = demo_files()[demo_file(task.train)].encode().splitlines()
        return num_tsv_rows(lines, task.train)
    return num_train_rows(task, search.data_dir(task))


def known_positions(search: Search) -> int:
    """Of a model in a folder, as its config says it; 0 if that is not known before it is loaded."""
    return positions_of(Path(search.model.path))


def _length_notes(search: Search) -> Iterator[str]:
    """Tasks whose samples shall be longer than the model can take."""
    positions, keys = known_positions(search), {}
    for task, length in search.max_seq_lengths.items():
        if 0 < positions < length:
            keys[search.length_keys[task]] = length
    for key, length in keys.items():
        yield (
            f"{WARNING_PREFIX}samples are cut to at most {positions} tokens, as the model has only "
            f"{positions} positions; {key} is {length}"
        )


def _halving_notes(search: Search) -> Iterator[str]:
    """What is left of the grid, and where halving has nothing to halve."""
    grids = by_task(search.jobs)
    yield f"halving: {sum(count_runs(search).values())} of the grid's {len(search.jobs)} runs"
    single = [task for task, jobs in grids.items() if len({job.epochs for job in jobs}) == 1]
    if single:
        yield f"halving: all of the grid for {', '.join(single)}, with one number of epochs"


def _missing_tests_note(search: Search) -> Iterator[str]:
    """Test sets that will not be predicted because they are not there."""
    missing = [
        split.files[0]
        for task in search.tasks
        if not _is_demo(search.with_demo, task)
        for split in task.test
        if not has_split(split, search.data_dir(task))
    ]
    if missing:
        yield f"no predictions for {', '.join(missing)}: no such files"
