"""Slots that jobs run in: a worker process each, with one GPU or its own cores.

A worker lives on for many jobs, so that imports and tokenized data are paid for once. One that
dies takes only its job with it; the slot gets a new one.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from finetune.search.scheduler import WorkerDied, attempt
from pipeline.errors import ConfigError, StageError
from pipeline.runtime.devices import take_device, visible_gpu_names
from pipeline.runtime.executor import LocalPool, local_pool, num_cores
from pipeline.runtime.oom import OomKills, cause_of_death


@dataclass(frozen=True)
class Slot:
    """gpu: number among the visible ones, None for the CPU. num_threads: torch's."""

    gpu: int | None
    num_threads: int


def plan_slots(
    num_gpus: int, gpu_lists: Sequence[Sequence[int]], num_workers: int, num_jobs: int
) -> list[Slot]:
    """A slot for each time that `gpu_lists` names a GPU (default: each once), or per CPU worker.

    A run never spreads over several GPUs: an entry of two is two slots, and a GPU that is named
    twice has two. num_workers: on the CPU; 0 for one per core.
    num_jobs: of the whole search, done or not; there are no more slots than that. What is left of
    it must not count: another number of threads sums in another order, and a search that was
    interrupted gives what it would have given.
    Raises ConfigError if a list is empty or names a GPU that is not there.
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
    # Every GPU gets its first slot before one gets its second: there may be few jobs.
    earlier = [named[:place].count(gpu) for place, gpu in enumerate(named)]
    gpus = [named[place] for place in sorted(range(len(named)), key=earlier.__getitem__)]
    gpus = gpus[:num_jobs]
    return [Slot(gpu, max(1, num_cores() // len(gpus))) for gpu in gpus]


@contextmanager
def slot_workers(slots: Sequence[Slot]) -> Iterator["SlotWorkers"]:
    """Worker processes for a `with` block. What still runs at its end is ended, not waited for."""
    workers = SlotWorkers(slots)
    try:
        yield workers
    finally:
        workers.end()


class SlotWorkers:
    """A process per slot, which is started when the slot gets its first job."""

    def __init__(self, slots: Sequence[Slot]):
        self.slots = slots
        self.num_workers = len(slots)
        self._pools: dict[int, LocalPool] = {}
        self._processes: dict[int, BaseProcess] = {}
        self._kills: dict[int, OomKills] = {}

    def submit(self, place: int, function: Callable, job: Any) -> Future:
        if place in self._pools:
            try:
                return self._pools[place].submit(attempt, function, job)
            except BrokenProcessPool:  # it was killed while it had nothing to do
                self._drop(place)
        return self._start(place, function, job)

    def take_back(self, place: int, future: Future) -> Any:
        """A worker in which a job failed is given up too, unless the job's input was to blame:
        after an error of CUDA nothing works in it any more."""
        error = future.exception()
        outcome = future.result() if error is None else error
        if isinstance(error, BrokenProcessPool):
            self._pools[place].shutdown()  # the process has been waited for then
            outcome = WorkerDied(_last_words(self._processes[place], self._kills[place]))
        if isinstance(outcome, Exception) and not isinstance(outcome, StageError):
            self._drop(place)
        return outcome

    def problem(self) -> str:
        return ""  # a slot can always get a new worker

    def end(self) -> None:
        for pool in self._pools.values():
            pool.end()

    def _start(self, place: int, function: Callable, job: Any) -> Future:
        slot, before = self.slots[place], multiprocessing.active_children()
        self._kills[place] = OomKills()
        self._pools[place] = local_pool(1, _prepare_worker, (slot.gpu, slot.num_threads))
        future = self._pools[place].submit(attempt, function, job)
        [self._processes[place]] = _children_besides(before)
        return future

    def _drop(self, place: int) -> None:
        self._processes.pop(place)
        self._pools.pop(place).end()


def _children_besides(others: Sequence[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


def _last_words(process: BaseProcess, kills: OomKills) -> str:
    """Nobody here sends SIGKILL to a worker whose parent lives."""
    died = f"its worker {cause_of_death(process.exitcode, kills)}"
    if process.exitcode != -signal.SIGKILL or kills.happened is False:
        return died
    return f"{died}; fewer workers (SYSTEM.NUM_WORKERS) need less"


def _prepare_worker(gpu: int | None, num_threads: int) -> None:
    """Runs in the new process, before torch is imported there: it takes its threads from here."""
    device = "cpu"
    if gpu is not None:
        visible = visible_gpu_names()
        device = f"cuda:{gpu if visible is None else visible[gpu]}"
    take_device(device)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(num_threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # spinning threads would slow the other slots
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
