"""Worker processes behind the interface of `concurrent.futures.Executor`.

Here: a pool on this machine, and the loop that feeds any executor. A Dask cluster: cluster.py.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from pipeline.errors import StageError
from pipeline.runtime.oom import OomKills, cause_of_death
from pipeline.runtime.processes import die_with_parent

Job = TypeVar("Job")

JOBS_PER_WORKER = 3  # one at work and two in wait hide the way there and back
CHECK_SECONDS = 5.0


def num_cores() -> int:
    """Cores that this process may use (containers and taskset are respected)."""
    return len(os.sched_getaffinity(0))


class LocalPool(ProcessPoolExecutor):
    """Processes on this machine. num_workers: how many jobs run at the same time.

    At the end of a `with` block it waits for jobs that are at work, unless it was interrupted.
    """

    def __init__(self, num_workers: int, **settings: Any):
        super().__init__(num_workers, **settings)
        self.num_workers = num_workers
        self._kills = OomKills()

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.end()
        super().__exit__(kind, error, trace)

    def end(self) -> None:
        """Ends the workers, whatever they are at."""
        for process in list((self._processes or {}).values()):
            process.terminate()
        self.shutdown()

    def problem(self, error: Exception | None = None) -> str:
        """What is wrong with the workers themselves, or an empty string."""
        if not isinstance(error, BrokenExecutor):
            return ""
        code = self._exit_code()
        died = f"a worker process {cause_of_death(code, self._kills)}"
        if code != -signal.SIGKILL or self._kills.happened is False:
            return f"{died}; run again"
        return f"{died}; lower SYSTEM.NUM_WORKERS or SYSTEM.MAX_MEMORY_IN_GB and run again"

    def _exit_code(self) -> int | None:
        """Of the worker that broke the pool, which ends the others by SIGTERM; None: unknown.

        A process that has just closed its files may need a moment to be gone.
        """
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            codes = [process.exitcode for process in list((self._processes or {}).values())]
            for code in codes:
                if code not in (None, 0, -signal.SIGTERM):
                    return code
            time.sleep(0.01)
        return None


def local_pool(
    num_workers: int, initializer: Callable[..., None] | None = None, initargs: tuple = ()
) -> LocalPool:
    """A pool of spawned processes that end with their parent. Use it in a `with` block."""
    return LocalPool(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialize_worker,
        initargs=(os.getpid(), initializer, initargs),
    )


def _initialize_worker(parent: int, initializer: Callable | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all; the parent ends its workers
    die_with_parent(parent)
    if initializer:
        initializer(*initargs)


def run_unordered(
    executor: Executor,
    function: Callable[[Job], Any],
    jobs: Iterable[Job],
    max_in_flight: int = 0,
) -> Iterator[tuple[Job, Any]]:
    """Yields (job, result) as jobs finish. The first failure cancels what has not begun.

    Jobs are taken from `jobs` in order and only as workers get free, at most `max_in_flight` ahead
    (0: a few per worker), so it may be an iterator without end. Raises what a job raised, and
    StageError if the workers died.
    """
    max_in_flight = max_in_flight or JOBS_PER_WORKER * num_workers(executor)
    jobs = iter(jobs)
    running: dict[Future, Job] = {}
    try:
        while True:
            for job in islice(jobs, max_in_flight - len(running)):
                running[_submitted(executor, function, job)] = job
            if not running:
                return
            finished, _ = wait(running, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED)
            if not finished and (cause := problem_with_workers(executor)):
                raise StageError(cause)
            for future in finished:
                yield running.pop(future), _result(executor, future)
    finally:
        for future in running:
            future.cancel()


def num_workers(executor: Executor) -> int:
    """Jobs that run at the same time; for an executor of another kind, the cores here."""
    return getattr(executor, "num_workers", 0) or num_cores()


def problem_with_workers(executor: Executor, error: Exception | None = None) -> str:
    """What is wrong with the workers, given how a job failed, if it did; empty if nothing is."""
    problem = getattr(executor, "problem", None)
    return problem(error) if problem else ""


def _submitted(executor: Executor, function: Callable[[Job], Any], job: Job) -> Future:
    with _explained(executor):
        return executor.submit(function, job)


def _result(executor: Executor, future: Future) -> Any:
    with _explained(executor):
        return future.result()


@contextmanager
def _explained(executor: Executor) -> Iterator[None]:
    """What is wrong with the workers becomes a StageError."""
    try:
        yield
    except Exception as error:
        if cause := problem_with_workers(executor, error):
            raise StageError(cause) from error
        raise
