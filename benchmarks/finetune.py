"""Finetuned settings of a search per hour, beside the usual way.

    python -m benchmarks.finetune --model FOLDER                  a checkpoint with its tokenizer
    python -m benchmarks.finetune --model FOLDER --tasks RTE --epochs 1 --rounds 2

The usual way runs one process per setting, one after the other: transformers' Trainer on all cores,
with samples padded to the full length. Ours uses the slots and jobs of the finetuning stage, a
process per core. Both do a whole job: start, train, predict the dev and the test set. The settings
of a real run (allocator, threads) apply to both.

They take turns: in each round and task the usual way runs one setting, then each slot runs one,
starting with the same. Our processes stay alive between jobs, as in a search; their start counts in
the first round.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import SHARED, Contestant, Ended, write_numbers
from benchmarks.usual_finetuning import finetune_usually

if TYPE_CHECKING:
    from finetune.search.grid import Job
    from finetune.search.job_folder import JobRun
    from finetune.search.local_workers import SlotWorkers

LEARNING_RATES = (5e-5, 8e-5, 3e-5, 1e-5)  # of the paper, in the order of the rounds
BATCH_SIZE, MAX_SEQ_LENGTH, SEED = 16, 128, 42
HEADER = ["way", "jobs", "s per job", "training", "prediction", "rest", "accuracy", "jobs/hour"]


@dataclass(frozen=True)
class Done:
    """A finished job. seconds: of the whole job, with its training and prediction; accuracy: on the
    dev set; num_tokens: trained on, without padding (0: unknown)."""

    job: "Job"
    seconds: float
    training: float
    prediction: float
    accuracy: float
    num_tokens: int = 0


@dataclass(frozen=True)
class Turn:
    """Jobs that ran at the same time. wall: seconds until the last one ended."""

    wall: float
    jobs: Sequence[Done]


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


# --- both ways --------------------------------------------------------------------------------


def run_usual(job: "Job", model: Path, glue_dir: Path, log: Path) -> Turn:
    """Runs a job in a new process. SystemExit with the end of its log if it fails."""
    begin = time.perf_counter()
    process = Contestant(finetune_usually, job, model, glue_dir, MAX_SEQ_LENGTH, log=log)
    try:
        found = process.await_report()
        process.finish()
    except Ended as error:
        raise SystemExit(f"{job}: {error}: {log.read_text()[-3000:]}") from error
    seconds = time.perf_counter() - begin
    return Turn(seconds, [Done(job, seconds, **found)])


def run_ours(
    workers: "SlotWorkers", jobs: Sequence["Job"], model: Path, glue_dir: Path, folder: Path
) -> Turn:
    """Runs the jobs in the slots, all at once. SystemExit if one fails."""
    from finetune.search.scheduler import run_jobs

    left = iter([_job_run(job, model, glue_dir, folder) for job in jobs])
    begin, done = time.perf_counter(), []
    for run, found in run_jobs(workers, timed_job, lambda: next(left, None), print):
        if isinstance(found, Exception):
            raise SystemExit(f"{run.job} failed: {found}")
        done.append(Done(run.job, time.perf_counter() - begin, **found))
    return Turn(time.perf_counter() - begin, sorted(done, key=lambda one: jobs.index(one.job)))


def timed_job(run: "JobRun") -> dict[str, Any]:
    """Runs in a worker; returns the fields of Done, except the job and its seconds."""
    from unittest.mock import patch

    from benchmarks.harness import StepClock
    from finetune.search.worker import run_job
    from finetune.training import device_model, loop

    clock = StepClock(time.perf_counter)
    training = patch.object(loop, "train", clock.timed("training", loop.train))
    predict = clock.timed("prediction", device_model.Runner.predict)
    with training, patch.object(device_model.Runner, "predict", predict):
        result = run_job(run)
    accuracy = result["dev"]["dev"]["accuracy"]
    return {**clock, "accuracy": accuracy, "num_tokens": result["num_tokens"]}


def _job_run(job: "Job", model: Path, glue_dir: Path, folder: Path) -> "JobRun":
    from finetune.data.tasks import find_task
    from finetune.search.job_folder import JobRun, Source, TrainingSettings

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
    source = Source(str(model), str(model), str(glue_dir))
    return JobRun(job, find_task(job.task), {}, source, settings, place, place / "job.log")


# --- the limit --------------------------------------------------------------------------------


def measure_peaks(_number: int) -> dict[str, float]:
    """Runs in a worker; returns FLOP/s of large matrix products by kernel and precision."""
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
    """Returns the FLOPs of training, for the matrix products of the encoder's layers."""
    from pipeline.store.record_files import read_json

    config = read_json(model / "config.json") or {}
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return 6 * config["num_hidden_layers"] * (4 * hidden**2 + 2 * hidden * inner)


def _report_limit(
    model: Path, turns: Sequence[Turn], peaks: Sequence[dict[str, float]]
) -> dict[str, float]:
    """Prints and returns the speed of our training, and its shares of the peaks."""
    done = [one for turn in turns for one in turn.jobs]
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


# --- turns and report -------------------------------------------------------------------------


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prints each turn as it ends, then a table; returns all numbers."""
    from finetune.search.local_workers import plan_slots, slot_workers
    from finetune.search.scheduler import run_jobs

    slots = plan_slots(0, (), 0, num_jobs=len(LEARNING_RATES))
    turns: dict[str, dict[str, list[Turn]]] = {
        task: {"usual": [], "ours": []} for task in args.tasks.split(",")
    }
    with slot_workers(slots) as workers:
        for number in range(args.rounds):
            for task, ways in turns.items():
                jobs = list(_jobs(task, args.epochs, number, len(slots)))
                usual = run_usual(jobs[0], args.model, args.glue_dir, folder / "usual.log")
                ours = run_ours(workers, jobs, args.model, args.glue_dir, folder / str(number))
                ways["usual"].append(usual)
                ways["ours"].append(ours)
                print(
                    f"{jobs[0]}: usual {usual.wall:.0f} s for one job, ours {ours.wall:.0f} s for "
                    f"{len(jobs)}; accuracy {usual.jobs[0].accuracy:.3f} and "
                    f"{ours.jobs[0].accuracy:.3f}",
                    flush=True,
                )
        numbers = iter(range(len(slots)))
        peaks = [p for _, p in run_jobs(workers, measure_peaks, lambda: next(numbers, None), print)]
    for task, ways in turns.items():
        print_table(task, ways)
    rates = jobs_per_hour(turns.values())
    print(
        f"\nall tasks: usual {rates['usual']:.1f}, ours {rates['ours']:.1f} jobs per hour, "
        f"{rates['ours'] / rates['usual']:.2f} times as many"
    )
    ours = [turn for ways in turns.values() for turn in ways["ours"]]
    limit = _report_limit(args.model, ours, peaks)
    found = {
        task: {way: [asdict(turn) for turn in done] for way, done in ways.items()}
        for task, ways in turns.items()
    }
    return {"rates": rates, "peaks": peaks, "limit": limit, **found}


def _jobs(task: str, epochs: int, number: int, count: int) -> Iterator["Job"]:
    from finetune.search.grid import Job

    for i in range(number, number + count):
        rate = LEARNING_RATES[i % len(LEARNING_RATES)]
        yield Job(task, epochs, BATCH_SIZE, rate, SEED + i // len(LEARNING_RATES))


def jobs_per_hour(turns: Iterable[Mapping[str, Sequence[Turn]]]) -> dict[str, float]:
    """Returns the rate of each way in a mix with as many jobs of each task."""
    tasks = list(turns)
    return {
        way: 3600 / mean(_seconds_per_job(ways[way]) for ways in tasks) for way in ("usual", "ours")
    }


def _seconds_per_job(turns: Sequence[Turn]) -> float:
    return sum(turn.wall for turn in turns) / sum(len(turn.jobs) for turn in turns)


def print_table(task: str, ways: Mapping[str, Sequence[Turn]]) -> None:
    """Prints a row per way. accuracy: of the settings that both have run."""
    from pipeline.console import table

    rows = [HEADER]
    for way, turns in ways.items():
        jobs, per_job = [job for turn in turns for job in turn.jobs], _seconds_per_job(turns)
        training, prediction = (
            mean(getattr(j, p) for j in jobs) for p in ("training", "prediction")
        )
        rest = mean(job.seconds for job in jobs) - training - prediction
        seconds = (f"{value:.1f}" for value in (per_job, training, prediction, rest))
        accuracy = mean(turn.jobs[0].accuracy for turn in turns)
        rows.append([way, str(len(jobs)), *seconds, f"{accuracy:.3f}", f"{3600 / per_job:.1f}"])
    print(f"\n{task}: seconds per job of all processes together, then within the job's process\n")
    print(table(rows))


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        results = measure(args, Path(folder))
    write_numbers(args.json, results)


if __name__ == "__main__":
    main()
