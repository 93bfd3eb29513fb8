"""The jobs of a hyperparameter search: which to run, what each starts from, and the best one.

Everything here is pure: the next jobs follow from the grid and the scores so far.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, median

# STILT (arXiv 1811.01088): small tasks start from a model finetuned on MNLI.
STILT_SOURCE = "MNLI"
HALVING = "halving"
ALL_ROWS = -1  # in place of a fold
# Values of FINETUNE.KEEP_MODELS.
BEST, ALL, NONE = "best", "all", "none"


@dataclass(frozen=True)
class Grid:
    """The values to try for a task, in all combinations."""

    epochs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """One finetuning run. stilt: starts from the best MNLI job, not the pretrained model.

    fold: the fold for dev, from 1; 0 without folds; ALL_ROWS for the run on all rows after them.
    """

    task: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    stilt: bool = False
    fold: int = 0

    @property
    def setting(self) -> str:
        """The name of the job among those of its task, and of its folder."""
        fold = {0: "", ALL_ROWS: "_all"}.get(self.fold, f"_fold{self.fold}")
        values = f"lr{self.learning_rate!r}_bs{self.batch_size}_ep{self.epochs}_seed{self.seed}"
        return values + fold

    @property
    def without_seed(self) -> "Job":
        """The hyperparameters: equal for jobs that differ only in their seed or fold."""
        return replace(self, seed=0, fold=0)

    def __str__(self) -> str:
        return f"{self.task} {self.setting}"


def plan_jobs(
    grids: Mapping[str, Grid],
    seeds: Sequence[int],
    stilt_tasks: Iterable[str],
    num_folds: Mapping[str, int] | None = None,
) -> list[Job]:
    """Returns all jobs of the grids, without duplicates, in the order of `grids` (task -> Grid).

    num_folds: by task, for tasks with folds; their last runs follow from the scores. Raises
    ValueError if a task is to start from MNLI but MNLI is not searched.
    """
    stilt = [task for task in grids if task in set(stilt_tasks)]
    if stilt and (STILT_SOURCE not in grids or STILT_SOURCE in stilt):
        raise ValueError(
            f"{', '.join(stilt)} cannot start from the best {STILT_SOURCE} model of this search"
        )
    jobs = [
        Job(task, epochs, batch_size, learning_rate, seed, task in stilt, fold)
        for task, grid in grids.items()
        for epochs, batch_size, learning_rate, seed, fold in product(
            grid.epochs, grid.batch_sizes, grid.learning_rates, seeds, _folds(task, num_folds or {})
        )
    ]
    return list(dict.fromkeys(jobs))


def with_last_runs(jobs: Iterable[Job]) -> list[Job]:
    """Returns the jobs, and for those in folds each run on all rows that may follow."""
    found = list(jobs)
    last = dict.fromkeys(replace(job, fold=ALL_ROWS) for job in found if job.fold)
    return [*found, *last]


def _folds(task: str, num_folds: Mapping[str, int]) -> range:
    return range(1, num_folds[task] + 1) if num_folds.get(task) else range(1)


def by_task(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found = defaultdict(list)
    for job in jobs:
        found[job.task].append(job)
    return dict(found)


# --- the best job ------------------------------------------------------------------------------


def median_scores(scores: Mapping[Job, float]) -> dict[Job, float]:
    """Returns the median over the seeds, of the means over folds."""
    found = defaultdict(list)
    for job, score in _mean_scores(scores).items():
        found[job.without_seed].append(score)
    return {hyperparameters: median(values) for hyperparameters, values in found.items()}


def _mean_scores(scores: Mapping[Job, float]) -> dict[Job, float]:
    """Returns the mean over the folds of each seed."""
    found = defaultdict(list)
    for job, score in scores.items():
        found[replace(job, fold=0)].append(score)
    return {job: mean(values) for job, values in found.items()}


def best_job(scores: Mapping[Job, float]) -> Job:
    """Returns the job to submit: of the best hyperparameters, the seed with the highest score.

    Of equal scores the lower seed wins. With folds it is the one on all rows.
    """
    best, by_seed = _best_first(median_scores(scores))[0], _mean_scores(scores)
    jobs = [job for job in by_seed if job.without_seed == best]
    chosen = min(jobs, key=lambda job: (-by_seed[job], job.seed))
    return replace(chosen, fold=ALL_ROWS) if any(job.fold for job in scores) else chosen


def _best_first(scores: Mapping[Job, float]) -> list[Job]:
    """Sorts by score; of equal scores, fewer epochs, lower learning rates, larger batches first."""

    def key(found: Job) -> tuple:
        return -scores[found], found.epochs, found.learning_rate, -found.batch_size

    return sorted(scores, key=key)


def possible_best(jobs: Iterable[Job], scores: Mapping[Job, float]) -> set[Job]:
    """Returns the finished jobs of a task that can still become the best. jobs: all planned ones.

    Of hyperparameters with unfinished seeds this is the best job so far, of all others together
    the best job.
    """
    unfinished = {job.without_seed for job in jobs if job not in scores}
    finished: dict[Job, float] = {}
    groups: dict[Job, dict[Job, float]] = defaultdict(dict)
    for job, score in scores.items():
        group = groups[job.without_seed] if job.without_seed in unfinished else finished
        group[job] = score
    return {best_job(group) for group in (finished, *groups.values()) if group}


# --- halving -----------------------------------------------------------------------------------


def halving_jobs(grid: Sequence[Job], scores: Mapping[Job, float]) -> list[Job]:
    """Returns the jobs of a task's grid that successive halving runs, as far as scores are known.

    The first rung is all batch sizes and learning rates with the fewest epochs. Each later rung is
    the better half of the one before (rounded up) with the next number of epochs, as new runs
    (arXiv 1502.07943, with the grid's numbers of epochs as budgets).
    """
    epochs = sorted({job.epochs for job in grid})
    rung = [job for job in grid if job.epochs == epochs[0]]
    chosen = list(rung)
    for number in epochs[1:]:
        if any(job not in scores for job in rung):
            break
        ranked = _best_first(median_scores({job: scores[job] for job in rung}))
        kept = {(best.batch_size, best.learning_rate) for best in ranked[: _half(len(ranked))]}
        rung = [
            job
            for job in grid
            if job.epochs == number and (job.batch_size, job.learning_rate) in kept
        ]
        chosen += rung
    return chosen


def num_runs(grid: Sequence[Job], search: str) -> dict[int, int]:
    """Returns epochs -> number of runs for a search of a task's grid, fewest epochs first.

    Leaves out the run on all rows after folds. The numbers do not depend on the scores. search:
    `grid` or `halving`.
    """
    epochs = sorted({job.epochs for job in grid})
    if search != HALVING:
        return {number: sum(job.epochs == number for job in grid) for number in epochs}
    num_repeats = len({(job.seed, job.fold) for job in grid})
    num_settings, counts = len(grid) // len(epochs) // num_repeats, {}
    for number in epochs:
        counts[number] = num_settings * num_repeats
        num_settings = _half(num_settings)
    return counts


def _half(number: int) -> int:
    return (number + 1) // 2


# --- work --------------------------------------------------------------------------------------


def total_rows(grid: Iterable[Job], search: str, rows: Mapping[str, int]) -> int:
    """Returns the rows to train on, over all runs and epochs. rows: of each task's training set."""
    total = 0
    for task, jobs in by_task(grid).items():
        of_each = rows_per_epoch(jobs, rows[task])
        total += sum(n * epochs * of_each for epochs, n in num_runs(jobs, search).items())
        total += rows_of_last(jobs, rows[task])
    return total


def rows_per_epoch(grid: Iterable[Job], num_rows: int) -> int:
    """Returns the training rows of a task's run: all, or those outside of a fold."""
    num_folds = max(job.fold for job in grid)
    return num_rows * (num_folds - 1) // num_folds if num_folds else num_rows


def rows_of_last(grid: Iterable[Job], num_rows: int) -> int:
    """Returns the rows and epochs of the run on all rows after folds, at most; 0 without folds."""
    return num_rows * max(job.epochs * (job.fold > 0) for job in grid)


def run_order(jobs: Sequence[Job], rows: Mapping[str, int]) -> list[Job]:
    """Sorts jobs by training rows, most first, so that no long run starts last.

    MNLI comes first if others start from it. Of equals, the smaller batch takes more steps and
    comes first.
    """
    stilt = any(job.stilt for job in jobs)

    def key(job: Job) -> tuple:
        first = stilt and job.task == STILT_SOURCE
        return not first, -job.epochs * rows[job.task], job.batch_size

    return sorted(jobs, key=key)
