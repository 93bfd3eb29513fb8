"""The jobs of a hyperparameter search: which to run, what each starts from, and the best one.

Everything here is pure: the next jobs follow from the grid and the scores so far.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

# STILT (arXiv 1811.01088): small tasks start from a model finetuned on MNLI.
STILT_SOURCE = "MNLI"
HALVING = "halving"
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
    """One finetuning run. stilt: starts from the best MNLI job, not the pretrained model."""

    task: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    stilt: bool = False

    @property
    def setting(self) -> str:
        """The name of the job among those of its task, and of its folder."""
        return f"lr{self.learning_rate!r}_bs{self.batch_size}_ep{self.epochs}_seed{self.seed}"

    @property
    def without_seed(self) -> "Job":
        """The hyperparameters: equal for jobs that differ only in their seed."""
        return replace(self, seed=0)

    def __str__(self) -> str:
        return f"{self.task} {self.setting}"


def plan_jobs(
    grids: Mapping[str, Grid], seeds: Sequence[int], stilt_tasks: Iterable[str]
) -> list[Job]:
    """Returns all jobs of the grids, without duplicates, in the order of `grids` (task -> Grid).

    Raises ValueError if a task is to start from MNLI but MNLI is not searched.
    """
    stilt = [task for task in grids if task in set(stilt_tasks)]
    if stilt and (STILT_SOURCE not in grids or STILT_SOURCE in stilt):
        raise ValueError(
            f"{', '.join(stilt)} cannot start from the best {STILT_SOURCE} model of this search"
        )
    jobs = [
        Job(task, epochs, batch_size, learning_rate, seed, stilt=task in stilt)
        for task, grid in grids.items()
        for epochs, batch_size, learning_rate, seed in product(
            grid.epochs, grid.batch_sizes, grid.learning_rates, seeds
        )
    ]
    return list(dict.fromkeys(jobs))


def by_task(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found = defaultdict(list)
    for job in jobs:
        found[job.task].append(job)
    return dict(found)


# --- the best job ------------------------------------------------------------------------------


def median_scores(scores: Mapping[Job, float]) -> dict[Job, float]:
    """Returns the median over the seeds."""
    found = defaultdict(list)
    for job, score in scores.items():
        found[job.without_seed].append(score)
    return {hyperparameters: median(values) for hyperparameters, values in found.items()}


def best_job(scores: Mapping[Job, float]) -> Job:
    """Returns the job to submit: of the best hyperparameters, the seed with the highest score.

    Of equal scores the lower seed wins.
    """
    best = _best_first(median_scores(scores))[0]
    jobs = [job for job in scores if job.without_seed == best]
    return min(jobs, key=lambda job: (-scores[job], job.seed))


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

    The numbers do not depend on the scores. search: `grid` or `halving`.
    """
    epochs = sorted({job.epochs for job in grid})
    if search != HALVING:
        return {number: sum(job.epochs == number for job in grid) for number in epochs}
    num_seeds = len({job.seed for job in grid})
    num_settings, counts = len(grid) // len(epochs) // num_seeds, {}
    for number in epochs:
        counts[number] = num_settings * num_seeds
        num_settings = _half(num_settings)
    return counts


def _half(number: int) -> int:
    return (number + 1) // 2


# --- work --------------------------------------------------------------------------------------


def total_rows(grid: Iterable[Job], search: str, rows: Mapping[str, int]) -> int:
    """Returns the rows to train on, over all runs and epochs. rows: of each task's training set."""
    return sum(
        number * epochs * rows[task]
        for task, jobs in by_task(grid).items()
        for epochs, number in num_runs(jobs, search).items()
    )


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
