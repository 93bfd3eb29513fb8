"""From a grid to jobs: which settings are tried, what each starts from, and which one is best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

# STILT (arXiv 1811.01088): small tasks start from a model that was finetuned on MNLI.
STILT_SOURCE = "MNLI"


@dataclass(frozen=True)
class Grid:
    """The values that are tried for a task, in all combinations."""

    epochs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]


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

    def __str__(self) -> str:
        return f"{self.task} {self.setting}"


def plan_jobs(
    grids: Mapping[str, Grid], seeds: Sequence[int], stilt_tasks: Iterable[str]
) -> list[Job]:
    """All jobs of a search, without duplicates, in the order of the tasks in `grids`.

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


def best_job(scores: Mapping[Job, float]) -> Job:
    """The job with the highest dev score.

    Of equals the one that costs or risks less: fewer epochs, then the lower learning rate, the
    larger batch, the lower seed.
    """
    return min(
        scores,
        key=lambda job: (
            -scores[job],
            job.epochs,
            job.learning_rate,
            -job.batch_size,
            job.seed,
        ),
    )


def run_order(jobs: Iterable[Job], num_train_rows: Mapping[str, int]) -> list[Job]:
    """MNLI first if others start from it, then the largest first: no long one comes last."""
    jobs = list(jobs)
    stilt = any(job.stilt for job in jobs)

    def key(job: Job) -> tuple:
        first = stilt and job.task == STILT_SOURCE
        return not first, -job.epochs * num_train_rows[job.task], job.batch_size

    return sorted(jobs, key=key)
