"""Sections stage, memory and finetuning: main.py in a child process, as users run it."""

import gc
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.gpu_check.bench import DATASET_ID, Bench, child_environment, main_command
from benchmarks.gpu_check.outcome import Check, Outcome, failed, judged, passed, skipped
from benchmarks.gpu_check.speed import engine_args, new_engine, peak_memory
from benchmarks.harness import PROJECT, SHARED
from benchmarks.sizes import Size
from pipeline.store.record_files import read_json
from pretrain.engine.distributed import start_ranks
from pretrain.engine.memory_limits import FILE as MICRO_BATCH
from pretrain.loop import METRICS
from pretrain.training.metrics_file import read_metrics

INTERRUPTED = 130  # exit code of main.py
LEAST_MEMORY = 100e6  # bytes that a rank takes on a GPU, by CUDA's context alone
FALL = 0.2  # nats; the loss begins near 10
FREE_BYTES = 6e9  # that section memory leaves
OVERFILL = 1.5  # what its micro batch needs of that; half of it fits
MEMORY_STEPS = 6
GLUE = SHARED / "glue_data"


# --- main.py -----------------------------------------------------------------------------------


def pretrain_directory(bench: Bench, name: str) -> Path:
    return bench.folder / "saved_models" / "pretrain" / DATASET_ID / name


def run_config(bench: Bench, name: str, size: Size, **pretrain: Any) -> Path:
    """A config for main.py; pretrain: keys of PRETRAIN."""
    config = json.loads((bench.dataset.parents[1] / "config.yaml").read_text())
    config |= {
        "SYSTEM": {"NUM_GPUS": int(bench.on_gpu)},
        "MODEL": {
            "NUM_HIDDEN_LAYERS": size.layers,
            "HIDDEN_SIZE": size.hidden,
            "NUM_ATTENTION_HEADS": size.heads,
            "INTERMEDIATE_SIZE": 4 * size.hidden,
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


@dataclass(frozen=True)
class MainRun:
    """What came of main.py. gpu_bytes: most that was taken on the GPU while it trained."""

    code: int
    output: str
    seconds: float
    gpu_bytes: float

    @property
    def last_words(self) -> str:
        lines = self.output.strip().splitlines()
        return " | ".join(lines[-4:])


def run_main(
    bench: Bench,
    config: Path,
    stage: str,
    trains: Callable[[], bool],
    ends: Callable[[], bool] = lambda: False,
) -> MainRun:
    """Runs a stage of main.py to its end, or has SIGTERM end it.

    trains: whether it has begun to; before that, it takes the GPU just to ask whether it works.
    ends: whether it is to get SIGTERM.
    """
    output, begin = config.with_suffix(".out"), time.perf_counter()
    before = taken = _taken(bench)
    with open(output, "wb") as file:
        process = subprocess.Popen(
            main_command(config, bench.folder, stage),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            cwd=PROJECT,
        )
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if trains():
                    taken = max(taken, _taken(bench))
                if ends():
                    process.send_signal(signal.SIGTERM)
                    process.wait(max(1.0, bench.seconds_left))
        finally:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - begin
    return MainRun(process.returncode, output.read_text(errors="replace"), seconds, taken - before)


def _taken(bench: Bench) -> float:
    """Bytes on the GPU that are not free, of all processes."""
    if not bench.on_gpu:
        return 0.0
    free, total = torch.cuda.mem_get_info(bench.device)
    return float(total - free)


def _last_step(metrics: Path) -> int:
    return max((line["step"] for line in training_lines(metrics)), default=0)


def has_trained(metrics: Path) -> Callable[[], bool]:
    """Whether a run has gone on since now."""
    before = _last_step(metrics)
    return lambda: _last_step(metrics) > before


def training_lines(metrics: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(metrics) if line["kind"] == "train"]


def device_problem(bench: Bench, run: MainRun) -> str:
    """Words for a run that has left the GPU alone."""
    if bench.on_gpu and run.gpu_bytes < LEAST_MEMORY:
        return f"it took {run.gpu_bytes / 1e6:.0f} MB on the GPU: it ran on the CPU"
    return ""


# --- section stage -----------------------------------------------------------------------------


def stage_checks(bench: Bench) -> Iterator[Check]:
    yield "dataset", partial(check_dataset, bench)
    yield "interrupt", partial(check_interrupt, bench)
    yield "resume", partial(check_resume, bench)


def check_dataset(bench: Bench) -> Outcome:
    """The dataset stage, on text and a vocabulary that are made here."""
    begin, dataset = time.perf_counter(), bench.dataset
    return passed(f"{dataset.name} in {time.perf_counter() - begin:.0f} s")


def _stage_run(bench: Bench) -> tuple[Path, Path]:
    """Config and metrics of the run that is interrupted, resumed, and finetuned afterwards."""
    scale = bench.scale
    config = run_config(
        bench,
        "stage",
        scale.stage_model,
        NUM_STEPS=scale.stage_steps,
        BATCH_SIZE=scale.stage_batch,
        MICRO_BATCH_SIZE=scale.stage_batch // 2,
    )
    return config, pretrain_directory(bench, "stage") / METRICS


def check_interrupt(bench: Bench) -> Outcome:
    """SIGTERM ends a run that trains on the GPU, with a checkpoint."""
    config, metrics = _stage_run(bench)
    at = bench.scale.stage_steps // 10
    run = run_main(
        bench, config, "pretrain", has_trained(metrics), lambda: _last_step(metrics) >= at
    )
    lines = training_lines(metrics)
    saved = sorted(metrics.with_name("checkpoints").glob("*/"))
    seen = f"exit code {run.code} after {len(lines)} steps and {run.seconds:.0f} s"
    numbers = {"gpu_mb": run.gpu_bytes / 1e6, "seconds": run.seconds, "output": run.output[-2000:]}
    if run.code != INTERRUPTED:
        return failed(f"{seen}: {run.last_words}", f"expected {INTERRUPTED}", **numbers)
    if not saved:
        return failed(seen, "no checkpoint was saved", **numbers)
    return judged(f"{seen}, saved {saved[-1].name}", device_problem(bench, run), **numbers)


def check_resume(bench: Bench) -> Outcome:
    """The same command goes on from there, the loss falls, and the model is written."""
    config, metrics = _stage_run(bench)
    before = training_lines(metrics)
    run = run_main(bench, config, "pretrain", has_trained(metrics))
    lines = training_lines(metrics)
    if run.code or not lines:
        return failed(f"exit code {run.code}: {run.last_words}", "see the log", output=run.output)
    kept = sum(old == new for old, new in zip(before, lines, strict=False))
    losses = [line["loss"] for line in lines]
    first, last = mean(losses[:5]), mean(losses[-5:])
    speeds = [line["samples_per_second"] for line in lines[kept + 5 :]]
    numbers = {
        "steps": len(lines),
        "kept": kept,
        "first_loss": first,
        "last_loss": last,
        "samples_per_second": mean(speeds) if speeds else 0.0,
        "seconds": run.seconds,
        "gpu_mb": run.gpu_bytes / 1e6,
    }
    seen = (
        f"resumed after step {kept}, loss {first:.2f} -> {last:.2f} in {len(lines)} steps, "
        f"{numbers['samples_per_second']:,.0f} samples/s, {run.seconds:.0f} s"
    )
    problems = [device_problem(bench, run)]
    if not kept:
        problems.append("it began anew")
    if [line["step"] for line in lines] != list(range(1, bench.scale.stage_steps + 1)):
        problems.append("steps are missing in metrics.jsonl, or there twice")
    if not last < first - FALL:
        problems.append("the loss did not fall")
    return judged(seen, "; ".join(filter(None, problems)), **numbers)


# --- section memory ----------------------------------------------------------------------------


def memory_checks(bench: Bench) -> Iterator[Check]:
    yield "halving", partial(check_halving, bench)


def check_halving(bench: Bench) -> Outcome:
    """A micro batch that does not fit is halved, and the run goes on by itself."""
    if not bench.on_gpu:
        return skipped("needs a GPU's memory")
    start_ranks()
    micro = _too_large(bench)
    gc.collect()
    torch.cuda.empty_cache()
    taken = torch.empty(
        max(0, int(torch.cuda.mem_get_info(bench.device)[0] - FREE_BYTES)),
        dtype=torch.uint8,
        device=bench.device,
    )
    config = run_config(
        bench,
        "memory",
        bench.scale.stage_model,
        NUM_STEPS=MEMORY_STEPS,
        BATCH_SIZE=micro,
        MICRO_BATCH_SIZE=micro,
        DO_VALIDATION=False,
    )
    directory = pretrain_directory(bench, "memory")
    run = run_main(bench, config, "pretrain", has_trained(directory / METRICS))
    del taken
    return judge_halving(directory, micro, run)


def judge_halving(directory: Path, asked: int, run: MainRun) -> Outcome:
    """directory: of the model, with what it remembers of micro batches."""
    record = read_json(directory / MICRO_BATCH) or {}
    limit, steps = record.get("limit", 0), _last_step(directory / METRICS)
    numbers = {"asked": asked, "limit": limit, "steps": steps, "output": run.output[-3000:]}
    seen = f"micro batch {asked} -> {limit}, {steps} steps, {run.seconds:.0f} s"
    if run.code or steps != MEMORY_STEPS:
        return failed(f"{seen}; exit code {run.code}: {run.last_words}", "see output", **numbers)
    if not 0 < limit < asked:
        return failed(seen, "all of it fitted: the estimate of its memory was too low", **numbers)
    return passed(seen, **numbers)


def _too_large(bench: Bench) -> int:
    """An even micro batch that needs OVERFILL times the memory that is left."""
    engine = new_engine(bench, engine_args(bench, bench.scale.stage_model))
    few, many = (peak_memory(bench, engine, size) for size in (64, 128))
    per_sample = max(1.0, (many - few) / 64)
    return 2 * int(OVERFILL * FREE_BYTES / per_sample / 2)


# --- section finetuning ------------------------------------------------------------------------


def finetuning_checks(bench: Bench) -> Iterator[Check]:
    yield "MRPC", partial(check_mrpc, bench)


def _tells_loss(log: Path) -> bool:
    return ": loss " in log.read_text(errors="replace")


def check_mrpc(bench: Bench) -> Outcome:
    """MRPC, from the model of section stage; the demo data where GLUE's is not at hand."""
    config, metrics = _stage_run(bench)
    if not (metrics.parent / "model" / "config.json").exists():
        made = run_main(bench, config, "pretrain", has_trained(metrics))
        if made.code:
            return failed(f"no model to finetune: {made.last_words}", "see section stage")
    logs = bench.folder / "log" / "finetune"
    run = run_main(bench, config, "finetune", lambda: any(map(_tells_loss, logs.rglob("*.log"))))
    summaries = sorted(bench.folder.glob("output/finetune/**/summary.json"))
    if run.code or not summaries:
        return failed(f"exit code {run.code}: {run.last_words}", "see output", output=run.output)
    [row] = read_json(summaries[-1])["runs"]
    data = "the shared MRPC" if GLUE.is_dir() else "the demo MRPC"
    seen = f"{data}: score {row['score']:.3f} in {run.seconds:.0f} s"
    numbers = {"score": row["score"], "seconds": run.seconds, "gpu_mb": run.gpu_bytes / 1e6}
    problem = device_problem(bench, run)
    if not row["score"] >= 0.5:  # both labels' guesses are better
        problem = problem or "worse than guessing: see the run's log"
    return judged(seen, problem, **numbers)
