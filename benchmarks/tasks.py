"""Scores and runs per hour of finetuning on real tasks, beside the usual way.

    python -m benchmarks.tasks --model FOLDER --work_dir FOLDER     a checkpoint with its tokenizer
    python -m benchmarks.tasks --model FOLDER --work_dir FOLDER --tasks sci_cite --rows 500

The usual way runs a process of transformers' Trainer for each seed, one after the other, on all
cores. Ours is a search of all seeds, by one command `main.py --stages finetune`. Both do whole
jobs: start, read, train, predict the dev and the test set. Epochs, batch size, rate and its course,
weight decay, seeds and files are the same; the rest, such as the precision, is each way's own.

For each task, half of the usual runs come before our search and half after it, so that other load
on the machine affects both. Each finished run is a line of runs.jsonl in --work_dir. An interrupted
contest goes on with --resume: the usual way repeats its last run; our search keeps its finished
runs, and its lost time counts. Runs with other settings, model or data are not used. After a change
of the code, take another --work_dir.

The difference is in standard deviations of a run: the root of the mean of both ways' variances.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from math import sqrt
from pathlib import Path
from statistics import mean, stdev, variance

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import SHARED
from benchmarks.task_contest import (
    OURS,
    USUAL,
    WAYS,
    Entry,
    Record,
    enter,
    hold,
    read_records,
    runs_of,
    write_records,
)
from benchmarks.task_data import TASKS
from benchmarks.usual_tasks import Settings

RECORDS = "runs.jsonl"
HEADER = ["task", "metric (dev)", *WAYS, "difference", "runs/hour usual", "ours", "ratio"]
MOST_UNSEEN = 0.001  # share of words that needs no note


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", required=True, type=Path, help="folder of a checkpoint with its tokenizer")
    add("--work_dir", required=True, type=Path, help="for runs, logs and our searches")
    add("--resume", action="store_true", help="keep the finished runs of --work_dir")
    names = ", ".join(TASKS)
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=names)
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    add("--data", type=Path, default=SHARED, help="folder of the tasks' files")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add("--rows", type=int, default=0, help="train on so many, from all over the file; 0: all")
    add("--epochs", type=int, default=3)
    add("--batch_size", type=int, default=16)
    add("--learning_rate", type=float, default=5e-5)
    add("--max_seq_length", type=int, default=128)
    add("--weight_decay", type=float, default=0.1)
    add("--warmup", type=float, default=0.06, help="share of the steps")
    add("--bf16", action="store_true", help="autocast in the usual way; default: fp32")
    add("--pad_to_max_length", action="store_true", help="in the usual way; default: longest row")
    args = parser.parse_args(words)
    if len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds: a seed appears twice")
    return args


def main() -> None:
    args = parse_arguments()
    records = earlier_records(args)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    values = vars(args)
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    folders = (args.model, args.data, args.work_dir)
    entries = [enter(TASKS[name], *folders, settings, args.rows) for name in args.tasks]
    for entry in entries:
        for record in hold(entry, args.work_dir, args.seeds, args.ways, records):
            records.append(record)
            write_records(args.work_dir / RECORDS, records)
            print(news(entry, record), flush=True)
    print("\n" + result_table(entries, records))
    for entry in entries:
        for note in notes(entry, _by_way(entry, records)):
            print(f"{entry.task.name}: {note}")


def earlier_records(args: argparse.Namespace) -> list[Record]:
    """SystemExit if there are some, without --resume."""
    records = read_records(args.work_dir / RECORDS)
    if records and not args.resume:
        raise SystemExit(f"{args.work_dir} has runs; add --resume, or name another --work_dir")
    return records


# --- report -----------------------------------------------------------------------------------


def news(entry: Entry, record: Record) -> str:
    run = record.run
    return (
        f"{entry.task.name}, seed {run.seed}, {record.way}: {entry.task.metric} "
        f"{run.dev[entry.task.metric]:.3f}, {run.steps} steps, {record.wall:.0f} s"
    )


def _by_way(entry: Entry, records: Sequence[Record]) -> dict[str, list[Record]]:
    return {way: list(runs_of(entry, way, records).values()) for way in WAYS}


def result_table(entries: Sequence[Entry], records: Sequence[Record]) -> str:
    """Returns a row per task. Scores x 100: mean ± standard deviation over the seeds."""
    from pipeline.console import table

    return table([HEADER, *(_row(entry, _by_way(entry, records)) for entry in entries)])


def _row(entry: Entry, runs: Mapping[str, Sequence[Record]]) -> list[str]:
    metric = entry.task.metric
    scores = {way: [record.run.dev[metric] for record in runs[way]] for way in WAYS}
    rates = {way: 3600 / mean(r.wall for r in runs[way]) if runs[way] else None for way in WAYS}
    usual, ours = rates[USUAL], rates[OURS]
    return [
        entry.task.name,
        metric,
        *(_mean_and_deviation(scores[way]) for way in WAYS),
        _difference(scores[USUAL], scores[OURS]),
        f"{usual:.2f}" if usual else "",
        f"{ours:.2f}" if ours else "",
        f"{ours / usual:.2f}" if usual and ours else "",
    ]


def _mean_and_deviation(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    deviation = f" ± {100 * stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * mean(scores):.1f}{deviation}"


def _difference(usual: Sequence[float], ours: Sequence[float]) -> str:
    """Returns ours minus usual in standard deviations, e.g. `+0.5 sd`; "" if unknown."""
    if min(len(usual), len(ours)) < 2:
        return ""
    deviation = sqrt((variance(usual) + variance(ours)) / 2)
    return f"{(mean(ours) - mean(usual)) / deviation:+.1f} sd" if deviation else ""


def notes(entry: Entry, runs: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """Yields what the table does not show: unequal work, lost time, words left out."""
    for quantity in ("rows", "steps", "tokens"):
        found = [{getattr(record.run, quantity) for record in runs[way]} for way in WAYS]
        if all(found) and found[0] != found[1]:
            usual, ours = (", ".join(f"{number:,}" for number in sorted(one)) for one in found)
            yield f"trained on {usual} {quantity} in the usual way, {ours} in ours"
    starts = max((record.starts for record in runs[OURS]), default=1)
    if starts > 1:
        yield f"our search was started {starts} times; the time of repeated work counts"
    unseen = [record.run.dev.get("unseen_words", 0.0) for record in runs[USUAL]]
    if unseen and max(unseen) > MOST_UNSEEN:
        seen = mean(record.run.dev["entity_f1_seen"] for record in runs[USUAL])
        yield (
            f"{max(unseen):.1%} of the dev words are cut off in the usual way and count as no "
            f"entity; without them its score is {100 * seen:.1f}"
        )


if __name__ == "__main__":
    main()
