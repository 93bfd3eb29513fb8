"""Out-of-memory errors: failed allocations, and processes killed by the kernel."""

import signal
from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime.processes import text_of

# In error messages of torch 2.13 and its libraries: CUDA and NCCL, the CPU, C++, cuBLAS, cuDNN.
FAILED_ALLOCATION = (
    *("out of memory", "can't allocate memory", "std::bad_alloc"),
    *("STATUS_ALLOC_FAILED", "ALLOCATION_FAILED"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed, on a GPU or on the CPU.

    torch has no error class for most of its libraries, so the message decides.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in FAILED_ALLOCATION)


class OomKills:
    """Watches the kernel's count of processes killed for lack of memory.

    The count is that of the control group of this process and its children, or else of the whole
    machine. root: the parent of /proc and /sys.
    """

    def __init__(self, root: Path = Path("/")):
        counters = ((path, _kills(path)) for path in _own_counters(root))
        found = [(path, number) for path, number in counters if number is not None]
        self._own = found[0] if found else None
        self._machine = root / "proc" / "vmstat"
        self._machine_before = _kills(self._machine)

    @property
    def happened(self) -> bool | None:
        """True if the kernel has killed a process since; None if it may have been another's."""
        if self._own:
            path, before = self._own
            return (_kills(path) or 0) > before
        now = _kills(self._machine)
        return False if now is not None and now == self._machine_before else None


def cause_of_death(exit_code: int | None, kills: OomKills) -> str:
    """Returns a verb phrase about the end of a process.

    exit_code: as of `subprocess`, negative for a signal; None if unknown.
    """
    if exit_code is None:
        return "was ended from outside"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    if exit_code != -signal.SIGKILL:
        return f"died of {_signal_name(-exit_code)}"
    if kills.happened is None:
        return "was killed, most likely because memory ran out"
    if kills.happened:
        return "was killed by the kernel because memory ran out"
    return "was killed by SIGKILL from outside (the kernel knows of no lack of memory)"


def _signal_name(number: int) -> str:
    """Returns `SIGSEGV`; not all numbers have a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _own_counters(root: Path) -> Iterator[Path]:
    """Yields candidates for our control group's counter, in versions 2 and 1.

    A container sees its own group as the root group.
    """
    groups = root / "sys" / "fs" / "cgroup"
    v2, v1 = "memory.events", "memory.oom_control"
    for line in text_of(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield groups / group.lstrip("/") / v2
        elif "memory" in controllers.split(","):
            yield groups / "memory" / group.lstrip("/") / v1
    yield groups / v2
    yield groups / "memory" / v1


def _kills(counter: Path) -> int | None:
    """Returns the number in the line `oom_kill N` of a file; None without such a line."""
    lines = (line.split() for line in text_of(counter).splitlines())
    return next((int(words[1]) for words in lines if words[:1] == ["oom_kill"]), None)
