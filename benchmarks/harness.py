"""Measures contestants in turns, each in its own process, under the settings of a real run.

A contestant is a function whose first argument is `report`. It calls `report(result)` once when it
is ready, then after each of its turns; the call returns when the next turn begins. So only one
contestant works at a time, and whatever else the machine does affects all of them alike.
"""

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared" / "data"
DATASET_ID = "benchmark"

Report = Callable[[Any], None]


# --- contestants ------------------------------------------------------------------------------


class Ended(Exception):
    """The contestant's process has ended."""

    def __init__(self, exit_code: int | None):
        super().__init__(f"its process ended with exit code {exit_code}")
        self.exit_code = exit_code


class Contestant:
    """A function in a new process, which pauses between its turns.

    threads: of a CPU run, whose settings the process gets; None: one per core; 0: the process keeps
    the settings of this one. log: file for its output and that of its children.
    """

    def __init__(
        self,
        function: Callable,
        *arguments: Any,
        threads: int | None = None,
        log: Path | None = None,
    ):
        from pipeline.runtime.executor import num_cores
        from pretrain.kernels.cpu_settings import spin_briefly

        threads = num_cores() if threads is None else threads
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_contend,
            args=(function, arguments, theirs, os.getpid(), bool(threads), log),
            daemon=True,
        )
        with patch.dict(os.environ):
            if threads:
                spin_briefly()  # read when torch is imported, before `_contend` is called
                os.environ.setdefault("OMP_NUM_THREADS", str(threads))
            self._process.start()
        theirs.close()

    def await_report(self, seconds: float | None = None) -> Any:
        """Returns the result of the current turn.

        Raises Ended if the process ends first, and TimeoutError after `seconds`.
        """
        try:
            if not self._connection.poll(seconds):
                raise TimeoutError
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._await_end()
            raise Ended(self._process.exitcode) from None

    def start_turn(self) -> None:
        with suppress(ConnectionError):  # it has died; `await_report` raises Ended
            self._connection.send(None)

    def take_turn(self) -> Any:
        self.start_turn()
        return self.await_report()

    def finish(self) -> None:
        """Lets the function return after its last report. Raises Ended if it fails."""
        self.start_turn()
        self._await_end()
        if self._process.exitcode:
            raise Ended(self._process.exitcode)

    def kill(self) -> None:
        self._process.kill()
        self._await_end()
        self._connection.close()

    def _await_end(self) -> None:
        """Waits for the end of the process, and kills its children."""
        pid = self._process.pid
        assert pid
        with suppress(ChildProcessError, ProcessLookupError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # keeps the pid from being reused
            os.killpg(pid, signal.SIGKILL)
        self._process.join()


def _contend(
    function: Callable,
    arguments: Sequence[Any],
    connection: Connection,
    parent: int,
    on_cpu: bool,
    log: Path | None,
) -> None:
    """Runs in the contestant's process."""
    from pipeline.runtime.processes import die_with_parent

    die_with_parent(parent)
    os.setsid()  # to be killed with its children
    if log:
        with open(log, "ab") as file:
            for number in (1, 2):  # of children, too
                os.dup2(file.fileno(), number)
    if on_cpu:
        from pretrain.kernels.cpu_settings import keep_freed_memory

        keep_freed_memory()

    def report(result: Any) -> None:
        connection.send(result)
        connection.recv()

    function(report, *arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.close()
    os._exit(0)  # threads of NCCL and gloo may never end


def run_alone(log: Path, function: Callable, *arguments: Any) -> tuple[Any, float]:
    """Runs a contestant of one turn in a new process on all cores.

    Returns its report and the seconds until its end, with the start. SystemExit with the end of its
    log if it fails.
    """
    begin = time.perf_counter()
    process = Contestant(function, *arguments, log=log)
    try:
        found = process.await_report()
        process.finish()
    except Ended as error:
        shown = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{function.__name__}: {error}: {shown}") from error
    return found, time.perf_counter() - begin


def take_turns(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[Any]]:
    """Returns the results of each contestant, one per round; a first round is a warm-up.

    Kills them afterwards. SystemExit if one ends early.
    """
    results: dict[str, list[Any]] = {name: [] for name in contestants}
    try:
        for contestant in contestants.values():
            contestant.await_report()
        for _ in range(rounds + 1):
            for name, contestant in contestants.items():
                results[name].append(contestant.take_turn())
    except Ended as error:
        raise SystemExit(f"a contestant failed: {error}, its output is above") from error
    finally:
        for contestant in contestants.values():
            contestant.kill()
    return {name: found[1:] for name, found in results.items()}


# --- numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Median and range of measurements; formats as `1.50 (1.42-1.61)`."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Returns the spread of the ratios of results from the same round."""
    return Spread.of(a / b for a, b in zip(numerators, denominators, strict=True))


def seconds_of(call: Callable[[], Any], synchronize: Callable[[], None] = lambda: None) -> float:
    """Returns the wall time of a call. synchronize: waits for the device."""
    synchronize()
    begin = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - begin


def write_numbers(path: Path | None, numbers: Mapping[str, Any]) -> None:
    """Replaces a JSON file, if one is asked for."""
    if path:
        aside = path.with_name(f".{path.name}.tmp")
        aside.write_text(json.dumps(numbers, indent=1, default=vars) + "\n")
        os.replace(aside, path)


# --- commands ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommandRun:
    """A finished command. wall, cpu: seconds, with all children; peak_bytes: of memory."""

    wall: float
    cpu: float
    peak_bytes: int


def run_command(command: Sequence[str], log: Path, **environment: str) -> CommandRun:
    """Runs a command in the project's folder. SystemExit with the end of its log if it fails."""
    from pipeline.runtime.memory import PeakMemory

    cpu, begin = _cpu_of_children(), time.perf_counter()
    with started(command, log, **environment) as process, PeakMemory(0.05, process.pid) as memory:
        code = process.wait()
    if code:
        output = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command[:3])} ended with exit code {code}: {output}")
    wall = time.perf_counter() - begin
    return CommandRun(wall, _cpu_of_children() - cpu, memory.peak_bytes)


@contextmanager
def started(
    command: Sequence[str], log: Path, **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Starts a command in the project's folder; ends it, with its descendants, on exit.

    It also ends if this process is killed: the kernel sends it SIGTERM, and ranks, which a launcher
    may start, watch the process named in PARENT_VARIABLE.
    """
    import psutil

    from pipeline.runtime.processes import PARENT_VARIABLE, PR_SET_PDEATHSIG

    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of this process
    inherited = {name: value for name, value in os.environ.items() if name not in ranks}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            cwd=PROJECT,
            env=inherited | environment | {PARENT_VARIABLE: str(os.getpid())},
            preexec_fn=partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            root = psutil.Process(process.pid)
            for one in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()


def _cpu_of_children() -> float:
    """CPU seconds of all ended children and their descendants."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main_command(config: Path, root: Path, stages: str) -> list[str]:
    command = [sys.executable, str(PROJECT / "main.py"), "--config", str(config)]
    return [*command, "--stages", stages, "--output-root", str(root)]


def run_dataset_stage(
    text: Path, vocabulary: Path, folder: Path, root: Path, **sections: Mapping[str, Any]
) -> CommandRun:
    """Runs `main.py --stages dataset`; leaves config.yaml and dataset.log in `folder`.

    The samples are in root/data/DATASET_ID. sections: of the config, by name.
    """
    dataset = {"ID": DATASET_ID, "CUSTOMIZED_DATASETS": [str(text)], "MASKING": "dynamic"}
    config = {
        "INSTALL": {"ENABLED": False},  # children use this Python
        "TOKENIZER": {"NAME_OR_PATH": str(vocabulary)},
        **sections,
        "DATASET": {**dataset, **sections.get("DATASET", {})},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return run_command(main_command(path, root, "dataset"), folder / "dataset.log")
