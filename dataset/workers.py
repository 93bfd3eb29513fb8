"""How many worker processes data preparation uses, and what each of them may do."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from pipeline.executor import local_pool, num_cores

# Peak resident memory of the main process and of a worker, with room to spare: a worker that
# segments parts of 32 MB and masks shards of 20 MB was measured at 0.16 GB.
MAIN_PROCESS_GB = 0.3
WORKER_GB = 0.3


def plan_workers(num_workers: int, max_memory_gb: float, say: Callable[[str], None]) -> int:
    """Workers to use: `num_workers` (0: one per core), or fewer if the memory would not hold."""
    wanted = num_workers or num_cores()
    fitting = max(1, int((max_memory_gb - MAIN_PROCESS_GB) / WORKER_GB))
    if fitting < wanted:
        say(
            f"{fitting} of {wanted} workers, because SYSTEM.MAX_MEMORY_IN_GB is {max_memory_gb:g} "
            f"and each worker takes about {WORKER_GB:g} GB"
        )
    return min(wanted, fitting)


def worker_pool(num_workers: int) -> ProcessPoolExecutor:
    return local_pool(num_workers, _one_thread_each)


def _one_thread_each() -> None:
    """The workers are the parallelism; libraries that start threads would only get in the way."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1")
