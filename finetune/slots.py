"""Slots that jobs run in: a worker process each, with its own GPUs or cores.

A worker lives on for many jobs, so that imports and tokenized data are paid for once. One that
dies takes only its job with it; the slot gets a new one.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import ConfigError
from pipeline.executor import local_pool, num_cores

Job = TypeVar("Job")


@dataclass(frozen=True)
class Slot:
    """gpus: numbers among the visible ones, empty for the CPU. num_threads: torch's."""

    gpus: tuple[int, ...]
    num_threads: int


def plan_slots(num_gpus: int, gpu_lists: Sequence[Sequence[int]], num_workers: int) -> list[Slot]:
    """A slot per entry of `gpu_lists` (default: per GPU), or per CPU worker (0: per core).

    Raises ConfigError if a list names a GPU that is not there or that another list has.
    """
    if not num_gpus:
        count = min(num_workers or num_cores(), num_cores())
        return [Slot((), max(1, num_cores() // count)) for _ in range(count)]
    lists = gpu_lists or [[gpu] for gpu in range(num_gpus)]
    named = [gpu for gpus in lists for gpu in gpus]
    if sorted(named) != sorted(set(named) & set(range(num_gpus))) or not all(lists):
        raise ConfigError(
            [
                f"FINETUNE.MULTIPROCESS_GPU_LIST: got {list(map(list, lists))}, expected lists of "
                f"GPUs from 0 to {num_gpus - 1}, each in one list"
            ]
        )
    return [Slot(tuple(gpus), max(1, num_cores() // len(lists))) for gpus in lists]


def run_in_slots(
    slots: Sequence[Slot], function: Callable[[Job], Any], next_job: Callable[[], Job | None]
) -> Iterator[tuple[Job, Any]]:
    """Yields (job, result or exception) as jobs finish.

    next_job gives what to run next, or None if nothing can begin now; it is asked again after
    each job. A job whose worker died yields a RuntimeError that says so.
    """
    with ExitStack() as stack:
        try:
            yield from _run(slots, function, next_job, stack)
        except BaseException:  # interrupted, or the caller gave up: do not wait for running jobs
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _run(
    slots: Sequence[Slot],
    function: Callable[[Job], Any],
    next_job: Callable[[], Job | None],
    stack: ExitStack,
) -> Iterator[tuple[Job, Any]]:
    workers: dict[int, Executor] = {}
    running: dict[Future, tuple[int, Job]] = {}
    free = list(range(len(slots)))
    while True:
        while free and (job := next_job()) is not None:
            number = free.pop(0)
            if number not in workers:
                workers[number] = stack.enter_context(_worker(slots[number]))
            running[workers[number].submit(function, job)] = number, job
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            number, job = running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                workers.pop(number)
            free.append(number)
            yield job, _outcome(future)


def _outcome(future: Future) -> Any:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return RuntimeError("its worker process died (killed, or out of memory)")
    return future.result() if error is None else error


def _worker(slot: Slot) -> Executor:
    return local_pool(1, _prepare_worker, (slot.gpus, slot.num_threads))


def _prepare_worker(gpus: tuple[int, ...], num_threads: int) -> None:
    """Runs in the new process, before torch is imported there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = visible.split(",") if visible else None
    chosen = [numbers[gpu] if numbers else str(gpu) for gpu in gpus]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # spinning threads would slow the other slots
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(num_threads)
