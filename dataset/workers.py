"""Plans and opens the worker processes of data preparation within the memory limit."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ConfigError, StageError
from pipeline.runtime.executor import local_pool, num_cores, run_unordered
from pipeline.runtime.executor import num_workers as num_workers_of

Result = TypeVar("Result")

# Peak resident memory in GB, measured on several corpora and rounded up. A worker's figure excludes
# its buffer and includes the cache of words (dataset/tokenizers/cached_encoder.py).
MAIN_PROCESS_GB = 0.2
WORKER_GB = 0.3
FILE_BYTES = 500  # in the main process, for each file of samples
# A loaded tokenizer takes about 30 times its file; a usual one is counted above.
USUAL_TOKENIZER, LOADED_TOKENIZER = 2_000_000, 30
COPY_GB = 0.001  # in a worker, for each file it writes at the same time
SMALLEST_BUFFER = 16 << 20
LARGEST_BUFFER = 256 << 20  # larger ones are not faster


@dataclass(frozen=True)
class SampleFiles:
    """The largest possible number of sample files.

    copies: files that a worker writes at once. tokenizer_bytes: size of their tokenizer.json.
    """

    total: int = 0
    copies: int = 1
    tokenizer_bytes: int = 0

    @property
    def tokenizer_gb(self) -> float:
        """Returns the memory per process for a tokenizer larger than the usual ones."""
        return max(0, self.tokenizer_bytes - USUAL_TOKENIZER) * LOADED_TOKENIZER / 1e9


def plan_work(num_workers: int, max_memory_gb: float, files: SampleFiles) -> tuple[int, int]:
    """Plans as many of `num_workers` (0: one per core) as fit the memory; buffers take the rest.

    Returns the number of workers on this machine, and the text in bytes that each may hold. Raises
    ConfigError if the memory is too small for a single worker.
    """
    worker = WORKER_GB + files.copies * COPY_GB + files.tokenizer_gb
    smallest_worker = worker + SMALLEST_BUFFER / 1e9
    main_process = MAIN_PROCESS_GB + files.total * FILE_BYTES / 1e9 + files.tokenizer_gb
    least = main_process + smallest_worker
    if max_memory_gb < least:
        raise ConfigError(
            [
                "SYSTEM.MAX_MEMORY_IN_GB: too little for a single worker, got "
                f"{max_memory_gb:g}, expected at least {math.ceil(least * 100) / 100:g}, with up "
                f"to {files.total:,} files of samples, {files.copies} mask copies and a tokenizer "
                f"of {files.tokenizer_bytes / 1e6:.1f} MB"
            ]
        )
    left = max_memory_gb - main_process
    workers = min(num_workers or num_cores(), int(left / smallest_worker))
    buffer_bytes = int((left / workers - worker) * 1e9)
    return workers, min(buffer_bytes, LARGEST_BUFFER)


@dataclass(frozen=True)
class Workers:
    """An executor, and the text in bytes that each of its workers may hold."""

    executor: Executor
    buffer_bytes: int

    def __str__(self) -> str:
        count = num_workers_of(self.executor)
        return f"{count} worker(s), each with a buffer of {self.buffer_bytes >> 20} MB"

    def check_sees(self, paths: Iterable[Path]) -> None:
        """Raises StageError if a server of the cluster cannot see one of the paths."""
        if hasattr(self.executor, "check_sees"):
            self.executor.check_sees(paths)


@contextmanager
def open_executor(
    scheduler: str,
    shared_folder: Path,
    num_workers: int,
    max_memory_gb: float,
    files: SampleFiles,
) -> Iterator[Workers]:
    """Opens worker processes on this machine, or those of the Dask scheduler at an address.

    max_memory_gb: limit of each server. Raises ConfigError if it is too small, StageError if the
    cluster cannot be used.
    """
    if not scheduler:
        count, buffer_bytes = plan_work(num_workers, max_memory_gb, files)
        with local_pool(count, one_thread_each) as pool:
            yield Workers(pool, buffer_bytes)
        return
    from pipeline.runtime.cluster import cluster

    with cluster(scheduler, shared_folder, one_thread_each) as executor:
        host, most = max(executor.workers_per_host.items(), key=lambda item: item[1])
        count, buffer_bytes = plan_work(most, max_memory_gb, files)
        if count < most:
            raise StageError(
                f"SYSTEM.MAX_MEMORY_IN_GB: {max_memory_gb:g} holds {count} workers on a "
                f"server, but {host} has {most}; start fewer there, or raise it"
            )
        yield Workers(executor, buffer_bytes)


def in_subprocess(function: Callable[..., Result], *arguments: Any) -> Result:
    """Returns function(*arguments), run in a subprocess to free its memory afterwards."""
    with local_pool(1) as pool:
        [(_, result)] = run_unordered(pool, _call, [partial(function, *arguments)])
    return result


def _call(function: Callable[[], Result]) -> Result:
    return function()


def one_thread_each() -> None:
    """Turns off the threads of libraries, as the workers already use every core.

    Arrow returns free memory to the system at once.
    """
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1")
    os.environ.update(ARROW_DEFAULT_MEMORY_POOL="system")
