"""Section ranks: two ranks compute what one does, and when one is killed the run ends at once."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench, child_environment, run_loop, run_settings
from benchmarks.gpu_check.outcome import Check, Outcome, failed, judged, skipped
from benchmarks.stage_runs import PROJECT
from pretrain.engine.distributed import start_ranks
from pretrain.engine.placement import device_flag
from pretrain.engine.ports import free_port
from pretrain.launch import launch_command, launcher_devices
from pretrain.training.metrics_file import read_metrics

TOLERANCE = 1e-3  # of the loss
NUM_STEPS = 20
KILLED_AT = 10
MOST_SECONDS = 30.0  # until the launcher has ended, after a rank was killed


def checks(bench: Bench) -> Iterator[Check]:
    if bench.on_gpu and torch.cuda.device_count() < 2:
        yield "ranks", lambda: skipped("there is one GPU")
        return
    start_ranks()
    yield "same loss", partial(check_same_loss, bench)
    yield "killed rank", partial(check_killed_rank, bench)


def rank_settings(bench: Bench, name: str, **changes: Any) -> dict[str, Any]:
    """In fp32, as in fp16 two ranks skip other steps while they look for the scale of the loss; and
    without dropout, of which each rank has its own."""
    batch = bench.scale.batch + bench.scale.batch % 2
    return run_settings(
        bench,
        name,
        bench.scale.small,
        **{
            "train_batch_size": batch,
            "train_micro_batch_size_per_gpu": batch // 2,
            "max_steps": NUM_STEPS,
            "print_steps": NUM_STEPS,
            "precision": "fp32",
            "zero_stage": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **changes,
        },
    )


def launch(bench: Bench, settings: dict[str, Any]) -> subprocess.Popen:
    """Two ranks by the launcher, its errors in a file beside the run."""
    Path(settings["output_dir"]).mkdir(parents=True, exist_ok=True)
    settings = {**settings, "device": device_flag(2) if bench.on_gpu else "cpu"}
    with open(f"{settings['output_dir']}.err", "wb") as errors:
        return subprocess.Popen(
            launch_command(settings, launcher_devices("", 2), free_port()),
            stdout=errors,
            stderr=errors,
            env=child_environment(),
            cwd=PROJECT,
        )


def last_words(settings: dict[str, Any]) -> str:
    lines = Path(f"{settings['output_dir']}.err").read_text(errors="replace").splitlines()
    return " | ".join(lines[-5:])


def check_same_loss(bench: Bench) -> Outcome:
    """The loss after the same steps on one rank and on two."""
    one = run_loop(bench, rank_settings(bench, "one-rank"))
    settings = rank_settings(bench, "two-ranks")
    process = launch(bench, settings)
    try:
        code = process.wait(max(1.0, bench.seconds_left))
    finally:
        process.kill()
    two = read_metrics(Path(settings["output_dir"]) / "metrics.jsonl")
    if code or not two:
        return failed(f"exit code {code}: {last_words(settings)}", "see NCCL_DEBUG=INFO")
    numbers = {"one": one[-1]["loss"], "two": two[-1]["loss"]}
    seen = f"loss {numbers['two']:.4f} on two ranks, {numbers['one']:.4f} on one"
    works = abs(numbers["two"] - numbers["one"]) <= TOLERANCE * numbers["one"]
    return judged(seen, "" if works else "report this as a bug", **numbers)


def check_killed_rank(bench: Bench) -> Outcome:
    """kill -9 of rank 1 ends the launcher and rank 0 soon, with an error."""
    settings = rank_settings(bench, "killed", max_steps=10**6, print_steps=1)
    metrics = Path(settings["output_dir"]) / "metrics.jsonl"
    process = launch(bench, settings)
    try:
        while not (found := ranks_of(settings)) or len(read_metrics(metrics)) < KILLED_AT:
            if process.poll() is not None:
                return failed(f"ended by itself: {last_words(settings)}", "see NCCL_DEBUG=INFO")
            time.sleep(0.1)
        os.kill(found[-1], signal.SIGKILL)
        begin = time.monotonic()
        code = process.wait(max(1.0, bench.seconds_left))
        seconds = time.monotonic() - begin
        left = ranks_of(settings)
    finally:
        process.kill()
        for number in ranks_of(settings):
            os.kill(number, signal.SIGKILL)
    seen = f"the launcher ended after {seconds:.1f} s with {code}, {len(left)} ranks are left"
    problems = []
    if seconds > MOST_SECONDS:
        problems.append(f"expected an end within {MOST_SECONDS:.0f} s")
    if not code or left:
        problems.append("expected an error, and no rank to be left")
    return judged(seen, "; ".join(problems), seconds=seconds, code=code)


def ranks_of(settings: dict[str, Any]) -> list[int]:
    """Processes that train into this run's folder, by rank, the launcher's left out."""
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
