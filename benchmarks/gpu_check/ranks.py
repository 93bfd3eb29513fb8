"""Section ranks: two ranks compute the loss of one, and a killed rank ends the run at once."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench, metrics_in, run_loop, run_settings
from benchmarks.gpu_check.outcome import Check, Outcome, judged, skipped
from benchmarks.harness import started

TOLERANCE = 1e-3  # of the loss
NUM_STEPS = 20
KILLED_AT = 10
MOST_SECONDS = 30.0  # from the kill of a rank to the end of the launcher


def checks(bench: Bench) -> Iterator[Check]:
    from pretrain.engine.distributed import start_ranks

    if bench.on_gpu and torch.cuda.device_count() < 2:
        yield "ranks", lambda: skipped("there is one GPU")
        return
    start_ranks()
    yield "same loss", partial(check_same_loss, bench)
    yield "killed rank", partial(check_killed_rank, bench)


def rank_settings(bench: Bench, name: str, **changes: Any) -> dict[str, Any]:
    """Returns the flags of a run in fp32 without dropout.

    In fp16 two ranks would skip other steps while they search for the loss scale, and each rank has
    its own dropout.
    """
    batch = bench.scale.batch + bench.scale.batch % 2
    settings = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // 2,
        "max_steps": NUM_STEPS,
        "print_steps": NUM_STEPS,
        "precision": "fp32",
        "zero_stage": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **changes,
    }
    return run_settings(bench, name, bench.scale.small, **settings)


def launched(bench: Bench, settings: dict[str, Any]) -> AbstractContextManager[subprocess.Popen]:
    """Runs two ranks with the launcher; its output goes to a file beside the run."""
    from pretrain.engine.placement import device_flag
    from pretrain.engine.ports import free_port
    from pretrain.launch import launch_command, launcher_words

    settings = {**settings, "device": device_flag(2) if bench.on_gpu else "cpu"}
    command = launch_command(settings, launcher_words("", 2), free_port())
    return started(command, _log_of(settings))


def _log_of(settings: dict[str, Any]) -> Path:
    return Path(f"{settings['output_dir']}.err")


def failed(settings: dict[str, Any], how: str) -> Outcome:
    lines = _log_of(settings).read_text(errors="replace").splitlines()
    return judged(f"{how}: {' | '.join(lines[-5:])}", "see NCCL_DEBUG=INFO")


def check_same_loss(bench: Bench) -> Outcome:
    """One rank and two have the same loss after the same steps."""
    one = run_loop(bench, rank_settings(bench, "one-rank"))[-1]["loss"]
    settings = rank_settings(bench, "two-ranks")
    with launched(bench, settings) as process:
        code = process.wait(max(1.0, bench.seconds_left))
    lines = metrics_in(Path(settings["output_dir"]))
    if code or not lines:
        return failed(settings, f"exit code {code}")
    two = lines[-1]["loss"]
    works = abs(two - one) <= TOLERANCE * one
    seen = f"loss {two:.4f} on two ranks, {one:.4f} on one"
    return judged(seen, "" if works else "report this as a bug", one=one, two=two)


def check_killed_rank(bench: Bench) -> Outcome:
    """kill -9 of rank 1 ends the launcher and rank 0 soon, with an error."""
    settings = rank_settings(bench, "killed", max_steps=10**6, print_steps=1)
    with launched(bench, settings) as process:
        while (
            not (found := ranks_of(settings))
            or len(metrics_in(Path(settings["output_dir"]))) < KILLED_AT
        ):
            if process.poll() is not None:
                return failed(settings, "ended by itself")
            time.sleep(0.1)
        os.kill(found[-1], signal.SIGKILL)
        begin = time.monotonic()
        code = process.wait(max(1.0, bench.seconds_left))
        seconds = time.monotonic() - begin
    left = ranks_of(settings)
    for number in left:
        os.kill(number, signal.SIGKILL)
    seen = f"the launcher ended after {seconds:.1f} s with {code}, {len(left)} ranks are left"
    problems = []
    if seconds > MOST_SECONDS:
        problems.append(f"expected an end within {MOST_SECONDS:.0f} s")
    if not code or left:
        problems.append("expected an error, and no remaining rank")
    return judged(seen, "; ".join(problems), seconds=seconds, code=code)


def ranks_of(settings: dict[str, Any]) -> list[int]:
    """Returns the processes that train into this run's folder, by rank, without the launcher."""
    wanted = f"--output_dir={settings['output_dir']}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [word[5:] for word in environment if word.startswith(b"RANK=")]
        if wanted in words and ranks and b"deepspeed.launcher.runner" not in words:
            found[int(ranks[0])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]
