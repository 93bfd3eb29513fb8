"""How much memory a process and all that it started take, watched from a thread."""

import threading
import time
from contextlib import suppress

import psutil

SAMPLE_SECONDS = 0.2
REST_PER_SAMPLE = 50  # sampling takes at most 2 % of a core, however many processes there are
GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


def tree_bytes(root: psutil.Process) -> int:
    """Resident memory, summed over a process and all that it started.

    Pages that processes share count once for each. Processes that have ended count as 0.
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
    """The highest `tree_bytes` within a `with` block, in `peak_bytes`.

    pid: of the process to watch, this one if not given.
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
