"""The end of a process that is not a child."""

import time

import psutil


def await_end(pid: int) -> None:
    """A killed process may take a moment to end; a zombie has ended."""
    end = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
