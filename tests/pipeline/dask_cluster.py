"""A real Dask cluster on loopback, for tests: a scheduler and workers in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen:
    """`dask <arguments>` far from the repository, so that nothing of it can be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with open(folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**environment, "DASK_TEMPORARY_DIRECTORY": str(folder)},
            start_new_session=True,
        )


def stop(process: subprocess.Popen) -> None:
    """Ends a process and its children at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def address_in(log: Path, patience_seconds: float = 20.0) -> str:
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        if found := re.search(r"Scheduler at:\s+(tcp://127\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Its address and its process."""
    process = start(
        folder, "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
    )
    try:
        yield address_in(folder / "scheduler.log"), process
    finally:
        stop(process)


@contextmanager
def workers(folder: Path, address: str, number: int = 2, *options: str) -> Iterator[list]:
    """Worker processes without a nanny, so that one that is killed stays dead."""
    options = options or ("--nthreads", "1")
    found = [
        start(folder, f"worker{i}", "worker", address, "--no-nanny", "--no-dashboard", *options)
        for i in range(number)
    ]
    try:
        yield found
    finally:
        for process in found:
            stop(process)
