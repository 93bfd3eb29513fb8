"""Runs a small pipeline again and again, disturbs it, and looks whether it recovers.

    bash tests/run.sh --chaos --faults 200 --seed 0 --work_dir /tmp/chaos

Goes on where it was in a work directory that holds results; without --work_dir, takes one that is
deleted if all is well. Exit codes: 0 all recovered, 1 some did not (their folders are kept), 2 the
command line is wrong.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from itertools import islice
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from tests.chaos.campaign import campaign, figures, problem_with, schedule
from tests.chaos.episode import Fault
from tests.chaos.faults import KINDS
from tests.chaos.pipeline_folder import STAGES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tests/run.sh --chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=KINDS, help="faults of this kind")
    parser.add_argument("--stage", action="append", choices=STAGES, help="faults of this stage")
    parser.add_argument("--repeat", type=_numbers, default=[], metavar="N,N", help="these faults")
    parser.add_argument("--work_dir", type=Path, metavar="DIR", help="default: a new one")
    return parser


def main(arguments: list[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    # A shell that starts this in the background has it, and all children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = options.work_dir or Path(tempfile.mkdtemp(prefix="extremebert-chaos-"))
    if problem := problem_with(folder):
        parser.error(f"--work_dir: {problem}")
    results = campaign(folder, options.seed, chosen_faults(options))
    print(figures(results))
    some_failed = any(result.outcome == "failed" for result in results)
    if not options.work_dir and not some_failed:
        shutil.rmtree(folder)
    return int(some_failed)


def chosen_faults(options: argparse.Namespace) -> list[Fault]:
    faults = schedule(options.seed)
    if options.repeat:
        known = islice(faults, max(options.repeat))
        return [fault for fault in known if fault.number in options.repeat]
    kinds, stages = options.only or KINDS, options.stage or STAGES
    wanted = (fault for fault in faults if fault.kind in kinds and fault.stage in stages)
    return [*islice(wanted, options.faults)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
