"""How far a score would vary with other dev rows and other seeds of finetuning.

**Rows.** The percentile bootstrap: a resample draws as many units as there are, with replacement,
and the interval is from the 2.5th to the 97.5th percentile of the metric over RESAMPLES resamples
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). If nearly all
predictions are right, resampling alone knows too few mistakes, or none: a model that is right in
98 % of all cases makes no mistake in 36 of 100 dev sets of 50 rows, and then no bootstrap, BCa
neither, gives its interval a width. Resamples therefore have two more rows on average, right or
wrong by the toss of a coin, in the manner of Agresti and Coull (The American Statistician 52, 1998)
and, for pairs, Agresti and Min (Statistics in Medicine 24, 2005). With 1,000 rows they change
hardly anything.

**Seeds.** Of several runs of a setting, the score is the mean over their seeds. Resampling rows and
seeds together (the multi-bootstrap of Sellam et al., arXiv 2106.16163, section 3) is right for many
seeds. Of S = 2 or 3, it shows only (S - 1) / S of their variance, and counts the noise of the
single predictions up to three times (Owen, The Annals of Applied Statistics 1, 2007, "The
pigeonhole bootstrap"). Here, all seeds share the resampled rows, and the mean gets an error of
Student's t with S - 1 degrees of freedom, scaled by the standard deviation between seeds, less
the part of it that comes from the rows. This tells nothing about other runs of the pretraining.
With one seed, the interval is about the rows alone. With two, it is often very wide.

`python3 -m benchmarks.score_intervals` measures the share of intervals that cover the truth;
docs/lab/score_intervals.md has its numbers.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from finetune.data.tasks import Split, Task
from finetune.evaluation.dev_predictions import DevPredictions, in_order_of
from finetune.evaluation.row_metrics import DOUBTS, SEED, SIGNED, RowMetric, row_metrics

RESAMPLES = 1000
LEVEL = 0.95
MEAN_DOUBTS = 2  # per resample
CHUNK = 4_000_000  # weights in memory at once, 32 MB
DevSets = Mapping[str, DevPredictions]  # by the split's name


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its values in the RESAMPLES resamples."""

    value: float
    resamples: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """Returns the ends of the 95 % interval, rounded to 6 decimals; includes the value."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.resamples, [tail, 1 - tail])
        # The last digits of sums differ between processors.
        return round(min(float(low), self.value), 6), round(max(float(high), self.value), 6)

    def minus(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resamples - other.resamples)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean of estimates, of several tasks say."""
    resamples = np.mean([estimate.resamples for estimate in estimates], axis=0)
    return Estimate(mean(estimate.value for estimate in estimates), resamples)


@dataclass(frozen=True)
class TaskEstimates:
    """score: the mean over metrics and dev sets. metrics: by dev set and name."""

    score: Estimate
    metrics: dict[str, dict[str, Estimate]]


def estimates(task: Task, runs: Sequence[DevSets]) -> TaskEstimates:
    """Returns a setting's score and metrics, as means over its runs with other seeds.

    runs: the predictions of each on the task's dev sets. The result depends only on the arguments.
    Raises StageError if the runs have different rows.
    """
    return estimates_of_models(task, [runs])[0]


def estimates_of_models(task: Task, models: Sequence[Sequence[DevSets]]) -> list[TaskEstimates]:
    """Returns the estimates of each model from its runs, in the same resamples of the rows.

    Raises StageError if the runs have different rows.
    """
    runs = [run for model in models for run in model]
    runs = [runs[0], *(_aligned(task, runs[0], run) for run in runs[1:])]
    found = {
        (split.name, name): values
        for split in task.dev
        for name, values in _of_runs(task, split, [run[split.name] for run in runs]).items()
    }
    ends = np.cumsum([len(model) for model in models])
    return [
        _of_model(task, found, slice(end - len(model), end), f"model {number} on {task.name}")
        for number, (model, end) in enumerate(zip(models, ends, strict=True))
    ]


def _aligned(task: Task, first: DevSets, other: DevSets) -> DevSets:
    names = [split.name for split in task.dev]
    return {name: in_order_of(first[name], other[name], f"{task.name}, {name}") for name in names}


# The values of runs [S], and in the resamples [S, RESAMPLES].
Values = tuple[np.ndarray, np.ndarray]


def _of_runs(task: Task, split: Split, runs: Sequence[DevPredictions]) -> dict[str, Values]:
    """Returns the values of each metric."""
    found = [row_metrics(task.metrics, run, number) for number, run in enumerate(runs)]
    flat = [metric for metrics in found for metric in metrics.values()]
    drawn = resampled(flat, f"{task.benchmark} {task.name} {split.name}")
    return {
        name: (np.array([metrics[name].value for metrics in found]), drawn[i :: len(task.metrics)])
        for i, name in enumerate(task.metrics)
    }


def _of_model(
    task: Task, found: Mapping[tuple[str, str], Values], runs: slice, model: str
) -> TaskEstimates:
    """found: the values of all runs by dev set and metric. runs: those of the model."""

    def of(keys: Sequence[tuple[str, str]]) -> Estimate:
        points = np.mean([found[key][0][runs] for key in keys], axis=0)
        resamples = np.mean([found[key][1][runs] for key in keys], axis=0)
        lowest = mean(-1.0 if name in SIGNED else 0.0 for _, name in keys)
        return over_seeds(points, resamples, model, lowest)

    metrics = {
        split.name: {name: of([(split.name, name)]) for name in task.metrics} for split in task.dev
    }
    return TaskEstimates(of(list(found)), metrics)


def resampled(metrics: Sequence[RowMetric], name: str) -> np.ndarray:
    """Returns the metrics' values [metrics, RESAMPLES] in the same resamples of their units.

    name: of the dev set; the draws of other names are independent.
    """
    rng = _generator(f"rows of {name}")
    num_units = metrics[0].num_units
    values = []
    done, most = 0, max(1, CHUNK // (num_units + DOUBTS))
    while done < RESAMPLES:
        weights = _weights(rng, min(most, RESAMPLES - done), num_units)
        values.append([metric.of(weights) for metric in metrics])
        done += len(weights)
    return np.concatenate(values, axis=1)


def _weights(rng: np.random.Generator, count: int, num_units: int) -> np.ndarray:
    """Returns how often each unit and each doubt is drawn: [count, num_units + DOUBTS]."""
    weights = np.empty((count, num_units + DOUBTS))
    for row in weights:
        drawn = rng.integers(num_units, size=num_units, dtype=np.int32)
        row[:num_units] = np.bincount(drawn, minlength=num_units)
    weights[:, num_units:] = rng.poisson(MEAN_DOUBTS / DOUBTS, (count, DOUBTS))
    return weights


def over_seeds(
    points: np.ndarray, resamples: np.ndarray, name: str, lowest: float = -1.0
) -> Estimate:
    """Returns the mean over S seeds, with the spread of rows and of seeds.

    points: [S] scores. resamples: [S, RESAMPLES] in shared resamples of the rows. name: of task
    and model; draws of other names are independent. lowest: possible score.
    """
    from scipy.special import stdtrit

    value, means = float(points.mean()), resamples.mean(axis=0)
    if len(points) == 1:
        return Estimate(value, means)
    degrees = len(points) - 1
    from_rows = (resamples - means).var(axis=1).sum() / degrees
    excess = max(0.0, float(points.var(ddof=1) - from_rows))
    # Evenly spaced quantiles of Student's t, in random order: its tails would be noisy if drawn.
    ranks = (_generator(f"seeds of {name}").permutation(RESAMPLES) + 0.5) / RESAMPLES
    errors = np.sqrt(excess / len(points)) * stdtrit(degrees, ranks)
    return Estimate(value, np.clip(means + errors, lowest, 1.0))


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])
