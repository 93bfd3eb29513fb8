"""The dev predictions of each task's best setting: read from the search, kept beside the report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from finetune.data.tasks import Split, Task
from finetune.evaluation.dev_predictions import DevPredictions, joined
from finetune.evaluation.prediction_files import (
    read_dev_predictions,
    write_dev_predictions,
)
from finetune.evaluation.resampling import DevSets, TaskEstimates, estimates
from finetune.search.job_folder import RESULT, damage_to_run, dev_predictions_path
from finetune.search.search import Search
from pipeline.errors import StageError
from pipeline.store.checksums import FILES
from pipeline.store.paths import DEV_PREDICTIONS
from pipeline.store.record_files import delete_tree, read_sealed
from result_collection.summary import Run, runs_of_best

TOLERANCE = 0.005  # of scores by predictions with 6 decimals, which make ties


@dataclass(frozen=True)
class BestRuns:
    """The runs of a task's best setting. task: with a dev split for all folds, if there are any.

    by_seed: the predictions by seed; those of all folds are one run. submitted: its seed.
    estimates: of the mean over the seeds.
    """

    task: Task
    by_seed: dict[int, DevSets]
    submitted: int
    estimates: TaskEstimates


def best_runs(search: Search, found: Mapping[str, Any]) -> tuple[dict[str, BestRuns], list[str]]:
    """Returns the runs by task, and a line for each task without, with the reason.

    found: the search's summary.
    """
    runs, reasons = {}, []
    for task in search.tasks:
        try:
            runs[task.name] = _runs_of(task, search.task_dir(task.name), found)
        except StageError as error:
            reasons.append(
                f"{task.name}: neither intervals nor mistakes are known, as {error.cause}"
            )
    return runs, reasons


def _runs_of(task: Task, folder: Path, found: Mapping[str, Any]) -> BestRuns:
    of_seeds, submitted = runs_of_best(task, found)
    some = task.in_fold(1)  # has dev splits
    by_seed: dict[int, DevSets] = {
        runs[0]["seed"]: _of_seed(some, folder, runs) for runs in of_seeds
    }
    known = estimates(some, list(by_seed.values()))
    if not task.num_folds:  # the score of all their rows together is another one
        score = mean(run["score"] for [run] in of_seeds)
        if abs(score - known.score.value) > TOLERANCE:
            found_score = f"{known.score.value:.4f} in place of {score:.4f}"
            raise StageError(f"its dev predictions give a score of {found_score}")
    return BestRuns(some, by_seed, submitted["seed"], known)


def _of_seed(task: Task, folder: Path, runs: Sequence[Run]) -> dict[str, DevPredictions]:
    """runs: one, or one per fold."""
    folders = [folder / run["setting"] for run in runs]
    return {split.name: joined([_read(run, split) for run in folders]) for split in task.dev}


def _read(folder: Path, split: Split) -> DevPredictions:
    path = dev_predictions_path(folder, split)
    if damage := damage_to_run(folder):
        raise StageError(f"{damage} in {folder}")
    if path.name not in (read_sealed(folder / RESULT) or {}).get(FILES, {}):
        raise StageError(
            "its runs are of a version that kept no dev predictions (with another FINETUNE.ID they "
            "run again)"
        )
    return read_dev_predictions(path)


# --- beside the report -------------------------------------------------------------------------


def write_runs(folder: Path, runs: Iterable[BestRuns]) -> None:
    """Writes the predictions into a results folder, where a comparison finds them; replaces those
    of an earlier run."""
    if (folder / DEV_PREDICTIONS).exists():
        delete_tree(folder / DEV_PREDICTIONS)
    for found in runs:
        for seed, sets in found.by_seed.items():
            for split in found.task.dev:
                place = _folder_of_seed(folder, found.task.name, seed)
                write_dev_predictions(dev_predictions_path(place, split), sets[split.name])


def read_runs(folder: Path, task: Task, seeds: Iterable[int]) -> list[DevSets]:
    """Returns what `write_runs` has written for a task. Raises StageError if it is not there."""
    return [
        {
            split.name: read_dev_predictions(
                dev_predictions_path(_folder_of_seed(folder, task.name, seed), split)
            )
            for split in task.dev
        }
        for seed in seeds
    ]


def _folder_of_seed(folder: Path, task: str, seed: int) -> Path:
    return folder / DEV_PREDICTIONS / task / f"seed{seed}"
