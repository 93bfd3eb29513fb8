"""A pool of worker processes behind the interface of `concurrent.futures.Executor`."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from pipeline.processes import PARENT_VARIABLE, exit_with_parent

Job = TypeVar("Job")


def num_cores() -> int:
    """Cores that this process may use (containers and taskset are respected)."""
    return len(os.sched_getaffinity(0))


def local_pool(
    num_workers: int, initializer: Callable[..., None] | None = None, initargs: tuple = ()
) -> ProcessPoolExecutor:
    """A pool of spawned processes that end with their parent. Use it in a `with` block."""
    return ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialize_worker,
        initargs=(os.getpid(), initializer, initargs),
    )


def _initialize_worker(parent: int, initializer: Callable | None, initargs: tuple) -> None:
    os.environ[PARENT_VARIABLE] = str(parent)
    exit_with_parent()
    if initializer:
        initializer(*initargs)


def run_unordered(
    executor: Executor, function: Callable[[Job], Any], jobs: Iterable[Job]
) -> Iterator[tuple[Job, Any]]:
    """Yields (job, result) as jobs finish. The first failure cancels what has not begun."""
    futures = {executor.submit(function, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()
