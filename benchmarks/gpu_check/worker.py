"""A section in a process of its own: what it breaks, or holds in memory, is gone with it."""

import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.gpu_check.bench import FULL, ON_CPU, REHEARSAL, Bench
from benchmarks.gpu_check.outcome import Check, Outcome, failed, skipped
from pretrain.engine.interrupts import Interrupted

LOG_LINES = 25  # of a section that was killed, for the JSON


@dataclass(frozen=True)
class Section:
    """seconds: most that it may take, the start of its process included. checks: in their order,
    each made when its turn comes."""

    title: str
    seconds: float
    checks: Callable[[Bench], Iterator[Check]]


def run_section(
    name: str, section: Section, folder: Path, seconds: float, rehearses: bool
) -> Iterator[tuple[str, Outcome]]:
    """The outcomes of its checks as they come, from a process that is killed after `seconds`.

    One that is killed, or dies, adds a failure under the section's name.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    log, deadline = folder / f"{name}.log", time.monotonic() + seconds
    process = context.Process(
        target=_work, args=(section, folder, log, deadline, rehearses, theirs), name=name
    )
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, deadline - time.monotonic())):
            yield ours.recv()
    except EOFError:
        process.join(5.0)
    finally:
        why = _end(process)
        ours.close()
    if why:
        yield name, failed(why, "see the log's end in the JSON", log=_last_lines(log))


def _end(process: multiprocessing.process.BaseProcess) -> str:
    """Kills the section and all that it has started; words for an end that was not its own."""
    is_over = not process.is_alive()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    if not is_over:
        return "killed: its time was over"
    return "" if process.exitcode == 0 else f"its process ended with exit code {process.exitcode}"


def _last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []


def _work(
    section: Section,
    folder: Path,
    log: Path,
    deadline: float,
    rehearses: bool,
    connection: Connection,
) -> None:
    """Runs in the new process."""
    os.setsid()  # to be killed with its children
    with open(log, "ab") as file:
        for number in (1, 2):  # of children, too
            os.dup2(file.fileno(), number)
    if rehearses:
        os.environ.update(ON_CPU)
    device = torch.device("cpu") if rehearses else torch.device("cuda", 0)
    bench = Bench(device, REHEARSAL if rehearses else FULL, folder, deadline)
    for outcome in outcomes_of(section.checks(bench), bench):
        connection.send(outcome)
    connection.close()
    # NCCL and gloo have threads that may never end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def outcomes_of(checks: Iterator[Check], bench: Bench) -> Iterator[tuple[str, Outcome]]:
    """Runs the checks as long as there is time, and a device that works."""
    why_not = ""
    for name, check in checks:
        if not why_not and bench.seconds_left <= 0:
            why_not = "the section's time was over"
        if why_not:
            yield name, skipped(why_not)
            continue
        yield name, run_check(check)
        if _is_broken(bench):
            why_not = f"check {name} left the GPU unusable"


def run_check(check: Callable[[], Outcome]) -> Outcome:
    """The check's outcome; what it raises is its failure."""
    begin = time.perf_counter()
    try:
        outcome = check()
    except Interrupted as interrupted:  # the loop has taken the user's Ctrl-C for its own
        raise KeyboardInterrupt from interrupted
    except (Exception, SystemExit) as error:  # argparse raises the latter
        lines = str(error).strip().splitlines()
        seen = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        outcome = failed(seen, "see the traceback in the JSON", traceback=traceback.format_exc())
    return replace(outcome, seconds=round(time.perf_counter() - begin, 2))


def _is_broken(bench: Bench) -> bool:
    """Frees what a check has left behind; an error inside a kernel leaves nothing that works."""
    gc.collect()
    if not bench.on_gpu:
        return False
    try:
        torch.cuda.empty_cache()
        torch.ones(1, device=bench.device).item()
    except RuntimeError:
        return True
    return False
