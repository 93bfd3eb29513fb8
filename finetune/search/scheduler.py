"""Keeps workers busy with jobs, and retries a failed job once.

The workers are processes of this machine (local_workers.py) or of a Dask cluster (dask_workers.py).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar

from pipeline.errors import StageError
from pipeline.runtime.executor import CHECK_SECONDS

T = TypeVar("T")


class WorkerPool(Protocol):
    """Workers that take one job at a time each, numbered from 0 to num_workers - 1."""

    num_workers: int

    def submit(self, number: int, function: Callable, job: Any) -> Future: ...

    def collect(self, number: int, future: Future) -> Any:
        """Returns the result of a finished job, or its exception.

        Raises StageError if no worker of the pool can be used any more.
        """

    def problem(self) -> str:
        """Returns an error message if no worker can be used any more, else ""."""


class WorkerDied(Exception):
    """A worker died during a job. retry: another worker may retry the job."""

    def __init__(self, cause: str, retry: bool = True):
        super().__init__(cause, retry)
        self.cause, self.retry = cause, retry

    def __str__(self) -> str:
        return self.cause


def attempt(function: Callable[[T], Any], job: T) -> Any:
    """Returns the job's result, or its exception. Runs in a worker.

    An exception is returned as plain text, because some cannot be pickled, and because Dask
    retries jobs that raise one.
    """
    try:
        return function(job)
    except StageError as error:
        return error
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


def run_jobs(
    pool: WorkerPool,
    function: Callable[[T], Any],
    next_job: Callable[[], T | None],
    note: Callable[[str], None],
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[T, Any]]:
    """Yields (job, result or exception) as jobs finish; calls `on_wait` every few seconds.

    next_job: returns the next job, or None if no job can start now; it is called again after each
    job. A failed job is retried once, which `note` is told, except after a StageError: its input
    is at fault.
    """
    running: dict[Future, tuple[int, T, bool]] = {}
    retries: list[T] = []
    idle = list(range(pool.num_workers))
    try:
        while True:
            while idle:
                is_retry = bool(retries)
                job = retries.pop() if retries else next_job()
                if job is None:
                    break
                number = idle.pop(0)
                running[pool.submit(number, function, job)] = number, job, is_retry
            if not running:
                return
            finished = wait(running, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED).done
            on_wait()
            if not finished and (cause := pool.problem()):
                raise StageError(cause)
            for future in finished:
                number, job, is_retry = running.pop(future)
                idle.append(number)
                outcome = pool.collect(number, future)
                if not is_retry and _can_be_retried(outcome):
                    retries.append(job)
                    note(f"{job} is tried again: {outcome}")
                else:
                    yield job, outcome
    finally:
        for future in running:
            future.cancel()


def _can_be_retried(outcome: Any) -> bool:
    if isinstance(outcome, WorkerDied):
        return outcome.retry
    return isinstance(outcome, Exception) and not isinstance(outcome, StageError)
