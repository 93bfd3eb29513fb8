"""The differences of two searches, paired by the rows of their dev sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.tasks import Split, Task
from finetune.evaluation.dev_predictions import Classes
from finetune.evaluation.paired import ModelRuns, compare
from finetune.evaluation.resampling import DevSets, Estimate
from pipeline.errors import StageError
from result_collection.predictions.best_runs import read_runs

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Paired:
    """differences: second - first by task. notes: on the differences, and on tasks without."""

    differences: dict[str, Estimate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def differently_scored(first: Report, second: Report) -> set[str]:
    """Returns tasks with different dev data or metrics; old reports do not record them."""
    left, right = (report.get("scored_by", {}) for report in (first, second))
    return {task for task in left.keys() & right.keys() if left[task] != right[task]}


def paired(folders: Sequence[Path], reports: Sequence[Report], names: Sequence[str]) -> Paired:
    """Compares the tasks of two results folders that are scored by the same dev data and metrics.

    names: of the two, for the notes.
    """
    found, others = Paired(), differently_scored(*reports)
    first, second = ([row["task"] for row in report["summary"]["tasks"]] for report in reports)
    for task in (name for name in first if name in second and name not in others):
        try:
            found.differences[task] = _difference(task, folders, reports, names)
        except StageError as error:
            found.notes.append(f"{task}: no interval of the difference, as {error.cause}")
    several = [
        task
        for task in found.differences
        if any(len(report["predictions"][task]["seeds"]) > 1 for report in reports)
    ]
    if several:
        means = "the difference of the means over the seeds; scores are medians"
        found.notes.append(f"{names[1]} - {names[0]} is {means} ({', '.join(several)})")
    return found


def _difference(
    name: str, folders: Sequence[Path], reports: Sequence[Report], names: Sequence[str]
) -> Estimate:
    for report, place in zip(reports, names, strict=True):
        if name not in report.get("predictions", {}):
            raise StageError(f"{place} has no dev predictions of it")
    task = _task(name, reports[0])
    runs = [
        read_runs(folder, task, map(int, report["predictions"][name]["seeds"]))
        for folder, report in zip(folders, reports, strict=True)
    ]
    if "f1" in task.metrics and len({*_labels(runs)}) > 1:
        raise StageError("f1 is that of the second label, and the order of the labels differs")
    first, second = (
        ModelRuns(found, _digests(report, name))
        for found, report in zip(runs, reports, strict=True)
    )
    return compare(task, second, first).score


def _task(name: str, report: Report) -> Task:
    """Returns as much of a task as its scores need."""
    splits = tuple(Split(Path(split).name, ()) for split in report["predictions"][name]["sets"])
    return Task(
        name=name,
        text_columns=(),
        label_column="",
        metrics=tuple(report["scored_by"][name]["metrics"]),
        num_train_rows=0,
        train=Split("train", ()),
        dev=splits,
        test=(),
        benchmark=report["predictions"][name]["benchmark"],
    )


def _digests(report: Report, name: str) -> Mapping[str, str]:
    found = report["scored_by"][name]["dev"]
    return {} if isinstance(found, str) else found  # a dataset on the Hub


def _labels(models: Sequence[Sequence[DevSets]]) -> Iterator[tuple[str, ...]]:
    for runs in models:
        for found in (predictions for run in runs for predictions in run.values()):
            if isinstance(found, Classes):
                yield found.words
