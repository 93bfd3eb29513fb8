"""The search of a finetuning stage, as plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.tasks import Task
from finetune.search.grid import ALL, BEST, STILT_SOURCE, Job, by_task, num_runs
from finetune.search.job_folder import InputPaths, JobRun, TrainingSettings, model_path
from pipeline.store.artifacts import Artifact
from pipeline.store.paths import finetune_search_dir, finetune_task_dir, log_path, search_name

FORMAT = 3  # increase it whenever the same inputs would give other results


@dataclass(frozen=True)
class StartingModel:
    """The model to finetune.

    path: its folder, or its name on the Hub. inputs: its identity. artifact: of pretraining, None
    for a model from elsewhere.
    """

    path: str
    dataset_id: str
    pretrain_id: str
    inputs: dict[str, Any]
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Search:
    """A search in plain values.

    finetune_id: FINETUNE.ID. kind: `grid` or `halving`. data_dirs: folder of each benchmark, for
    `load_examples`. with_demo: GLUE is the built-in benchmark, written when the search begins.
    jobs: the whole grid. max_seq_lengths: configured tokens per sample, by task; length_keys: the
    keys they come from. run_inputs: config keys that all runs depend on. task_inputs: identity of
    each task and its data. eval_batch_size: samples per forward pass.
    keep_models: best | all | none.
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
    keep_models: str

    def data_dir(self, task: Task) -> str:
        return self.data_dirs[task.benchmark]

    def is_demo(self, task: Task) -> bool:
        """True for a task of the built-in benchmark."""
        return self.with_demo and task.benchmark == "GLUE"

    @property
    def stilt_sources(self) -> set[str]:
        """The tasks with a model that other tasks start from."""
        return {STILT_SOURCE} if any(job.stilt for job in self.jobs) else set()

    @property
    def name(self) -> str:
        """Name of the search's folders."""
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
        """Returns the run of a job; source: the MNLI job to start from, if any."""
        task = next(task for task in self.tasks if task.name == job.task).in_fold(job.fold)
        start = str(model_path(self.job_dir(source))) if source else self.model.path
        return JobRun(
            job=job,
            task=task,
            inputs=self._inputs(job, source),
            paths=InputPaths(start, self.model.path, self.data_dir(task)),
            settings=self._settings(job),
            folder=self.job_dir(job),
            log=self.log(job.task, self.name, job.setting),
            keep_model=self._keeps_model(job),
        )

    def _keeps_model(self, job: Job) -> bool:
        if self.keep_models == BEST:  # that of a fold is never the best
            return job.fold <= 0
        return self.keep_models == ALL or job.task in self.stilt_sources

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
            **({"fold": job.fold} if job.fold else {}),
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


def count_runs(search: Search) -> dict[str, int]:
    """Returns the number of runs by task; after folds there is one more, on all rows."""
    return {
        task: sum(num_runs(jobs, search.kind).values()) + any(job.fold for job in jobs)
        for task, jobs in by_task(search.jobs).items()
    }
