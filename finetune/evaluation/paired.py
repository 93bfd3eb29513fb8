"""Compares two models on the same dev rows.

The resamples of both models draw the same rows, so what makes a row hard for both does not count
as difference (the paired bootstrap: Koehn, EMNLP 2004, W04-3250; Berg-Kirkpatrick et al., EMNLP
2012, D12-1091). The seeds of both are independent. A difference is more than chance if its 95 %
interval excludes 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.data.tasks import Task
from finetune.evaluation.resampling import DevSets, Estimate, TaskEstimates, estimates_of_models
from pipeline.errors import StageError


@dataclass(frozen=True)
class ModelRuns:
    """A model's runs of a setting on a task.

    runs: the dev predictions of each seed. digests: of the dev files, by split, as in
    `finetune.data.task_data.task_inputs`.
    """

    runs: Sequence[DevSets]
    digests: Mapping[str, str]


def compare(task: Task, first: ModelRuns, second: ModelRuns) -> TaskEstimates:
    """Returns the differences first - second of the score and of each metric.

    Raises StageError unless the dev data of both are the same.
    """
    for split in task.dev:
        if first.digests.get(split.name) != second.digests.get(split.name):
            raise StageError(
                f"{task.name}, {split.name}: the two models were scored on different dev data; "
                "run both searches with the same files"
            )
    mine, theirs = estimates_of_models(task, [first.runs, second.runs])
    differences = {
        split: {name: found.minus(theirs.metrics[split][name]) for name, found in metrics.items()}
        for split, metrics in mine.metrics.items()
    }
    return TaskEstimates(mine.score.minus(theirs.score), differences)


def is_more_than_chance(difference: Estimate) -> bool:
    low, high = difference.interval
    return low > 0 or high < 0
