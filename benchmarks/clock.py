"""CPU seconds of named steps, and what this machine's memory and disk can do at most."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

PROBE_BYTES = 256 << 20


class Clock(Counter):
    """CPU seconds of this process by step."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begin = time.process_time()
        try:
            yield
        finally:
            self[name] += time.process_time() - begin

    def timed(self, name: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """A function whose calls count for a step."""

        def call(*args):
            with self.step(name):
                return function(*args)

        return call


def copy_speed() -> float:
    """MB/s at which one core copies memory."""
    block = bytearray(PROBE_BYTES)
    begin = time.perf_counter()
    bytes(block)
    return PROBE_BYTES / 1e6 / (time.perf_counter() - begin)


def disk_speed(folder: Path) -> float:
    """MB/s at which a file is written and flushed to disk."""
    path = folder / "disk_speed.tmp"
    block = os.urandom(1 << 20)
    begin = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(PROBE_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return PROBE_BYTES / 1e6 / seconds
