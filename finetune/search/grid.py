"""From a grid to jobs: which settings are tried, what each starts from, and which one is best.

All of it is pure: what is to be run follows from the grid and the scores so far.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

# STILT (arXiv 1811.01088): small tasks start from a model that was finetuned on MNLI.
STILT_SOURCE = "MNLI"
HALVING = "halving"


@dataclass(frozen=True)
class Grid:
    """The values that are tried for a task, in all combinations."""

    epochs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """A job but for its seed."""

    task: str
    epochs: int
    batch_size: int
    learning_rate: float
    stilt: bool = False


@dataclass(frozen=True)
class Job:
    """One run of one task. stilt: it starts from the best MNLI job, not the pretrained model."""

    task: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    stilt: bool = False

    @property
    def setting(self) -> str:
        """Name of the job among those of its task, and of its folder."""
        return f"lr{self.learning_rate!r}_bs{self.batch_size}_ep{self.epochs}_seed{self.seed}"

    @property
    def without_seed(self) -> Setting:
        return Setting(self.task, self.epochs, self.batch_size, self.learning_rate, self.stilt)

    def __str__(self) -> str:
        return f"{self.task} {self.setting}"


def plan_jobs(
    grids: Mapping[str, Grid], seeds: Sequence[int], stilt_tasks: Iterable[str]
) -> list[Job]:
    """All jobs of a grid, without duplicates, in the order of the tasks in `grids`.

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


# --- which is best -----------------------------------------------------------------------------


def setting_scores(scores: Mapping[Job, float]) -> dict[Setting, float]:
    """The median over the seeds of each setting."""
    by_setting = defaultdict(list)
    for job, score in scores.items():
        by_setting[job.without_seed].append(score)
    return {setting: median(found) for setting, found in by_setting.items()}


def best_job(scores: Mapping[Job, float]) -> Job:
    """The run to submit: that of the best setting with the highest score (or the lower seed)."""
    best = _best_first(setting_scores(scores))[0]
    runs = [job for job in scores if job.without_seed == best]
    return min(runs, key=lambda job: (-scores[job], job.seed))


def _best_first(scores: Mapping[Setting, float]) -> list[Setting]:
    """Of equals the one that costs or risks less comes first: fewer epochs, then the lower
    learning rate, then the larger batch."""

    def key(setting: Setting) -> tuple:
        return -scores[setting], setting.epochs, setting.learning_rate, -setting.batch_size

    return sorted(scores, key=key)


def possible_best(jobs: Iterable[Job], scores: Mapping[Job, float]) -> set[Job]:
    """The runs of a task that can still become the best one. jobs: all that are to be run.

    Of a setting whose seeds are not all done only its best run so far can, and of the other
    settings only the best one.
    """
    waiting = {job.without_seed for job in jobs if job not in scores}
    closed: dict[Job, float] = {}
    groups: dict[Setting, dict[Job, float]] = defaultdict(dict)
    for job, score in scores.items():
        setting = job.without_seed
        (groups[setting] if setting in waiting else closed)[job] = score
    return {best_job(group) for group in (closed, *groups.values()) if group}


# --- halving -----------------------------------------------------------------------------------


def halving_jobs(grid: Sequence[Job], scores: Mapping[Job, float]) -> list[Job]:
    """The jobs of a task's grid that successive halving runs, as far as the scores tell.

    First all batch sizes and learning rates with the fewest epochs. Once these have scores, the
    better half of them (rounded up) with the next number of epochs, as new runs, and so on
    (arXiv 1502.07943, with the numbers of epochs in the grid as its budgets).
    """
    epochs = sorted({job.epochs for job in grid})
    rung = [job for job in grid if job.epochs == epochs[0]]
    chosen = list(rung)
    for number in epochs[1:]:
        if any(job not in scores for job in rung):
            break
        ranked = _best_first(setting_scores({job: scores[job] for job in rung}))
        better = ranked[: _half(len(ranked))]
        kept = {(setting.batch_size, setting.learning_rate) for setting in better}
        rung = [
            job
            for job in grid
            if job.epochs == number and (job.batch_size, job.learning_rate) in kept
        ]
        chosen += rung
    return chosen


def num_runs(grid: Sequence[Job], search: str) -> dict[int, int]:
    """Epochs -> number of runs that a search of a task's grid makes with them, fewest first.

    This is known before any score is. search: `grid` or `halving`.
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


# --- what runs when ----------------------------------------------------------------------------


def run_order(jobs: Iterable[Job], cost: Callable[[Job], float]) -> list[Job]:
    """MNLI first if others start from it, then the most costly first: no long one comes last.

    Of equals that with the smaller batch, which takes more steps.
    """
    jobs = list(jobs)
    stilt = any(job.stilt for job in jobs)

    def key(job: Job) -> tuple:
        first = stilt and job.task == STILT_SOURCE
        return not first, -cost(job), job.batch_size

    return sorted(jobs, key=key)
