"""Section numbers: what the GPU computes, beside the CPU; host waits; overflows; resumed runs."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bench import (
    ON_CPU,
    Bench,
    child_environment,
    run_loop,
    run_settings,
)
from benchmarks.gpu_check.correctness import check_correctness
from benchmarks.gpu_check.outcome import Check, Outcome, judged
from benchmarks.gpu_check.synchronisation import check_data, check_error_mode, check_waits
from benchmarks.real_loop import Enough
from benchmarks.stage_runs import PROJECT
from pretrain.engine.distributed import start_ranks
from pretrain.engine.engine import loss_scale
from pretrain.engine.interrupts import Interrupted, Interrupts
from pretrain.launch import flag_words
from pretrain.training.metrics_file import read_metrics

LOSS_STEPS = 8
# Relative, of each step's loss against fp32 on the CPU, dropout off: half of what a step moves it
# by. A CPU's own fp16 is at most 1e-5 off, its bf16 7e-5.
LOSS_TOLERANCES = {"fp16": 1e-3, "bf16": 2e-3}
RESUME_TOLERANCE = 1e-3
RESUME_STEPS = 20
# Optimizers of the runs that are compared, and what they need to be so.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "ZeRO-1": {"optimizer_type": "adamw", "zero_stage": 1},
    "Muon": {"optimizer_type": "muon", "zero_stage": 0},
}


def checks(bench: Bench) -> Iterator[Check]:
    start_ranks()
    precisions = bench.precisions if bench.on_gpu else ["fp16", "bf16"]
    pairs = [(precision, name) for name in OPTIMIZERS for precision in precisions]
    yield "gradients", partial(check_correctness, bench)
    references: dict[str, list[float]] = {}
    for precision, name in pairs:
        yield (
            f"losses {precision} {name}",
            partial(check_losses, bench, precision, name, references),
        )
    yield "overflow fp16 ZeRO-1", partial(check_overflow, bench, "ZeRO-1")
    yield "overflow fp16 Muon", partial(check_overflow, bench, "Muon")
    yield "error mode", partial(check_error_mode, bench)
    for precision, name in pairs:
        flags = {"precision": precision, **OPTIMIZERS[name]}
        yield f"waits {precision} {name}", partial(check_waits, bench, f"{precision}-{name}", flags)
    yield "data", partial(check_data, bench)
    yield "resume", partial(check_resume, bench)


# --- losses of the same first steps ------------------------------------------------------------


def loss_settings(bench: Bench, name: str, optimizer: str, precision: str) -> dict[str, Any]:
    """Flags of a short run that learns from its first step on, with a line of metrics for each."""
    flags = {
        "max_steps": LOSS_STEPS,
        "print_steps": 1,
        "warmup_proportion": 0.0,
        "curve": "constant",
        "precision": precision,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **OPTIMIZERS[optimizer],
    }
    if precision == "fp16" and flags["zero_stage"]:
        flags["deepspeed_config"] = _low_scale(bench.folder / "low-scale.json")
    return run_settings(bench, name, bench.scale.small, **flags)


def _low_scale(path: Path) -> Path:
    """A loss scale at which no first step is skipped: the next losses would be other ones."""
    path.write_text(json.dumps({"fp16": {"initial_scale_power": 10}}))
    return path


def check_losses(
    bench: Bench, precision: str, optimizer: str, references: dict[str, list[float]]
) -> Outcome:
    """references: losses on the CPU by optimizer, which are found once."""
    if optimizer not in references:
        references[optimizer] = losses_on_cpu(bench, optimizer)
    settings = loss_settings(bench, f"losses-{precision}-{optimizer}", optimizer, precision)
    losses = [line["loss"] for line in run_loop(bench, settings) if line["kind"] == "train"]
    return compare_losses(losses, references[optimizer], LOSS_TOLERANCES[precision])


def losses_on_cpu(bench: Bench, optimizer: str) -> list[float]:
    """Of the same steps in fp32, by run_pretraining.py in a child process."""
    settings = loss_settings(bench, f"losses-cpu-{optimizer}", optimizer, "fp32")
    words = flag_words(settings)
    done = subprocess.run(
        [sys.executable, str(PROJECT / "pretrain" / "run_pretraining.py"), *words],
        capture_output=True,
        text=True,
        env=child_environment(**ON_CPU),
        cwd=PROJECT,
    )
    if done.returncode:
        raise RuntimeError(f"no run on the CPU to compare with: {done.stderr[-1000:]}")
    lines = read_metrics(Path(settings["output_dir"]) / "metrics.jsonl")
    return [line["loss"] for line in lines if line["kind"] == "train"]


def compare_losses(found: Sequence[float], expected: Sequence[float], tolerance: float) -> Outcome:
    """Relative differences, which may grow with the steps to the tolerance."""
    pairs = list(zip(found, expected, strict=False))
    off = [abs(ours - theirs) / theirs for ours, theirs in pairs]
    seen = (
        f"{expected[0]:.4f} -> {expected[-1]:.4f} on the CPU, {found[-1]:.4f} here; "
        f"first step {off[0]:.1e}, all at most {max(off):.1e} off"
    )
    is_whole = len(found) == len(expected) == LOSS_STEPS
    works = is_whole and all(one <= tolerance for one in off)  # nan is not
    advice = "" if works else f"expected {LOSS_STEPS} steps within {tolerance:g}: report this"
    return judged(seen, advice, losses=list(found), cpu=list(expected))


# --- overflow ----------------------------------------------------------------------------------


class Overflow:
    """Watches a run, and makes one step's loss infinite, and so its gradients not finite."""

    def __init__(self, step: int, last: int):
        self.step, self.last = step, last
        self.scales: dict[int, float] = {}
        self.weights_are_finite = False
        self.happened = False

    def __call__(self, run_) -> None:
        step = run_.budget.step
        self.scales[step] = loss_scale(run_.engine)
        if step == self.step:
            self.handle = run_.engine.module.register_forward_hook(self._overflow)
        if step == self.step + 1:
            self.handle.remove()
        if step == self.last:
            weights = run_.engine.module.parameters()
            self.weights_are_finite = all(bool(w.isfinite().all()) for w in weights)
            raise Enough

    def _overflow(self, module, inputs, loss: torch.Tensor) -> torch.Tensor:
        self.happened = True
        return loss * math.inf


def check_overflow(bench: Bench, optimizer: str) -> Outcome:
    """A step whose loss overflows is skipped by the loss scaler, and the run goes on."""
    begin = bench.scale.warm_up
    watch = Overflow(begin, begin + 2 * LOSS_STEPS)
    changes = {"precision": "fp16", "print_steps": 4, **OPTIMIZERS[optimizer]}
    settings = run_settings(bench, f"overflow-{optimizer}", bench.scale.small, **changes)
    lines = run_loop(bench, settings, watch)
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    scales = watch.scales[begin], min(watch.scales[step] for step in watch.scales if step > begin)
    seen = (
        f"survived at step {begin + 1}; loss scale {scales[0]:g} -> {scales[1]:g}, "
        f"losses {', '.join(f'{loss:.3f}' for loss in losses)}"
    )
    problems = []
    if not watch.happened:
        problems.append("the overflow was not injected")
    if not watch.weights_are_finite:
        problems.append("the weights are not finite: the step was not skipped")
    if not losses or not math.isfinite(losses[-1]):
        problems.append("the loss stays infinite")
    return judged(seen, "; ".join(problems), losses=losses, scales=watch.scales)


# --- resuming ----------------------------------------------------------------------------------


def check_resume(bench: Bench) -> Outcome:
    """A run that is interrupted and resumed has the losses of one that is not."""
    num_steps = RESUME_STEPS
    changes = {"max_steps": num_steps, "print_steps": 1, "precision": bench.precisions[0]}
    whole = run_loop(bench, run_settings(bench, "whole", bench.scale.small, **changes))
    settings = run_settings(bench, "parts", bench.scale.small, **changes)
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
    works = steps[0] == num_steps // 2 and off <= RESUME_TOLERANCE
    return judged(seen, "" if works else "report this as a bug", loss_difference=off)
