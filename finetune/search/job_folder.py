"""The folder of a finetuning run, and everything that a worker needs for it.

The folder holds `predictions_<split>.tsv` for each test set (`index`, `prediction`: label words,
scores or answers), `dev.tsv` or the like for each dev set (see
finetune/evaluation/prediction_files.py; not in old results), maybe `model/`, and `result.json`,
written last. A job is done if its result has the same inputs and no prediction is damaged.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.tasks import Split, Task
from finetune.search.grid import Job
from pipeline.store.atomic_files import flush_to_disk, write_sealed, write_text
from pipeline.store.checksums import FILES, damage_to, fingerprint, states_of
from pipeline.store.paths import MODEL_CARD
from pipeline.store.record_files import delete_tree, read_sealed

RESULT = "result.json"
WEIGHTS = "weights"  # the result's key for the model's files, as FILES is for the predictions
# Keys of a result that the search's summary has too.
SUMMARY_KEYS = (
    *("score", "dev", "seconds", "majority", "only_label"),
    *("num_steps", "num_train_rows", "num_malformed_rows", "num_unlabelled_rows"),
    *("max_seq_length", "tokenization"),
)
# The configured length, in results of models with fewer positions.
ASKED_LENGTH = "max_seq_length_asked"
# Keys of the summary that only some results have.
OPTIONAL_KEYS = (ASKED_LENGTH, "details")


@dataclass(frozen=True)
class TrainingSettings:
    """The hyperparameters of a run. batch_size: samples per optimizer step.

    warmup: a share of the steps if below 1, else steps. eval_steps: steps between evaluations
    on the dev sets during training, 0 for none; evals_per_epoch: the same per epoch. keep_best:
    return the weights of the best evaluation, not the last ones. patience: evaluations without a
    better score before training stops early, 0 for never.
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
class InputPaths:
    """The model folders with the initial weights and the tokenizer, and the folder of the data.

    data_dir: as `load_examples` takes it, empty for the Hub.
    """

    weights: str
    tokenizer: str
    data_dir: str

    def absolute(self) -> "InputPaths":
        return InputPaths(*map(_absolute, (self.weights, self.tokenizer, self.data_dir)))


def _absolute(path: str) -> str:
    """Returns an absolute path; names on the Hub stay."""
    return str(Path(path).absolute()) if path and Path(path).exists() else path


@dataclass(frozen=True)
class JobRun:
    """A job with everything that a worker needs. inputs: its identity, JSON-serialisable.

    keep_model: save the finetuned model.
    """

    job: Job
    task: Task
    inputs: dict[str, Any]
    paths: InputPaths
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

    def absolute(self) -> "JobRun":
        """Returns the same run for a worker with another working directory."""
        folder, log = self.folder.absolute(), self.log.absolute()
        return replace(self, paths=self.paths.absolute(), folder=folder, log=log)

    def __str__(self) -> str:
        return str(self.job)


def predictions_path(folder: Path, split: Split) -> Path:
    return folder / f"predictions_{split.name}.tsv"


def dev_predictions_path(folder: Path, split: Split) -> Path:
    """Returns the path of the file of a dev split, `dev` or `dev_matched`, say."""
    return folder / f"{split.name}.tsv"


def model_path(folder: Path) -> Path:
    return folder / "model"


def model_files(folder: Path) -> list[Path]:
    """Returns the files of a run's model, except the card, which people may change."""
    return sorted(path for path in model_path(folder).glob("*") if path.name != MODEL_CARD)


def prediction_paths(folder: Path, task: Task) -> list[Path]:
    """Returns the paths of the predictions of all test and dev sets."""
    paths = [predictions_path(folder, split) for split in task.test]
    return paths + [dev_predictions_path(folder, split) for split in task.dev]


def write_result(run: JobRun, result: Mapping[str, Any]) -> None:
    """Marks the job as done, with the checksums of its predictions and weights."""
    paths = prediction_paths(run.folder, run.task)
    record = {
        **result,
        FILES: states_of(run.folder, _relative(filter(Path.exists, paths), run.folder)),
        WEIGHTS: states_of(run.folder, _relative(model_files(run.folder), run.folder)),
    }
    write_sealed(run.folder / RESULT, record)


def _relative(paths: Iterable[Path], folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for path in paths]


def damage_to_run(folder: Path) -> str:
    """Returns `x is missing` or `x is damaged` for a result or its predictions, else ""."""
    if not (folder / RESULT).exists():
        return ""
    found = read_sealed(folder / RESULT)
    return f"{RESULT} is damaged" if found is None else damage_to(folder, found.get(FILES, {}))


def has_model(folder: Path) -> bool:
    """True if the run's weights exist and are undamaged."""
    found = read_sealed(folder / RESULT) or {}
    return model_path(folder).exists() and not damage_to(folder, found.get(WEIGHTS, {}))


def drop_model(folder: Path) -> None:
    """Deletes a run's model; renames it first, so a kill leaves no partial model."""
    if model_path(folder).exists():
        renamed = _temporary_path(folder)
        os.replace(model_path(folder), renamed)
        delete_tree(renamed)


def write_predictions(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes a line per (index, prediction) of a test set."""
    lines = ["index\tprediction", *(f"{index}\t{value}" for index, value in rows)]
    write_text(path, "\n".join(lines) + "\n")


@contextmanager
def new_model(folder: Path) -> Iterator[Path]:
    """Yields an empty folder, which becomes the run's model at the end: a model is complete."""
    aside = _temporary_path(folder)
    aside.mkdir(parents=True)
    yield aside
    for path in (*aside.iterdir(), aside):
        flush_to_disk(path)
    drop_model(folder)
    os.replace(aside, model_path(folder))
    flush_to_disk(folder)


def _temporary_path(folder: Path) -> Path:
    return folder / f".model.{uuid.uuid4().hex[:12]}.tmp"
