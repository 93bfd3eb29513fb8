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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import SHARED, run_alone, write_numbers
from benchmarks.usual_finetuning import finetune_usually

if TYPE_CHECKING:
    from finetune.search.grid import Job
    from finetune.search.job_folder import JobRun
    from finetune.search.local_workers import LocalWorkers

LEARNING_RATES = (5e-5, 8e-5, 3e-5, 1e-5)  # of the paper, in the order of the rounds
BATCH_SIZE, MAX_SEQ_LENGTH, SEED = 16, 128, 42
HEADER = ["way", "jobs", "s per job", "jobs/hour", "accuracy"]


@dataclass(frozen=True)
class Turn:
    """Jobs run together. wall: seconds until the last one ends; accuracy: of the first job, on its
    dev set."""

    num_jobs: int
    wall: float
    accuracy: float


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
    arguments = (job, model, glue_dir, MAX_SEQ_LENGTH)
    accuracy, wall = run_alone(log, finetune_usually, *arguments)
    return Turn(1, wall, accuracy)


def run_ours(
    workers: "LocalWorkers", jobs: Sequence["Job"], model: Path, glue_dir: Path, folder: Path
) -> Turn:
    """Runs the jobs in the slots, all at once. SystemExit if one fails."""
    from finetune.search.scheduler import run_jobs
    from finetune.search.worker import run_job

    left = iter([_job_run(job, model, glue_dir, folder) for job in jobs])
    begin, accuracy = time.perf_counter(), {}
    for run, found in run_jobs(workers, run_job, lambda: next(left, None), print):
        if isinstance(found, Exception):
            raise SystemExit(f"{run.job} failed: {found}")
        accuracy[run.job] = found["dev"]["dev"]["accuracy"]
    return Turn(len(jobs), time.perf_counter() - begin, accuracy[jobs[0]])


def _job_run(job: "Job", model: Path, glue_dir: Path, folder: Path) -> "JobRun":
    from finetune.data.tasks import find_task
    from finetune.search.job_folder import InputPaths, JobRun, TrainingSettings

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


# --- turns and report -------------------------------------------------------------------------


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prints each turn as it ends, then a table; returns all numbers."""
    from finetune.search.local_workers import LocalWorkers, plan_slots

    slots = plan_slots(0, (), 0, num_jobs=len(LEARNING_RATES))
    turns: dict[str, dict[str, list[Turn]]] = {
        task: {"usual": [], "ours": []} for task in args.tasks.split(",")
    }
    with LocalWorkers(slots) as workers:
        for number in range(args.rounds):
            for task, ways in turns.items():
                jobs = list(_jobs(task, args.epochs, number, len(slots)))
                usual = run_usual(jobs[0], args.model, args.glue_dir, folder / "usual.log")
                ours = run_ours(workers, jobs, args.model, args.glue_dir, folder / str(number))
                ways["usual"].append(usual)
                ways["ours"].append(ours)
                print(
                    f"{jobs[0]}: usual {usual.wall:.0f} s for one job, ours {ours.wall:.0f} s for "
                    f"{len(jobs)}; accuracy {usual.accuracy:.3f} and {ours.accuracy:.3f}",
                    flush=True,
                )
    for task, ways in turns.items():
        print_table(task, ways)
    rates = jobs_per_hour(list(turns.values()))
    print(
        f"\nall tasks: usual {rates['usual']:.1f}, ours {rates['ours']:.1f} jobs per hour, "
        f"{rates['ours'] / rates['usual']:.2f} times as many"
    )
    return {"rates": rates, **turns}


def _jobs(task: str, epochs: int, number: int, count: int) -> Iterator["Job"]:
    from finetune.search.grid import Job

    for i in range(number, number + count):
        rate = LEARNING_RATES[i % len(LEARNING_RATES)]
        yield Job(task, epochs, BATCH_SIZE, rate, SEED + i // len(LEARNING_RATES))


def jobs_per_hour(tasks: Sequence[Mapping[str, Sequence[Turn]]]) -> dict[str, float]:
    """Returns the rate of each way in a mix with as many jobs of each task."""
    return {
        way: 3600 / mean(_seconds_per_job(ways[way]) for ways in tasks) for way in ("usual", "ours")
    }


def _seconds_per_job(turns: Sequence[Turn]) -> float:
    return sum(turn.wall for turn in turns) / sum(turn.num_jobs for turn in turns)


def print_table(task: str, ways: Mapping[str, Sequence[Turn]]) -> None:
    """Prints a row per way. accuracy: of the settings that both have run."""
    from pipeline.console import table

    rows = [HEADER]
    for way, turns in ways.items():
        seconds, num_jobs = _seconds_per_job(turns), sum(turn.num_jobs for turn in turns)
        accuracy = mean(turn.accuracy for turn in turns)
        rates = [f"{seconds:.1f}", f"{3600 / seconds:.1f}"]
        rows.append([way, str(num_jobs), *rates, f"{accuracy:.3f}"])
    print(f"\n{task}\n\n{table(rows)}")


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        results = measure(args, Path(folder))
    write_numbers(args.json, results)


if __name__ == "__main__":
    main()
