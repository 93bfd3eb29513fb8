"""Sections stage, memory and finetuning: main.py in a child process, as users run it."""

import gc
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.outcome import Check, Outcome, judged, skipped
from benchmarks.gpu_check.speed import engine_args, new_engine, peak_memory
from benchmarks.harness import DATASET_ID, SHARED, main_command, started
from pipeline.store.record_files import read_json

INTERRUPTED = 130  # exit code of main.py
LEAST_MEMORY = 100e6  # bytes on a GPU, for CUDA's context alone
FALL = 0.2  # nats; the loss starts near 10
FREE_BYTES = 6e9  # left in section memory
OVERFILL = 1.5  # of these bytes, for its micro batch; half of it fits
MEMORY_STEPS = 6
GLUE = SHARED / "glue_data"


# --- main.py -----------------------------------------------------------------------------------


def run_config(bench: Bench, name: str, **pretrain: Any) -> Path:
    """Writes a config for main.py; pretrain: keys of PRETRAIN."""
    size = bench.scale.stage_model
    config = json.loads((bench.dataset.parents[1] / "config.yaml").read_text())
    config |= {
        "SYSTEM": {"NUM_GPUS": int(bench.on_gpu)},
        "MODEL": {
            "NUM_HIDDEN_LAYERS": size.layers,
            "HIDDEN_SIZE": size.hidden,
            "NUM_ATTENTION_HEADS": size.heads,
            "INTERMEDIATE_SIZE": size.feed_forward(gated=False),
        },
        "PRETRAIN": {
            "ID": name,
            "PRINT_STEPS": 1,
            "LEARNING_RATE": 1e-3,
            "VALIDATION_SAMPLES": 64,
            "CHECKPOINT_STEPS": 0,
            **pretrain,
        },
        "FINETUNE": {
            "TASKS": ["MRPC"],
            "STILT_TASKS": [],
            "GLUE_DIR": str(GLUE) if GLUE.is_dir() else "builtin:demo",
            "GRID": {"MRPC": {"EPOCHS": [3], "BATCH_SIZES": [32], "LEARNING_RATES": [3e-4]}},
        },
    }
    path = bench.folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    return path


def metrics_of(bench: Bench, name: str) -> Path:
    from pipeline.store.paths import METRICS, pretrain_dir

    return pretrain_dir(bench.folder, DATASET_ID, name) / METRICS


@dataclass(frozen=True)
class MainRun:
    """A finished main.py. gpu_bytes: peak of its GPU memory during training."""

    code: int
    output: str
    seconds: float
    gpu_bytes: float

    @property
    def numbers(self) -> dict[str, Any]:
        output = self.output[-3000:]
        return {"seconds": self.seconds, "gpu_mb": self.gpu_bytes / 1e6, "output": output}

    def failure(self) -> str:
        return f"exit code {self.code}: {' | '.join(self.output.strip().splitlines()[-4:])}"


def run_main(
    bench: Bench,
    config: Path,
    stage: str,
    trains: Callable[[], bool],
    ends: Callable[[], bool] = lambda: False,
) -> MainRun:
    """Runs a stage of main.py to its end, or sends it SIGTERM once `ends` is true.

    trains: true after its start-up, in which main.py uses the GPU just to test it.
    """
    output, begin = config.with_suffix(".out"), time.perf_counter()
    before = taken = _taken(bench)
    with started(main_command(config, bench.folder, stage), output) as process:
        while process.poll() is None:
            time.sleep(0.05)
            if trains():
                taken = max(taken, _taken(bench))
            if ends():
                process.send_signal(signal.SIGTERM)
                process.wait(max(1.0, bench.seconds_left))
    seconds = time.perf_counter() - begin
    return MainRun(process.returncode, output.read_text(errors="replace"), seconds, taken - before)


def _taken(bench: Bench) -> float:
    """Returns the used bytes of the GPU, of all processes."""
    if not bench.on_gpu:
        return 0.0
    free, total = torch.cuda.mem_get_info(bench.device)
    return float(total - free)


def training_lines(metrics: Path) -> list[dict[str, Any]]:
    from pretrain.training.metrics_file import read_metrics

    return [line for line in read_metrics(metrics) if line["kind"] == "train"]


def _last_step(metrics: Path) -> int:
    return max((line["step"] for line in training_lines(metrics)), default=0)


def has_trained(metrics: Path) -> Callable[[], bool]:
    """Returns a function that is true after further steps of the run."""
    before = _last_step(metrics)
    return lambda: _last_step(metrics) > before


def device_problem(bench: Bench, run: MainRun) -> str:
    """Describes a run that did not use the GPU."""
    if bench.on_gpu and run.gpu_bytes < LEAST_MEMORY:
        return f"it took {run.gpu_bytes / 1e6:.0f} MB on the GPU: it ran on the CPU"
    return ""


# --- section stage -----------------------------------------------------------------------------


def stage_checks(bench: Bench) -> Iterator[Check]:
    yield "dataset", partial(check_dataset, bench)
    yield "interrupt", partial(check_interrupt, bench)
    yield "resume", partial(check_resume, bench)


def check_dataset(bench: Bench) -> Outcome:
    """Runs the dataset stage on Python's documentation."""
    begin, dataset = time.perf_counter(), bench.dataset
    return judged(f"{dataset.name} in {time.perf_counter() - begin:.0f} s")


def _stage_run(bench: Bench) -> tuple[Path, Path]:
    """Returns config and metrics of the run for the checks interrupt, resume and MRPC."""
    steps, batch = bench.scale.stage_steps, bench.scale.stage_batch
    config = run_config(
        bench, "stage", NUM_STEPS=steps, BATCH_SIZE=batch, MICRO_BATCH_SIZE=batch // 2
    )
    return config, metrics_of(bench, "stage")


def check_interrupt(bench: Bench) -> Outcome:
    """SIGTERM ends a run on the GPU, with a checkpoint."""
    config, metrics = _stage_run(bench)
    at = bench.scale.stage_steps // 10
    run = run_main(
        bench, config, "pretrain", has_trained(metrics), lambda: _last_step(metrics) >= at
    )
    saved = sorted(metrics.with_name("checkpoints").glob("*/"))
    seen = f"exit code {run.code} after {_last_step(metrics)} steps and {run.seconds:.0f} s"
    if run.code != INTERRUPTED:
        return judged(run.failure(), f"expected exit code {INTERRUPTED}", **run.numbers)
    if not saved:
        return judged(seen, "no checkpoint was saved", **run.numbers)
    return judged(f"{seen}, saved {saved[-1].name}", device_problem(bench, run), **run.numbers)


def check_resume(bench: Bench) -> Outcome:
    """The same command resumes, the loss falls, and the model is written."""
    config, metrics = _stage_run(bench)
    before = training_lines(metrics)
    run = run_main(bench, config, "pretrain", has_trained(metrics))
    lines = training_lines(metrics)
    if run.code or not lines:
        return judged(run.failure(), "see the log", **run.numbers)
    kept = sum(old == new for old, new in zip(before, lines, strict=False))
    losses = [line["loss"] for line in lines]
    first, last = mean(losses[:5]), mean(losses[-5:])
    speed = mean([line["samples_per_second"] for line in lines[kept + 5 :]] or [0.0])
    seen = (
        f"resumed after step {kept}, loss {first:.2f} -> {last:.2f} in {len(lines)} steps, "
        f"{speed:,.0f} samples/s, {run.seconds:.0f} s"
    )
    problems = [device_problem(bench, run)]
    if not kept:
        problems.append("it started from the first step")
    if [line["step"] for line in lines] != list(range(1, bench.scale.stage_steps + 1)):
        problems.append("metrics.jsonl lacks steps, or has some twice")
    if not last < first - FALL:
        problems.append("the loss did not fall")
    numbers = {"kept": kept, "losses": losses, "samples_per_second": speed, **run.numbers}
    return judged(seen, "; ".join(filter(None, problems)), **numbers)


# --- section memory ----------------------------------------------------------------------------


def memory_checks(bench: Bench) -> Iterator[Check]:
    yield "halving", partial(check_halving, bench)


def check_halving(bench: Bench) -> Outcome:
    """A run halves a micro batch that does not fit, and continues by itself."""
    from pretrain.engine.distributed import start_ranks

    if not bench.on_gpu:
        return skipped("needs a GPU's memory")
    start_ranks()
    micro = _too_large(bench)
    gc.collect()
    torch.cuda.empty_cache()
    num_bytes = max(0, int(torch.cuda.mem_get_info(bench.device)[0] - FREE_BYTES))
    taken = torch.empty(num_bytes, dtype=torch.uint8, device=bench.device)
    settings = {"BATCH_SIZE": micro, "MICRO_BATCH_SIZE": micro, "DO_VALIDATION": False}
    config = run_config(bench, "memory", NUM_STEPS=MEMORY_STEPS, **settings)
    metrics = metrics_of(bench, "memory")
    run = run_main(bench, config, "pretrain", has_trained(metrics))
    del taken
    return judge_halving(metrics.parent, micro, run)


def judge_halving(directory: Path, asked: int, run: MainRun) -> Outcome:
    """directory: of the model, with its record of the micro batch."""
    from pipeline.store.paths import METRICS
    from pretrain.engine.memory_limits import FILE

    limit, steps = (
        (read_json(directory / FILE) or {}).get("limit", 0),
        _last_step(directory / METRICS),
    )
    numbers = {"asked": asked, "limit": limit, "steps": steps, **run.numbers}
    seen = f"micro batch {asked} -> {limit}, {steps} steps, {run.seconds:.0f} s"
    if run.code or steps != MEMORY_STEPS:
        return judged(f"{seen}; {run.failure()}", "see output", **numbers)
    fitted = "" if 0 < limit < asked else "all of it fitted: the estimate of its memory was too low"
    return judged(seen, fitted, **numbers)


def _too_large(bench: Bench) -> int:
    """Returns an even micro batch for OVERFILL times the free memory."""
    engine = new_engine(bench, engine_args(bench, bench.scale.stage_model))
    few, many = (peak_memory(bench, engine, size) for size in (64, 128))
    per_sample = max(1.0, (many - few) / 64)
    return 2 * int(OVERFILL * FREE_BYTES / per_sample / 2)


# --- section finetuning ------------------------------------------------------------------------


def finetuning_checks(bench: Bench) -> Iterator[Check]:
    yield "MRPC", partial(check_mrpc, bench)


def check_mrpc(bench: Bench) -> Outcome:
    """Finetunes the model of section stage on MRPC, or on the demo data without GLUE."""
    config, metrics = _stage_run(bench)
    if not (metrics.parent / "model" / "config.json").exists():
        made = run_main(bench, config, "pretrain", has_trained(metrics))
        if made.code:
            return judged(f"no model to finetune: {made.failure()}", "see section stage")
    logs = bench.folder / "log" / "finetune"

    def trains() -> bool:
        return any(": loss " in log.read_text(errors="replace") for log in logs.rglob("*.log"))

    run = run_main(bench, config, "finetune", trains)
    summaries = sorted(bench.folder.glob("output/finetune/**/summary.json"))
    if run.code or not summaries:
        return judged(run.failure(), "see output", **run.numbers)
    [row] = (read_json(summaries[-1]) or {})["runs"]
    data = "the shared MRPC" if GLUE.is_dir() else "the demo MRPC"
    seen = f"{data}: score {row['score']:.3f} in {run.seconds:.0f} s"
    problem = device_problem(bench, run)
    if not row["score"] >= 0.5:  # a constant answer scores higher
        problem = problem or "worse than guessing: see the run's log"
    return judged(seen, problem, score=row["score"], **run.numbers)
