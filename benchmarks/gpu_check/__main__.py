"""Whether this project trains on this machine's GPU as it is meant to, and how fast.

    python -m benchmarks.gpu_check                        all sections, in at most ten minutes
    python -m benchmarks.gpu_check --only stage,numbers   some of them
    python -m benchmarks.gpu_check --rehearse             tiny sizes on the CPU: does the check run?

The most telling sections come first, each in a process of its own that is killed when its time is
over; a check that fails says what to do about it, and the others go on. All that was seen is in one
JSON file (--json), which is written after each check. The exit code is 0 if no check failed, 1 if
one did, and 2 if there is no GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
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
from pipeline.console import table

LEAST_SECONDS = 20.0  # that are worth beginning a section
REHEARSAL_SECONDS = 600.0  # of each section, on a CPU that others may use

Results = dict[str, dict[str, Outcome]]  # by section and check


def run_sections(
    sections: Mapping[str, Section], folder: Path, limit: float, rehearses: bool, report: Path
) -> Results:
    """All of them, one after the other; prints and writes each outcome as it comes.

    limit: seconds of all; a section gets what is left of them.
    """
    begin, results = time.monotonic(), {}
    for name, section in sections.items():
        outcomes = results[name] = {}
        left = limit - (time.monotonic() - begin)
        seconds = min(REHEARSAL_SECONDS if rehearses else section.seconds, left)
        print(f"\n{name}: {section.title}, at most {max(0.0, seconds):.0f} s", flush=True)
        if left < LEAST_SECONDS:
            outcomes[name] = skipped(f"the time was over; run it with --only {name}")
            print(in_words(name, outcomes[name]), flush=True)
            continue
        for check, outcome in run_section(name, section, folder, seconds, rehearses):
            outcomes[check] = outcome
            print(in_words(check, outcome), flush=True)
            write_report(report, results, time.monotonic() - begin)
    write_report(report, results, time.monotonic() - begin)
    return results


def in_words(name: str, outcome: Outcome) -> str:
    advice = f"\n       {outcome.advice}" if outcome.advice else ""
    return f"  {outcome.status:<4} {name}: {outcome.seen}{advice}"


def write_report(path: Path, results: Results, seconds: float) -> None:
    """Replaces the file, so that a run that is killed leaves what was measured until then."""
    found = {
        "seconds": round(seconds, 1),
        "goals": goals_in(results),
        "sections": {
            section: {name: asdict(outcome) for name, outcome in outcomes.items()}
            for section, outcomes in results.items()
        },
    }
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(aside, path)


def goals_in(results: Results) -> list[str]:
    device = results.get("machine", {}).get("device")
    card = device.numbers.get("name", "") if device else ""
    return list(goals(card, (one.numbers for one in results.get("speed", {}).values())))


def result_table(results: Results) -> str:
    rows = [
        [outcome.status, section, name, f"{outcome.seconds:.0f} s", textwrap.shorten(seen, 110)]
        for section, outcomes in results.items()
        for name, outcome in outcomes.items()
        for seen in (outcome.seen,)
    ]
    return table([["", "section", "check", "time", "seen"], *rows])


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--only", default="", help=f"of {', '.join(SECTIONS)}; separated by commas")
    add("--json", type=Path, default=Path("gpu_check.json"), help="file for all that was seen")
    add("--minutes", type=float, default=9.5, help="of all sections together")
    add("--folder", type=Path, help="keep what the sections write here; default: it is deleted")
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
    print("\n".join(goals_in(results)))
    print(f"all numbers are in {args.json}; torch {torch.__version__}")
    outcomes = [outcome for found in results.values() for outcome in found.values()]
    return int(any(outcome.status == FAILED for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
