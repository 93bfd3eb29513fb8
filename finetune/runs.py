"""What a run of a job is, and what its folder holds.

A job's folder holds `predictions_<split>.tsv` for each test set (`index`, `prediction`; label
words or scores), `model/` if other jobs start from it, and `result.json`, written last: the job
is done only if that file was made from the same inputs.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.search import Job
from finetune.tasks import Split
from pipeline.artifacts import fingerprint, read_json

RESULT = "result.json"


@dataclass(frozen=True)
class TrainingSettings:
    """What a run does. batch_size: samples per optimizer step, whatever the number of GPUs.

    warmup: a share of the steps if below 1, else steps. eval_steps: steps between evaluations
    on the dev sets during training, 0 for none.
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


@dataclass(frozen=True)
class Source:
    """What a run reads. start: model that the weights come from; base: the one that the
    tokenizer comes from; glue_dir: folder in GLUE's TSV layout, empty for the Hub."""

    start: str
    base: str
    glue_dir: str


@dataclass(frozen=True)
class JobRun:
    """All that a worker needs for a job. inputs: what decides its result, JSON-able;
    keep_model: other jobs start from it."""

    job: Job
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
        """The content of result.json if the job is done, else None."""
        found = read_json(self.folder / RESULT)
        return found if found and found.get("fingerprint") == self.fingerprint else None


def predictions_path(folder: Path, split: Split) -> Path:
    return folder / f"predictions_{split.name}.tsv"


def model_path(folder: Path) -> Path:
    return folder / "model"


def drop_model(folder: Path) -> None:
    """Moved aside first: what a kill leaves behind is not taken for a model."""
    aside = folder / ".model.dropped"
    shutil.rmtree(aside, ignore_errors=True)
    if model_path(folder).exists():
        os.replace(model_path(folder), aside)
        shutil.rmtree(aside)
