"""Settings of a search that are finetuned per hour, against the usual way of doing it.

    python -m benchmarks.finetune --model FOLDER                  a checkpoint with its tokenizer
    python -m benchmarks.finetune --model FOLDER --tasks RTE --epochs 1 --rounds 2

The usual way is a process per setting, one after the other, that runs transformers' Trainer on all
cores with samples padded to the full length (benchmarks/usual_finetuning.py). Ours are the slots
and jobs of the finetuning stage, a process per core. Both do all of a job: they start, train, and
predict the dev and the test set.

Everything is measured in one run on one machine, in turns: in each round and task the usual way
runs one setting, then each slot runs one, the first of which is the same. Our processes live on
from job to job, as they do in a search; their start counts in the first round.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.stage_runs import PROJECT, SHARED
from finetune.data.tasks import find_task
from finetune.search.grid import Job
from finetune.search.job_folder import InputPaths, JobRun, TrainingSettings
from finetune.search.local_workers import LocalWorkers, plan_slots
from finetune.search.scheduler import run_jobs
from pipeline.console import table

# The paper's, in the order in which rounds take them.
LEARNING_RATES = (5e-5, 8e-5, 3e-5, 1e-5)
BATCH_SIZE, MAX_SEQ_LENGTH, SEED = 16, 128, 42
HEADER = ["way", "jobs", "s per job", "training", "prediction", "rest", "accuracy", "jobs/hour"]


@dataclass(frozen=True)
class Done:
    """A job that has been done. seconds: of the whole job, and of its training and prediction.

    accuracy: on the dev set. num_tokens: that it was trained on, without padding; 0 if unknown.
    """

    job: Job
    seconds: float
    training: float
    prediction: float
    accuracy: float
    num_tokens: int = 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", required=True, type=Path, help="folder of a checkpoint with its tokenizer")
    add("--glue_dir", type=Path, default=SHARED / "glue_data", help="GLUE in its TSV layout")
    add("--tasks", default="RTE,MRPC", help="classification tasks of GLUE with one dev set")
    add("--epochs", type=int, default=3)
    add("--rounds", type=int, default=1, help="each runs one setting per task and way or slot")
    add("--json", type=Path, help="file for all numbers")
    return parser.parse_args()


# --- the usual way ----------------------------------------------------------------------------


def run_usual(job: Job, model: Path, glue_dir: Path) -> Done:
    """A process of its own, from its start to its end."""
    command = [sys.executable, "-m", "benchmarks.usual_finetuning", "--model", str(model)]
    command += ["--task", job.task, "--glue_dir", str(glue_dir), "--epochs", str(job.epochs)]
    command += ["--batch_size", str(job.batch_size), "--learning_rate", str(job.learning_rate)]
    command += ["--seed", str(job.seed), "--max_seq_length", str(MAX_SEQ_LENGTH)]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return Done(job, seconds, **found["seconds"], accuracy=found["accuracy"])


# --- ours -------------------------------------------------------------------------------------


def run_ours(
    workers: LocalWorkers, jobs: list[Job], model: Path, glue_dir: Path, folder: Path
) -> tuple[float, list[Done]]:
    """The jobs in the slots, all at once: seconds until the last one was done, and all of them."""
    left = iter([_job_run(job, model, glue_dir, folder) for job in jobs])
    begin, done = time.perf_counter(), []
    for run, found in run_jobs(workers, timed_job, lambda: next(left, None), print):
        if isinstance(found, Exception):
            raise SystemExit(f"{run.job} failed: {found}")
        done.append(
            Done(
                run.job,
                time.perf_counter() - begin,
                found["training"],
                found["prediction"],
                found["result"]["dev"]["dev"]["accuracy"],
                found["result"]["num_tokens"],
            )
        )
    return time.perf_counter() - begin, sorted(done, key=lambda one: jobs.index(one.job))


def timed_job(run: JobRun) -> dict:
    """Runs in a worker: the job's result, and the seconds of its training and prediction."""
    from unittest.mock import patch

    from finetune.search.worker import run_job
    from finetune.training import device_model, loop

    seconds: Counter[str] = Counter()

    def timed(name, function):
        def call(*args):
            begin = time.perf_counter()
            try:
                return function(*args)
            finally:
                seconds[name] += time.perf_counter() - begin

        return call

    training = patch.object(loop, "train", timed("training", loop.train))
    predict = timed("prediction", device_model.DeviceModel.predict)
    with training, patch.object(device_model.DeviceModel, "predict", predict):
        return {"result": run_job(run), **seconds}


def _job_run(job: Job, model: Path, glue_dir: Path, folder: Path) -> JobRun:
    settings = TrainingSettings(
        epochs=job.epochs,
        batch_size=job.batch_size,
        learning_rate=job.learning_rate,
        seed=job.seed,
        max_seq_length=MAX_SEQ_LENGTH,
        weight_decay=0.1,
        warmup=0.06,
        lr_scheduler_type="polynomial",
        max_grad_norm=1.0,
        eval_batch_size=128,
    )
    place = folder / job.task / job.setting
    paths = InputPaths(str(model), str(model), str(glue_dir))
    return JobRun(job, find_task(job.task), {}, paths, settings, place, place / "job.log")


# --- the limit --------------------------------------------------------------------------------


def measure_peaks(_number: int) -> dict[str, float]:
    """Runs in a worker: FLOP/s of large matrix products, by how they are computed."""
    import torch

    from finetune.training.acceleration import prefers_bf16
    from pretrain.training.flops import matmul_peak

    device = torch.device("cpu")
    peaks = {
        "torch's in fp32": matmul_peak(device, torch.float32, product=torch.matmul),
        "ours in fp32": matmul_peak(device, torch.float32),
    }
    if prefers_bf16():
        peaks["ours in bf16"] = matmul_peak(device, torch.bfloat16, product=torch.matmul)
    return peaks


def flops_per_token(model: Path) -> float:
    """Of training, by the matrix products of the encoder's layers alone."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return 6 * config["num_hidden_layers"] * (4 * hidden**2 + 2 * hidden * inner)


# --- turns and report -------------------------------------------------------------------------


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Prints each turn as it ends, then a table; returns all numbers."""
    slots = plan_slots(0, (), 0, num_jobs=len(LEARNING_RATES))
    usual: dict[str, list[Done]] = {task: [] for task in args.tasks.split(",")}
    ours: dict[str, list[tuple[float, list[Done]]]] = {task: [] for task in usual}
    with LocalWorkers(slots) as workers:
        for number in range(args.rounds):
            for task in usual:
                jobs = list(_jobs(task, args.epochs, number, len(slots)))
                usual[task].append(run_usual(jobs[0], args.model, args.glue_dir))
                turn = run_ours(workers, jobs, args.model, args.glue_dir, folder / str(number))
                ours[task].append(turn)
                _say_turn(usual[task][-1], *turn)
        numbers = iter(range(len(slots)))
        peaks = [p for _, p in run_jobs(workers, measure_peaks, lambda: next(numbers, None), print)]
    for task in usual:
        report(task, usual[task], ours[task])
    rates = _rates(usual, ours)
    print(
        f"\nall tasks: usual {rates['usual']:.1f}, ours {rates['ours']:.1f} jobs per hour, "
        f"{rates['ours'] / rates['usual']:.2f} times as many"
    )
    return {"rates": rates, "peaks": peaks, "limit": _report_limit(args.model, ours, peaks)} | {
        task: {
            "usual": [asdict(done) for done in usual[task]],
            "ours": [[wall, [asdict(done) for done in turn]] for wall, turn in ours[task]],
        }
        for task in usual
    }


def _jobs(task: str, epochs: int, number: int, count: int) -> Iterator[Job]:
    for i in range(count):
        rate = LEARNING_RATES[(number + i) % len(LEARNING_RATES)]
        yield Job(task, epochs, BATCH_SIZE, rate, SEED + (number + i) // len(LEARNING_RATES))


def _say_turn(usual: Done, wall: float, ours: list[Done]) -> None:
    print(
        f"{usual.job}: usual {usual.seconds:.0f} s for one job, ours {wall:.0f} s for {len(ours)}; "
        f"accuracy {usual.accuracy:.3f} and {ours[0].accuracy:.3f}",
        flush=True,
    )


def _rates(
    usual: dict[str, list[Done]], ours: dict[str, list[tuple[float, list[Done]]]]
) -> dict[str, float]:
    """Jobs per hour of a mix with as many jobs of each task."""
    walls = [mean(done.seconds for done in usual[task]) for task in usual]
    ours_walls = [_seconds_per_job(ours[task]) for task in ours]
    return {"usual": 3600 / mean(walls), "ours": 3600 / mean(ours_walls)}


def _seconds_per_job(turns: list[tuple[float, list[Done]]]) -> float:
    return sum(wall for wall, _ in turns) / sum(len(done) for _, done in turns)


def report(task: str, usual: list[Done], ours: list[tuple[float, list[Done]]]) -> None:
    """accuracy: of the settings that both have run. rest: start, loading, tokenizing, metrics."""
    done = [one for _, turn in ours for one in turn]
    same = [turn[0] for _, turn in ours]
    rows = [
        _row("usual", usual, mean(one.seconds for one in usual), usual),
        _row("ours", done, _seconds_per_job(ours), same),
    ]
    print(f"\n{task}, seconds of a job within its process, and per job when all work\n")
    print(table([HEADER, *rows]))


def _row(name: str, jobs: list[Done], per_job: float, same: list[Done]) -> list[str]:
    training, prediction = (
        mean(getattr(j, part) for j in jobs) for part in ("training", "prediction")
    )
    rest = mean(job.seconds for job in jobs) - training - prediction
    return [
        name,
        str(len(jobs)),
        f"{per_job:.1f}",
        *(f"{seconds:.1f}" for seconds in (training, prediction, rest)),
        f"{mean(job.accuracy for job in same):.3f}",
        f"{3600 / per_job:.1f}",
    ]


def _report_limit(
    model: Path, ours: dict[str, list[tuple[float, list[Done]]]], peaks: list[dict[str, float]]
) -> dict[str, float]:
    """How fast our training multiplies, against the fastest that each process could."""
    done = [one for turns in ours.values() for _, turn in turns for one in turn]
    tokens, seconds = sum(one.num_tokens for one in done), sum(one.training for one in done)
    speed = flops_per_token(model) * tokens / seconds
    shares = {name: speed / mean(peak[name] for peak in peaks) for name in peaks[0]}
    listed = ", ".join(
        f"{share:.0%} of {name} ({speed / share / 1e9:,.0f})" for name, share in shares.items()
    )
    print(
        f"\nour training computes {speed / 1e9:,.0f} GFLOP/s per process in layers of real tokens: "
        f"{listed}"
    )
    return {"flops_per_second": speed, **shares}


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        results = measure(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
