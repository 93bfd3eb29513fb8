"""What a run of a job is, and what its folder holds.

A job's folder holds `predictions_<split>.tsv` for each test set (`index`, `prediction`: label
words, scores or answers), `model/` if other jobs start from it, and `result.json`, written last:
the job is done only if that record was made from the same inputs, and the predictions are still
what it says.
"""

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.tasks import Split, Task
from finetune.search.grid import Job
from pipeline.store.atomic_files import flush_to_disk, write_sealed, write_text
from pipeline.store.checksums import FILES, damage_to, fingerprint, states_of
from pipeline.store.record_files import delete_tree, read_sealed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RESULT = "result.json"
WEIGHTS = "weights"  # its key for the files of the model, as FILES is for the predictions
# Of a result, what the search's summary has too.
SUMMARY_KEYS = (
    *("score", "dev", "seconds", "majority", "only_label"),
    *("num_steps", "num_train_rows", "num_malformed_rows", "num_unlabelled_rows"),
    *("max_seq_length", "tokenization"),
)
# Beside them where the model has not as many positions as were asked for.
ASKED_LENGTH = "max_seq_length_asked"


@dataclass(frozen=True)
class TrainingSettings:
    """What a run does. batch_size: samples per optimizer step, whatever the number of GPUs.

    warmup: a share of the steps if below 1, else steps. eval_steps: steps between evaluations
    on the dev sets during training, 0 for none; evals_per_epoch says the same per epoch. keep_best:
    the weights of the best evaluation count, not the last ones. patience: evaluations without a
    better score after which training ends, 0 for never.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    seed: int
    max_seq_length: int
    weight_decay: float
    warmup: float
    lr_scheduler_type: str
    max_grad_norm: float
    eval_batch_size: int
    accumulation_steps: int = 1
    eval_steps: int = 0
    evals_per_epoch: int = 0
    keep_best: bool = False
    patience: int = 0


@dataclass(frozen=True)
class Source:
    """What a run reads. start: model that the weights come from; base: the one that the
    tokenizer comes from; data_dir: the folder that the task's files are below, empty for the
    Hub."""

    start: str
    base: str
    data_dir: str


@dataclass(frozen=True)
class JobRun:
    """All that a worker needs for a job. inputs: what decides its result, JSON-able;
    keep_model: other jobs start from it."""

    job: Job
    task: Task
    inputs: dict[str, Any]
    source: Source
    settings: TrainingSettings
    folder: Path
    log: Path
    keep_model: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.inputs)

    @property
    def result(self) -> dict | None:
        """The content of result.json if the job is done and nothing is damaged, else None."""
        found = read_sealed(self.folder / RESULT) or {}
        is_whole = set(SUMMARY_KEYS) <= found.keys() and not damage_to_run(self.folder)
        return found if is_whole and found.get("fingerprint") == self.fingerprint else None

    def __str__(self) -> str:
        return str(self.job)


def predictions_path(folder: Path, split: Split) -> Path:
    return folder / f"predictions_{split.name}.tsv"


def model_path(folder: Path) -> Path:
    return folder / "model"


def write_result(run: JobRun, result: Mapping[str, Any]) -> None:
    """The job is done now, with the predictions and weights that its folder holds."""
    paths = [predictions_path(run.folder, split) for split in run.task.test]
    record = {
        **result,
        FILES: states_of(run.folder, [path.name for path in paths if path.exists()]),
        WEIGHTS: states_of(run.folder, [model_path(run.folder).name] if run.keep_model else ()),
    }
    write_sealed(run.folder / RESULT, record)


def damage_to_run(folder: Path) -> str:
    """`x is missing` or `x is damaged`, of a result and its predictions, else an empty string."""
    if not (folder / RESULT).exists():
        return ""
    found = read_sealed(folder / RESULT)
    return f"{RESULT} is damaged" if found is None else damage_to(folder, found.get(FILES, {}))


def has_model(folder: Path) -> bool:
    """Whether the weights of a run are there, as they were saved."""
    found = read_sealed(folder / RESULT) or {}
    return model_path(folder).exists() and not damage_to(folder, found.get(WEIGHTS, {}))


def drop_model(folder: Path) -> None:
    """Moved aside first: what a kill leaves behind is not taken for a model."""
    if model_path(folder).exists():
        aside = folder / f".model.{uuid.uuid4().hex[:12]}.tmp"
        os.replace(model_path(folder), aside)
        delete_tree(aside)


def write_predictions(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """One line per (index, prediction) of a test set."""
    lines = ["index\tprediction", *(f"{index}\t{value}" for index, value in rows)]
    write_text(path, "\n".join(lines) + "\n")


def save_model(model: "PreTrainedModel", folder: Path) -> None:
    """Saved aside and moved, so that a model that is there is complete."""
    aside = folder / f".model.{uuid.uuid4().hex[:12]}.tmp"
    model.save_pretrained(aside)
    for path in (*aside.iterdir(), aside):
        flush_to_disk(path)
    drop_model(folder)
    os.replace(aside, model_path(folder))
    flush_to_disk(folder)
