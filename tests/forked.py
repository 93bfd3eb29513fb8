"""Runs functions in child processes that find torch and DeepSpeed already imported.

A server imports them once and forks itself for each child, which saves some 5 s of import each.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["deepspeed", "pretrain.training.preparation", "matplotlib.figure"])


class Child:
    """A child process; output: the file that takes its stdout and stderr."""

    def __init__(self, function: Callable, arguments: tuple, output: Path, environment: dict):
        self.output = output
        self._result, sender = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(
            target=_run, args=(function, arguments, output, environment, sender)
        )
        self.process.start()
        sender.close()

    def result(self, timeout: float = 300) -> Any:
        """Returns the function's result; fails with the child's output if there is none."""
        try:
            assert self._result.poll(timeout), f"no result within {timeout} s: {self._tail()}"
            found = self._result.recv()
        except EOFError:
            self.process.join()
            raise AssertionError(f"exit code {self.process.exitcode}: {self._tail()}") from None
        self.process.join()
        assert self.process.exitcode == 0, self._tail()
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def _tail(self) -> str:
        return self.output.read_text(errors="replace")[-2000:]


def start(function: Callable, *arguments: Any, output: Path, **environment: object) -> Child:
    """Starts a function, of a module's top level, in one thread with these variables."""
    words = {name: str(value) for name, value in environment.items()}
    return Child(function, arguments, output, {"OMP_NUM_THREADS": "1", **words})


def start_ranks(
    function: Callable, number: int, port: int, *arguments: Any, folder: Path
) -> list[Child]:
    """Starts the function on each of so many ranks; the output goes to files of the folder."""
    common = {"WORLD_SIZE": number, "LOCAL_SIZE": number}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(
            function,
            *arguments,
            output=folder / f"rank{rank}-of-{number}.txt",
            **common,
            **{"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in range(number)
    ]


def _run(
    function: Callable, arguments: tuple, output: Path, environment: dict, sender: Connection
) -> None:
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    sender.send(function(*arguments))
