"""Whether pretraining runs on this machine's GPU as it is meant to, and how fast: a checklist.

    python -m benchmarks.gpu_check                        all checks, in at most five minutes or so
    python -m benchmarks.gpu_check --only attention,compile --json numbers.json

The checks run the real loop and engine on samples that are made of Python's documentation. One that
fails says what to do about it, and the others go on. Speeds are compared in turns within this run.
The exit code is 0 if no check failed, 1 if one did, and 2 if there is no GPU.
"""

import argparse
import gc
import json
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import torch

from benchmarks.contestants import Size, parse_size
from benchmarks.gpu_check.correctness import check_correctness
from benchmarks.gpu_check.kernels import check_attention, check_optimizer
from benchmarks.gpu_check.machine import check_device, check_start, why_no_gpu
from benchmarks.gpu_check.outcome import FAILED, Outcome, failed, skipped
from benchmarks.gpu_check.resume_and_ranks import check_ranks, check_resume
from benchmarks.gpu_check.runs import Bench
from benchmarks.gpu_check.speed import check_compile, check_throughput
from benchmarks.gpu_check.synchronisation import check_data, check_synchronisation
from pipeline.console import table
from pretrain.interrupts import Interrupted

LIMIT_SECONDS = 300.0  # after which no further check begins

Check = Callable[[Bench], Outcome]
CHECKS: dict[str, Check] = {
    "device": check_device,
    "start": check_start,
    "data": check_data,
    "synchronisation": check_synchronisation,
    "attention": check_attention,
    "optimizer": check_optimizer,
    "correctness": check_correctness,
    "compile": check_compile,
    "throughput": check_throughput,
    "resume": check_resume,
    "ranks": check_ranks,
}


def run_check(check: Check, bench: Bench) -> Outcome:
    """The check's outcome; what it raises is its failure."""
    begin = time.perf_counter()
    try:
        outcome = check(bench)
    except Interrupted as interrupted:  # the loop has taken the user's Ctrl-C for its own
        raise KeyboardInterrupt from interrupted
    except (Exception, SystemExit) as error:  # argparse and the dataset stage raise the latter
        lines = str(error).strip().splitlines()
        seen = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        no_memory = isinstance(error, torch.OutOfMemoryError)
        advice = "try a smaller --batch" if no_memory else "see traceback in --json"
        outcome = failed(seen, advice, traceback=traceback.format_exc())
    return replace(outcome, seconds=time.perf_counter() - begin)


def run_checks(
    checks: dict[str, Check], bench: Bench, limit: float = LIMIT_SECONDS
) -> dict[str, Outcome]:
    """All of them, one after the other; prints each as it ends.

    limit: seconds after which no further one begins; neither does one without a rank, or on a
    device that an error has left unusable.
    """
    begin, outcomes, why_not = time.perf_counter(), {}, ""
    for name, check in checks.items():
        if not why_not and time.perf_counter() - begin > limit:
            why_not = "the time was over"
        if why_not:
            outcomes[name] = skipped(f"{why_not}; run it with --only {name}")
        else:
            print(f"{name} ...", flush=True)
            outcomes[name] = run_check(check, bench)
            if _is_broken(bench):
                why_not = f"check {name} left the GPU unusable"
            elif name == "start" and outcomes[name].status == FAILED:
                why_not = "no rank could start"
        print(_in_words(name, outcomes[name]), flush=True)
    return outcomes


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


def _in_words(name: str, outcome: Outcome) -> str:
    advice = f"\n     {outcome.advice}" if outcome.advice else ""
    return f"{outcome.status:<4} {name}: {outcome.seen}{advice}"


def result_table(outcomes: dict[str, Outcome]) -> str:
    rows = [
        [outcome.status, name, f"{outcome.seconds:.0f} s", textwrap.shorten(outcome.seen, 100)]
        for name, outcome in outcomes.items()
    ]
    return table([["", "check", "time", "seen"], *rows])


def as_json(outcomes: dict[str, Outcome]) -> str:
    return json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}, indent=1)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--size", type=parse_size, default=Size(12, 768), help="layers x hidden size")
    add("--batch", type=int, default=64, help="sequences of 128 tokens per step")
    add("--only", default="", help=f"of {', '.join(CHECKS)}; separated by commas")
    add("--json", type=Path, help="file for all numbers")
    args = parser.parse_args(words)
    names = [name for name in args.only.split(",") if name]
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"--only: got {', '.join(unknown)}, expected of {', '.join(CHECKS)}")
    # Nearly all need a rank.
    args.checks = {n: CHECKS[n] for n in CHECKS if not names or n in (*names, "start")}
    return args


def main(words: Sequence[str] | None = None) -> int:
    args = parse_arguments(words)
    if reason := why_no_gpu():
        print(f"no GPU to check: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        bench = Bench(torch.device("cuda", 0), args.size, args.batch, Path(folder))
        outcomes = run_checks(args.checks, bench)
    print(f"\n{result_table(outcomes)}")
    if args.json:
        args.json.write_text(as_json(outcomes) + "\n")
    return int(any(outcome.status == FAILED for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
