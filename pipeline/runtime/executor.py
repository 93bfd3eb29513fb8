"""Worker processes behind the interface of `concurrent.futures.Executor`.

Here: a pool on this machine, and the loop to feed any executor. A Dask cluster: cluster.py.
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

JOBS_PER_WORKER = 3  # one running and two queued, to hide the transfer times
CHECK_SECONDS = 5.0
EXIT_SECONDS = 1.0  # between a process closing its files and its end


def num_cores() -> int:
    """Returns the number of usable cores, within limits of containers and taskset."""
    return len(os.sched_getaffinity(0))


class LocalPool(ProcessPoolExecutor):
    """Processes on this machine. num_workers: jobs running at the same time.

    The end of a `with` block waits for running jobs, except after an interrupt.
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
        """Terminates the workers, even at work."""
        for process in list((self._processes or {}).values()):
            process.terminate()
        self.shutdown()

    def problem(self, error: Exception | None = None) -> str:
        """Returns why the workers themselves failed, "" if they did not."""
        if not isinstance(error, BrokenExecutor):
            return ""
        remedy = "lower SYSTEM.NUM_WORKERS or SYSTEM.MAX_MEMORY_IN_GB"
        return f"a worker process {self.death(remedy)}; run again"

    def death(self, remedy: str) -> str:
        """Returns the cause of a worker's death; remedy: for a possible lack of memory."""
        code = self._exit_code()
        died = cause_of_death(code, self._kills)
        if code != -signal.SIGKILL or self._kills.happened is False:
            return died
        return f"{died}; {remedy}"

    def _exit_code(self) -> int | None:
        """Returns the exit code of the worker that broke the pool, None if unknown.

        The pool then ends the others by SIGTERM.
        """
        end = time.monotonic() + EXIT_SECONDS
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
    """Returns a pool of spawned processes, ended with their parent. Use it in a `with` block."""
    return LocalPool(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialize_worker,
        initargs=(os.getpid(), initializer, initargs),
    )


def _initialize_worker(parent: int, initializer: Callable | None, initargs: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent ends its workers
    die_with_parent(parent)
    if initializer:
        initializer(*initargs)


def run_unordered(
    executor: Executor,
    function: Callable[[Job], Any],
    jobs: Iterable[Job],
    max_in_flight: int = 0,
) -> Iterator[tuple[Job, Any]]:
    """Yields (job, result) as jobs finish. The first failure cancels the queued jobs.

    Takes jobs in order as workers become free, at most `max_in_flight` ahead (0: a few per
    worker): `jobs` may be endless. Raises a job's error, or StageError if the workers died.
    """
    max_in_flight = max_in_flight or JOBS_PER_WORKER * num_workers(executor)
    jobs = iter(jobs)
    running: dict[Future, Job] = {}
    try:
        while True:
            for job in islice(jobs, max_in_flight - len(running)):
                with _worker_problems(executor):
                    running[executor.submit(function, job)] = job
            if not running:
                return
            finished, _ = wait(running, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED)
            if not finished and (cause := _problem(executor)):
                raise StageError(cause)
            for future in finished:
                job = running.pop(future)
                with _worker_problems(executor):
                    result = future.result()
                yield job, result
    finally:
        for future in running:
            future.cancel()


def num_workers(executor: Executor) -> int:
    """Returns the number of jobs at the same time; for other kinds of executors, the cores here."""
    return getattr(executor, "num_workers", 0) or num_cores()


def _problem(executor: Executor, error: Exception | None = None) -> str:
    problem = getattr(executor, "problem", None)
    return problem(error) if problem else ""


@contextmanager
def _worker_problems(executor: Executor) -> Iterator[None]:
    """Raises StageError instead of an error caused by dead workers."""
    try:
        yield
    except Exception as error:
        if cause := _problem(executor, error):
            raise StageError(cause) from error
        raise
