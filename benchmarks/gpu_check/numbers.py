"""Section numbers: losses beside the CPU's, host waits, overflows and resumed runs."""

import json
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bench import ON_CPU, Bench, Enough, metrics_in, run_loop, run_settings
from benchmarks.gpu_check.correctness import check_correctness
from benchmarks.gpu_check.outcome import Check, Outcome, judged
from benchmarks.gpu_check.synchronisation import check_data, check_error_mode, check_waits
from benchmarks.harness import PROJECT, run_command

LOSS_STEPS = 8
# Relative, of each step's loss against fp32 on the CPU without dropout: half of a step's progress.
# A CPU's own fp16 is at most 1e-5 off, its bf16 7e-5.
LOSS_TOLERANCES = {"fp16": 1e-3, "bf16": 2e-3}
RESUME_TOLERANCE = 1e-3
RESUME_STEPS = 20
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "ZeRO-1": {"optimizer_type": "adamw", "zero_stage": 1},
    "Muon": {"optimizer_type": "muon", "zero_stage": 0},
}


def checks(bench: Bench) -> Iterator[Check]:
    from pretrain.engine.distributed import start_ranks

    start_ranks()
    precisions = bench.precisions if bench.on_gpu else ["fp16", "bf16"]
    pairs = [(precision, name) for name in OPTIMIZERS for precision in precisions]
    yield "gradients", partial(check_correctness, bench)
    references: dict[str, list[float]] = {}
    for pair in pairs:
        yield f"losses {' '.join(pair)}", partial(check_losses, bench, *pair, references)
    for name in OPTIMIZERS:
        yield f"overflow fp16 {name}", partial(check_overflow, bench, name)
    yield "error mode", partial(check_error_mode, bench)
    for precision, name in pairs:
        flags = {"precision": precision, **OPTIMIZERS[name]}
        yield f"waits {precision} {name}", partial(check_waits, bench, f"{precision}-{name}", flags)
    yield "data", partial(check_data, bench)
    yield "resume", partial(check_resume, bench)


def train_losses(lines: Sequence[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "train"]


# --- losses of the first steps -----------------------------------------------------------------


def loss_settings(bench: Bench, name: str, optimizer: str, precision: str) -> dict[str, Any]:
    """Returns the flags of a short run with a line of metrics per step, without a warmup."""
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
        # At a low loss scale no first step is skipped, which would change all later losses.
        flags["deepspeed_config"] = bench.folder / "low-scale.json"
        flags["deepspeed_config"].write_text(json.dumps({"fp16": {"initial_scale_power": 10}}))
    return run_settings(bench, name, bench.scale.small, **flags)


def check_losses(
    bench: Bench, precision: str, optimizer: str, references: dict[str, list[float]]
) -> Outcome:
    """The losses of the first steps are the CPU's. references: the CPU's, by optimizer."""
    if optimizer not in references:
        references[optimizer] = losses_on_cpu(bench, optimizer)
    settings = loss_settings(bench, f"losses-{precision}-{optimizer}", optimizer, precision)
    losses = train_losses(run_loop(bench, settings))
    return compare_losses(losses, references[optimizer], LOSS_TOLERANCES[precision])


def losses_on_cpu(bench: Bench, optimizer: str) -> list[float]:
    """Runs run_pretraining.py on the CPU in fp32."""
    from pretrain.launch import flag_words

    settings = loss_settings(bench, f"losses-cpu-{optimizer}", optimizer, "fp32")
    program = [sys.executable, str(PROJECT / "pretrain" / "run_pretraining.py")]
    log = bench.folder / f"losses-cpu-{optimizer}.log"
    run_command([*program, *flag_words(settings)], log, **ON_CPU)
    return train_losses(metrics_in(Path(settings["output_dir"])))


def compare_losses(found: Sequence[float], expected: Sequence[float], tolerance: float) -> Outcome:
    """Fails if steps are missing, or losses differ by more than the relative tolerance."""
    off = [abs(our - their) / their for our, their in zip(found, expected, strict=False)]
    seen = (
        f"{expected[0]:.4f} -> {expected[-1]:.4f} on the CPU, {found[-1]:.4f} here; "
        f"first step {off[0]:.1e}, all at most {max(off):.1e} off"
    )
    is_whole = len(found) == len(expected) == LOSS_STEPS
    works = is_whole and all(one <= tolerance for one in off)  # false for nan
    advice = "" if works else f"expected {LOSS_STEPS} steps within {tolerance:g}: report this"
    return judged(seen, advice, losses=list(found), cpu=list(expected))


# --- overflow ----------------------------------------------------------------------------------


class Overflow:
    """Watches a run, and makes the loss of one step, thus its gradients, infinite."""

    def __init__(self, step: int, last: int):
        self.step, self.last = step, last
        self.scales: dict[int, float] = {}
        self.weights_are_finite = self.happened = False

    def __call__(self, run_: Any) -> None:
        from pretrain.engine.engine import loss_scale

        step, model = run_.budget.step, run_.engine.module
        self.scales[step] = loss_scale(run_.engine)
        if step == self.step:
            self.handle = model.register_forward_hook(self._overflow)
        if step == self.step + 1:
            self.handle.remove()
        if step == self.last:
            self.weights_are_finite = all(bool(w.isfinite().all()) for w in model.parameters())
            raise Enough

    def _overflow(self, module: Any, inputs: Any, loss: torch.Tensor) -> torch.Tensor:
        self.happened = True
        return loss * math.inf


def check_overflow(bench: Bench, optimizer: str) -> Outcome:
    """The loss scaler skips a step with an overflow, and the run continues."""
    begin = bench.scale.warm_up
    watch = Overflow(begin, begin + 2 * LOSS_STEPS)
    changes = {"precision": "fp16", "print_steps": 4, **OPTIMIZERS[optimizer]}
    settings = run_settings(bench, f"overflow-{optimizer}", bench.scale.small, **changes)
    losses = train_losses(run_loop(bench, settings, watch))
    lowest = min(watch.scales[step] for step in watch.scales if step > begin)
    seen = (
        f"survived at step {begin + 1}; loss scale {watch.scales[begin]:g} -> {lowest:g}, "
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
    """A resumed run has the losses of an uninterrupted one."""
    from pretrain.engine.interrupts import Interrupted, Interrupts

    half = RESUME_STEPS // 2
    changes = {"max_steps": RESUME_STEPS, "print_steps": 1, "precision": bench.precisions[0]}
    whole = run_loop(bench, run_settings(bench, "whole", bench.scale.small, **changes))
    settings = run_settings(bench, "parts", bench.scale.small, **changes)
    interrupts, steps = Interrupts(), []

    def interrupt(run_: Any) -> None:
        if run_.budget.step == half:
            interrupts.signum = signal.SIGTERM

    with suppress(Interrupted):
        run_loop(bench, settings, interrupt, interrupts)
    resumed = run_loop(bench, settings, lambda run_: steps.append(run_.budget.step))
    pairs = list(zip(whole, resumed, strict=True))
    off = max(abs(one["loss"] - other["loss"]) for one, other in pairs)
    alike = "the same bits" if off == 0 else f"at most {off:.1e} off"
    seen = f"resumed after step {steps[0]}, {alike} in {len(pairs)} steps"
    works = steps[0] == half and off <= RESUME_TOLERANCE
    return judged(seen, "" if works else "report this as a bug", loss_difference=off)
