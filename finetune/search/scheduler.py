"""The loop that keeps workers busy with jobs that come up one after the other.

What the workers are is left to a `Workers`: processes in slots of this machine (slots.py), or the
workers of a Dask cluster (cluster_jobs.py).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar

from pipeline.errors import StageError
from pipeline.runtime.executor import CHECK_SECONDS

Job = TypeVar("Job")


class Workers(Protocol):
    """Places that do one job at a time. num_workers: how many there are."""

    num_workers: int

    def submit(self, place: int, function: Callable, job: Any) -> Future: ...

    def take_back(self, place: int, future: Future) -> Any:
        """What a future that is done gave: a result, or how its job failed.

        Raises StageError if the workers are of no use any more.
        """

    def problem(self) -> str:
        """What is wrong with all of the workers, or an empty string."""


class WorkerDied(Exception):
    """A worker ended in the middle of a job. retry: whether another one may try it."""

    def __init__(self, cause: str, retry: bool = True):
        super().__init__(cause, retry)
        self.cause, self.retry = cause, retry

    def __str__(self) -> str:
        return self.cause


def attempt(function: Callable[[Job], Any], job: Job) -> Any:
    """Runs in a worker: what the job gives, or how it failed.

    Returned, not raised, and as plain text: not every exception survives the way to the parent,
    and Dask would try again what was raised.
    """
    try:
        return function(job)
    except StageError as error:
        return error
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


def run_jobs(
    workers: Workers,
    function: Callable[[Job], Any],
    next_job: Callable[[], Job | None],
    note: Callable[[str], None],
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Job, Any]]:
    """Yields (job, result or exception) as jobs finish; meanwhile, calls on_wait now and then.

    next_job gives what to run next, or None if nothing can begin now; it is asked again after
    each job. A job that failed is tried once more, and `note` hears of it, unless it failed by a
    StageError: its input is to blame.
    """
    running: dict[Future, tuple[int, Job, bool]] = {}
    again: list[Job] = []
    free = list(range(workers.num_workers))
    try:
        while True:
            while free:
                is_second = bool(again)
                job = again.pop() if again else next_job()
                if job is None:
                    break
                place = free.pop(0)
                running[workers.submit(place, function, job)] = place, job, is_second
            if not running:
                return
            finished = wait(running, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED).done
            on_wait()
            if not finished and (cause := workers.problem()):
                raise StageError(cause)
            for future in finished:
                place, job, is_second = running.pop(future)
                free.append(place)
                outcome = workers.take_back(place, future)
                if not is_second and _may_be_tried_again(outcome):
                    again.append(job)
                    note(f"{job} is tried again: {outcome}")
                else:
                    yield job, outcome
    finally:
        for future in running:
            future.cancel()


def _may_be_tried_again(outcome: Any) -> bool:
    if isinstance(outcome, WorkerDied):
        return outcome.retry
    return isinstance(outcome, Exception) and not isinstance(outcome, StageError)
