"""Is the loss the same after an interruption, and on two ranks?"""

import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.gpu_check.outcome import Outcome, failed, judged, skipped
from benchmarks.gpu_check.runs import SMALL, Bench, child_environment, run_loop, run_settings
from benchmarks.stage_runs import PROJECT
from pretrain.interrupts import Interrupted, Interrupts
from pretrain.metrics import read_metrics
from pretrain.ports import free_port
from pretrain.stage import launch_command, launcher_devices

TOLERANCE = 1e-3  # of the loss


def check_resume(bench: Bench, num_steps: int = 20) -> Outcome:
    """A run that is interrupted and resumed has the losses of one that is not."""
    changes = {"max_steps": num_steps, "print_steps": 1}
    whole = run_loop(bench, run_settings(bench, "whole", SMALL, **changes))
    settings = run_settings(bench, "parts", SMALL, **changes)
    interrupts, steps = Interrupts(), []

    def interrupt(run_) -> None:
        if run_.budget.step == num_steps // 2:
            interrupts.signum = signal.SIGTERM

    with suppress(Interrupted):
        run_loop(bench, settings, interrupt, interrupts)
    resumed = run_loop(bench, settings, lambda run_: steps.append(run_.budget.step))
    pairs = list(zip(whole, resumed, strict=True))
    off = max(abs(one["loss"] - other["loss"]) for one, other in pairs)
    alike = "the same bits" if off == 0 else f"at most {off:.1e} off"
    seen = f"resumed after step {steps[0]}, {alike} in {len(pairs)} steps"
    works = steps[0] == num_steps // 2 and off <= TOLERANCE
    return judged(seen, "" if works else "report this as a bug", loss_difference=off)


def check_ranks(bench: Bench) -> Outcome:
    """Two ranks, started by the deepspeed launcher, have the loss of one, up to rounding."""
    return compare_ranks(bench) if torch.cuda.device_count() > 1 else skipped("there is one GPU")


def compare_ranks(bench: Bench, num_steps: int = 20) -> Outcome:
    """The loss after the same steps on one rank and on two.

    In fp32, as in fp16 two ranks skip other steps while they look for the scale of the loss; and
    without dropout, of which each rank has its own.
    """
    changes = {
        "max_steps": num_steps,
        "print_steps": num_steps,
        "train_batch_size": bench.batch + bench.batch % 2,
        "precision": "fp32",
        "zero_stage": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    one = run_loop(bench, run_settings(bench, "one-rank", SMALL, **changes))
    settings = run_settings(bench, "two-ranks", SMALL, **changes)
    command = launch_command(settings, launcher_devices("", 2), free_port())
    done = subprocess.run(
        command, capture_output=True, text=True, env=child_environment(), cwd=PROJECT, timeout=150
    )
    two = read_metrics(Path(settings["output_dir"]) / "metrics.jsonl")
    if done.returncode or not two:
        return failed(
            f"the launcher ended with {done.returncode}",
            f"see NCCL_DEBUG=INFO; {' | '.join(done.stderr.splitlines()[-5:])}",
        )
    numbers = {"one": one[-1]["loss"], "two": two[-1]["loss"]}
    seen = f"loss {numbers['two']:.4f} on two ranks, {numbers['one']:.4f} on one"
    works = abs(numbers["two"] - numbers["one"]) <= TOLERANCE * numbers["one"]
    return judged(seen, "" if works else "report this as a bug", **numbers)
