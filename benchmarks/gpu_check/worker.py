"""Sections of the check, each in its own process, which frees its memory at the end."""

import gc
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.gpu_check.bench import FULL, ON_CPU, REHEARSAL, Bench
from benchmarks.gpu_check.outcome import Check, Outcome, judged, skipped
from benchmarks.harness import Contestant, Ended, Report

LOG_LINES = 25  # of a killed section, for the JSON


@dataclass(frozen=True)
class Section:
    """seconds: time limit, with the start of the process; checks: yields them in their order."""

    title: str
    seconds: float
    checks: Callable[[Bench], Iterator[Check]]


def run_section(
    name: str, section: Section, folder: Path, seconds: float, rehearses: bool
) -> Iterator[tuple[str, Outcome]]:
    """Yields the outcomes of its checks, from a process that is killed after `seconds`.

    A killed or failed process adds a failure under the section's name.
    """
    log, deadline = folder / f"{name}.log", time.monotonic() + seconds
    process = Contestant(_work, section, folder, deadline, rehearses, threads=0, log=log)
    why = ""
    try:
        while True:
            yield process.await_report(max(0.0, deadline - time.monotonic()))
            process.start_turn()
    except TimeoutError:
        why = "killed: its time was over"
    except Ended as error:
        why = str(error) if error.exit_code else ""
    finally:
        process.kill()
    if why:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        yield name, judged(why, "see the end of the log in the JSON", log=lines[-LOG_LINES:])


def _work(report: Report, section: Section, folder: Path, deadline: float, rehearses: bool) -> None:
    """Runs in the section's process; reports names with their outcomes."""
    if rehearses:
        os.environ.update(ON_CPU)
    device = torch.device("cpu") if rehearses else torch.device("cuda", 0)
    bench = Bench(device, REHEARSAL if rehearses else FULL, folder, deadline)
    for outcome in outcomes_of(section.checks(bench), bench):
        report(outcome)


def outcomes_of(checks: Iterator[Check], bench: Bench) -> Iterator[tuple[str, Outcome]]:
    """Runs the checks while there is time and the device works."""
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
    """Returns the check's outcome; an exception is a failure."""
    from pretrain.engine.interrupts import Interrupted

    begin = time.perf_counter()
    try:
        outcome = check()
    except Interrupted as interrupted:  # the loop has caught the user's Ctrl-C
        raise KeyboardInterrupt from interrupted
    except (Exception, SystemExit) as error:  # argparse raises the latter
        lines = str(error).strip().splitlines()
        seen = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        outcome = judged(seen, "see the traceback in the JSON", traceback=traceback.format_exc())
    return replace(outcome, seconds=round(time.perf_counter() - begin, 2))


def _is_broken(bench: Bench) -> bool:
    """Frees the memory of a check; True if the GPU does not work after an error in a kernel."""
    gc.collect()
    if not bench.on_gpu:
        return False
    try:
        torch.cuda.empty_cache()
        torch.ones(1, device=bench.device).item()
    except RuntimeError:
        return True
    return False
