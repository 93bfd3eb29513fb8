"""Checks the training of this project on this machine's GPU, and its speed.

    python -m benchmarks.gpu_check                        all sections, in at most ten minutes
    python -m benchmarks.gpu_check --only stage,numbers   some of them
    python -m benchmarks.gpu_check --rehearse             tiny sizes on the CPU, to test the check

The most telling sections come first, each in its own process, which is killed after its time limit.
A failed check gives advice, and the others continue. All results are in a JSON file (--json), which
is written after each check. The exit code is 0 if no check failed, 1 if one did, and 2 without a
GPU.
"""

import argparse
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import torch

from benchmarks.gpu_check.goals import goals
from benchmarks.gpu_check.machine import why_no_gpu
from benchmarks.gpu_check.outcome import FAILED, Outcome, skipped
from benchmarks.gpu_check.sections import SECTIONS
from benchmarks.gpu_check.worker import Section, run_section
from benchmarks.harness import write_numbers

LEAST_SECONDS = 20.0  # for starting a section
REHEARSAL_SECONDS = 600.0  # of each section, on a busy CPU

Results = dict[str, dict[str, Outcome]]  # by section and check


def run_sections(
    sections: Mapping[str, Section], folder: Path, limit: float, rehearses: bool, report: Path
) -> Results:
    """Runs the sections in turn; prints each outcome and writes the report after it.

    limit: seconds of all sections; a section gets at most the remaining ones.
    """
    begin = time.monotonic()
    results: Results = {}
    for name, section in sections.items():
        outcomes = results[name] = {}
        left = limit - (time.monotonic() - begin)
        seconds = min(REHEARSAL_SECONDS if rehearses else section.seconds, left)
        print(f"\n{name}: {section.title}, at most {max(0.0, seconds):.0f} s", flush=True)
        if left < LEAST_SECONDS:
            found = iter([(name, skipped(f"the time was over; run it with --only {name}"))])
        else:
            found = run_section(name, section, folder, seconds, rehearses)
        for check, outcome in found:
            outcomes[check] = outcome
            advice = f"\n       {outcome.advice}" if outcome.advice else ""
            print(f"  {outcome.status:<4} {check}: {outcome.seen}{advice}", flush=True)
            seconds = round(time.monotonic() - begin, 1)
            numbers = {"seconds": seconds, "goals": goals_in(results), "sections": results}
            write_numbers(report, numbers)
    return results


def goals_in(results: Results) -> list[str]:
    device = results.get("machine", {}).get("device")
    card = device.numbers.get("name", "") if device else ""
    return list(goals(card, [one.numbers for one in results.get("speed", {}).values()]))


def result_table(results: Results) -> str:
    from pipeline.console import table

    rows = [
        [one.status, section, name, f"{one.seconds:.0f} s", textwrap.shorten(one.seen, 110)]
        for section, outcomes in results.items()
        for name, one in outcomes.items()
    ]
    return table([["", "section", "check", "time", "seen"], *rows])


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--only", default="", help=f"of {', '.join(SECTIONS)}; separated by commas")
    add("--json", type=Path, default=Path("gpu_check.json"), help="file for all results")
    add("--minutes", type=float, default=9.5, help="of all sections together")
    add("--folder", type=Path, help="keep the sections' files here; default: they are deleted")
    add("--rehearse", action="store_true", help="tiny sizes on the CPU; no number means anything")
    args = parser.parse_args(words)
    names = [name for name in args.only.split(",") if name]
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"--only: got {', '.join(unknown)}, expected of {', '.join(SECTIONS)}")
    args.sections = {n: section for n, section in SECTIONS.items() if not names or n in names}
    return args


def main(words: Sequence[str] | None = None) -> int:
    args = parse_arguments(words)
    if not args.rehearse and (reason := why_no_gpu()):
        print(f"no GPU to check: {reason}", file=sys.stderr)
        return 2
    limit = len(args.sections) * REHEARSAL_SECONDS if args.rehearse else 60 * args.minutes
    with ExitStack() as stack:
        folder = args.folder
        if not folder:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-check-")))
        folder.mkdir(parents=True, exist_ok=True)
        results = run_sections(args.sections, folder.resolve(), limit, args.rehearse, args.json)
    print(f"\n{result_table(results)}\n")
    print(*goals_in(results), sep="\n")
    print(f"all numbers are in {args.json}; torch {torch.__version__}")
    outcomes = [outcome for found in results.values() for outcome in found.values()]
    return int(any(outcome.status == FAILED for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
