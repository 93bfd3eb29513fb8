"""Peak memory of a process tree, sampled in a thread."""

import threading
import time
from contextlib import suppress

import psutil

SAMPLE_SECONDS = 0.2
REST_PER_SAMPLE = 50  # sampling takes at most 2 % of a core, for any number of processes
GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


def tree_bytes(root: psutil.Process) -> int:
    """Returns the resident memory of a process and its descendants, in bytes.

    Shared pages count once per process. Ended processes count as 0.
    """
    total = 0
    processes = [root]
    with suppress(*GONE):
        processes += root.children(recursive=True)
    for process in processes:
        with suppress(*GONE):
            total += process.memory_info().rss
    return total


class PeakMemory:
    """Measures the highest `tree_bytes` within a `with` block, in `peak_bytes`.

    pid: the process to watch, by default this one.
    """

    def __init__(self, sample_seconds: float = SAMPLE_SECONDS, pid: int | None = None):
        self.peak_bytes = 0
        self._sample_seconds = sample_seconds
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak_memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def _sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, tree_bytes(self._process))

    def _watch(self) -> None:
        rest = self._sample_seconds
        while not self._over.wait(rest):
            begin = time.thread_time()
            self._sample()
            rest = max(self._sample_seconds, REST_PER_SAMPLE * (time.thread_time() - begin))
