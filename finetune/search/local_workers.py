"""Worker processes on this machine, each with one GPU or its own share of the cores.

A worker runs many jobs, and so imports torch and tokenizes a task only once. A worker that dies
loses only its current job and is replaced.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from finetune.search.scheduler import WorkerDied, attempt
from pipeline.errors import ConfigError, StageError
from pipeline.runtime.devices import take_device, visible_gpu_names
from pipeline.runtime.executor import LocalPool, local_pool, num_cores


@dataclass(frozen=True)
class Slot:
    """The resources of a worker. gpu: number among the visible ones, None for the CPU.

    num_threads: torch's.
    """

    gpu: int | None
    num_threads: int


def plan_slots(
    num_gpus: int, gpu_lists: Sequence[Sequence[int]], num_workers: int, num_jobs: int
) -> list[Slot]:
    """Returns a slot for each GPU named in `gpu_lists` (default: each GPU once), or per CPU worker.

    A run uses one GPU: a list of two GPUs gives two slots, as does a GPU named twice.
    num_workers: on the CPU; 0 for one per core. num_jobs: of the whole search, the limit of slots.
    Finished jobs count too: the number of threads changes the order of sums, and a resumed search
    must give the same results. Raises ConfigError if a list is empty or names an unknown GPU.
    """
    if not num_gpus:
        count = min(num_workers or num_cores(), num_cores(), num_jobs)
        return [Slot(None, max(1, num_cores() // count)) for _ in range(count)]
    lists = gpu_lists or [[gpu] for gpu in range(num_gpus)]
    named = [gpu for gpus in lists for gpu in gpus]
    if not (all(lists) and set(named) <= set(range(num_gpus))):
        raise ConfigError(
            [
                f"FINETUNE.MULTIPROCESS_GPU_LIST: got {list(map(list, lists))}, expected lists of "
                f"GPUs from 0 to {num_gpus - 1}"
            ]
        )
    # With few jobs, every GPU gets a first slot before any gets a second.
    earlier = [named[:i].count(gpu) for i, gpu in enumerate(named)]
    gpus = [named[i] for i in sorted(range(len(named)), key=earlier.__getitem__)][:num_jobs]
    return [Slot(gpu, max(1, num_cores() // len(gpus))) for gpu in gpus]


class LocalWorkers:
    """A worker process per slot, started with the slot's first job. Use it in a `with` block.

    At the end of the block, busy workers are terminated.
    """

    def __init__(self, slots: Sequence[Slot]):
        self.slots = slots
        self.num_workers = len(slots)
        self._pools: dict[int, LocalPool] = {}

    def __enter__(self) -> "LocalWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        for pool in self._pools.values():
            pool.end()

    def submit(self, number: int, function: Callable, job: Any) -> Future:
        if number in self._pools:
            try:
                return self._pools[number].submit(attempt, function, job)
            except BrokenProcessPool:  # killed while idle
                self._drop(number)
        return self._start(number, function, job)

    def collect(self, number: int, future: Future) -> Any:
        """Returns the result or exception; replaces the worker of a failed job.

        After an error of CUDA, every later job of the process fails too. A StageError keeps the
        worker: its input was at fault.
        """
        error = future.exception()
        outcome = future.result() if error is None else error
        if isinstance(error, BrokenProcessPool):
            remedy = "fewer workers (SYSTEM.NUM_WORKERS) need less"
            outcome = WorkerDied(f"its worker {self._pools[number].death(remedy)}")
        if isinstance(outcome, Exception) and not isinstance(outcome, StageError):
            self._drop(number)
        return outcome

    def problem(self) -> str:
        return ""  # a dead worker can always be replaced

    def _start(self, number: int, function: Callable, job: Any) -> Future:
        slot = self.slots[number]
        self._pools[number] = local_pool(1, _prepare_worker, (slot.gpu, slot.num_threads))
        return self._pools[number].submit(attempt, function, job)

    def _drop(self, number: int) -> None:
        self._pools.pop(number).end()


def _prepare_worker(gpu: int | None, num_threads: int) -> None:
    """Sets the process's device and threads, before torch is imported and reads them."""
    device = "cpu"
    if gpu is not None:
        visible = visible_gpu_names()
        device = f"cuda:{gpu if visible is None else visible[gpu]}"
    take_device(device)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(num_threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # spinning threads slow the other workers down
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
