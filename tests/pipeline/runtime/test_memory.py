"""The peak of the process tree: this process, its children, and those that come and go."""

import mmap
import subprocess
import sys
import time

import psutil

from pipeline.runtime.memory import PeakMemory, tree_bytes

HOLD_50_MB = "block = b'x' * 50_000_000; print('ready', flush=True); input()"


def holder() -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_50_MB], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def end(process: subprocess.Popen) -> None:
    process.communicate(b"\n")


def test_peak_of_this_process_is_kept():
    with PeakMemory(0.01) as memory:
        before = memory.peak_bytes
        block = mmap.mmap(-1, 60_000_000)  # pages that no allocator had kept
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        deadline = time.monotonic() + 10.0  # on a busy machine a look takes its time
        while memory.peak_bytes - before < 55e6 and time.monotonic() < deadline:
            time.sleep(0.01)
        block.close()
    assert 55e6 < memory.peak_bytes - before < 75e6


def test_children_count_until_they_end():
    here = psutil.Process()
    alone = tree_bytes(here)
    with PeakMemory(0.01) as memory:
        two = [holder(), holder()]
        assert tree_bytes(here) - alone > 100e6
        deadline = time.monotonic() + 10.0  # on a busy machine a look takes its time
        while memory.peak_bytes - alone < 100e6 and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in two:
            end(process)
        assert tree_bytes(here) - alone < 30e6
    assert memory.peak_bytes - alone > 100e6


def test_grandchildren_count_too():
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD_50_MB!r}])"
    alone = tree_bytes(psutil.Process())
    process = subprocess.Popen(
        [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    assert tree_bytes(psutil.Process()) - alone > 50e6
    end(process)


def test_processes_that_vanish_are_no_error():
    with PeakMemory(0.0001) as memory:
        for _ in range(20):
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
        assert memory._thread.is_alive()
    assert memory.peak_bytes > 0


def test_another_process_can_be_watched_to_its_end():
    process = holder()
    with PeakMemory(0.01, process.pid) as memory:
        time.sleep(0.05)
        end(process)
        time.sleep(0.05)
    assert 50e6 < memory.peak_bytes < 75e6


def test_an_error_inside_is_not_hidden():
    try:
        with PeakMemory():
            raise KeyError("x")
    except KeyError:
        return
    raise AssertionError
