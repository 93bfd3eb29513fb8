"""How often the intervals of scores cover the truth, in simulated dev sets and models.

    python -m benchmarks.score_intervals                all cases, 1,000 dev sets each
    python -m benchmarks.score_intervals --repeats 200

Each row has a difficulty, the same for all models; each run of a model has a skill, spread around
that of the model. So errors of models are correlated, and the true score is known. Of 100 intervals
of 95 %, 95 should cover it. The last column is the mean width.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import numpy as np

from finetune.data.tasks import find_task
from finetune.evaluation.dev_predictions import Classes, Scores
from finetune.evaluation.paired import ModelRuns, compare
from finetune.evaluation.resampling import DevSets, TaskEstimates, estimates

LABELLED = find_task("MRPC")  # accuracy and F1 of class 1
SCORED = find_task("STS-B")
DIFFICULTY = 2.0  # standard deviation between rows, in that of the noise of a prediction
POSITIVE = 0.4  # share of class 1


@dataclass(frozen=True)
class Case:
    """num_rows: of the dev set. right: share of right predictions of the first model.

    gap: by how much the second model is worse. spread: standard deviation of the skills of a
    model's runs, in that of the noise of a prediction. seeds: runs of each model.
    """

    num_rows: int
    right: float
    gap: float = 0.02
    spread: float = 0.0
    seeds: int = 1


@dataclass(frozen=True)
class Model:
    """skill: the mean of its runs."""

    skill: float
    spread: float

    @classmethod
    def with_accuracy(cls, share: float, spread: float) -> "Model":
        from scipy.special import ndtri

        return cls(float(ndtri(share)) * np.sqrt(1 + DIFFICULTY**2 + spread**2), spread)

    def truth(self) -> dict[str, float]:
        """Returns the mean metrics of its runs on all rows there could be."""
        from scipy.special import ndtr, ndtri

        skills = self.skill + self.spread * ndtri((np.arange(2000) + 0.5) / 2000)
        right = ndtr(skills / np.sqrt(1 + DIFFICULTY**2))
        f1 = 2 * POSITIVE * right / (2 * POSITIVE * right + 1 - right)
        found = {"accuracy": float(right.mean()), "f1": float(f1.mean())}
        return {**found, "score": (found["accuracy"] + found["f1"]) / 2}

    def run(
        self, labels: np.ndarray, difficulties: np.ndarray, rng: np.random.Generator
    ) -> Classes:
        skill = self.skill + self.spread * rng.normal()
        right = skill + difficulties + rng.normal(size=len(labels)) > 0
        predictions = np.where(right, labels, 1 - labels)
        return classes(labels, predictions, tuple(LABELLED.labels))


def classes(labels: np.ndarray, predictions: np.ndarray, words: tuple[str, ...]) -> Classes:
    """Returns predictions that are sure."""
    rows = np.arange(len(labels)).astype(str)
    return Classes(rows, words, labels, predictions, np.eye(len(words))[predictions])


def models(case: Case) -> tuple[Model, Model]:
    return (
        Model.with_accuracy(case.right, case.spread),
        Model.with_accuracy(case.right - case.gap, case.spread),
    )


def simulated_runs(case: Case, rng: np.random.Generator) -> tuple[list[DevSets], list[DevSets]]:
    """Returns the runs of both models on a new dev set."""
    labels = (rng.random(case.num_rows) < POSITIVE).astype(np.int64)
    difficulties = rng.normal(0, DIFFICULTY, case.num_rows)
    first, second = (
        [{"dev": model.run(labels, difficulties, rng)} for _ in range(case.seeds)]
        for model in models(case)
    )
    return first, second


# --- coverage ----------------------------------------------------------------------------------

Covered = dict[str, tuple[float, float]]  # share of covering intervals and mean width, by metric


def coverage_of_scores(case: Case, repeats: int) -> Covered:
    truth = models(case)[0].truth()

    def estimate(rng: np.random.Generator) -> TaskEstimates:
        return estimates(LABELLED, simulated_runs(case, rng)[0])

    return _coverage(estimate, truth, repeats)


def coverage_of_differences(case: Case, repeats: int) -> Covered:
    first, second = (model.truth() for model in models(case))
    truth = {name: first[name] - second[name] for name in first}

    def estimate(rng: np.random.Generator) -> TaskEstimates:
        mine, theirs = simulated_runs(case, rng)
        return compare(LABELLED, ModelRuns(mine, {}), ModelRuns(theirs, {}))

    return _coverage(estimate, truth, repeats)


def coverage_of_correlations(num_rows: int, correlation: float, repeats: int) -> Covered:
    """Labels and predictions are jointly normal."""
    spearman = float(6 / np.pi * np.arcsin(correlation / 2))
    truth = {"pearson": correlation, "spearman": spearman, "score": (correlation + spearman) / 2}

    def estimate(rng: np.random.Generator) -> TaskEstimates:
        labels, noise = rng.normal(size=(2, num_rows))
        predictions = correlation * labels + np.sqrt(1 - correlation**2) * noise
        rows = np.arange(num_rows).astype(str)
        return estimates(SCORED, [{"dev": Scores(rows, labels, predictions)}])

    return _coverage(estimate, truth, repeats)


def _coverage(
    estimate: Callable[[np.random.Generator], TaskEstimates], truth: dict[str, float], repeats: int
) -> Covered:
    rng = np.random.default_rng(0)
    covered, widths = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for _ in range(repeats):
        found = estimate(rng)
        for name in truth:
            low, high = (found.score if name == "score" else found.metrics["dev"][name]).interval
            covered[name] += low <= truth[name] <= high
            widths[name] += high - low
    return {name: (covered[name] / repeats, widths[name] / repeats) for name in truth}


def lines(repeats: int) -> Iterator[str]:
    """Yields a line for each case and metric."""

    def shown(what: str, found: Covered) -> Iterator[str]:
        for name, (share, width) in found.items():
            yield f"{what:58} {name:9} {100 * share:5.1f} % {100 * width:6.2f}"

    for num_rows in (50, 277, 1000):
        for right in (0.7, 0.9, 0.98, 0.995):
            what = f"score: {num_rows} rows, {100 * right:g} % right"
            yield from shown(what, coverage_of_scores(Case(num_rows, right), repeats))
    for num_rows in (50, 277, 1500):
        what = f"score: {num_rows} rows, correlation 0.9"
        yield from shown(what, coverage_of_correlations(num_rows, 0.9, repeats))
    for num_rows in (200, 277, 1000):
        for right in (0.7, 0.9, 0.98):
            what = f"difference: {num_rows} rows, {100 * right:g} % right"
            yield from shown(what, coverage_of_differences(Case(num_rows, right), repeats))
    for seeds in (2, 3, 5):
        for num_rows, spread in ((200, 0.0), (200, 0.15), (1000, 0.15), (1000, 0.3)):
            case = Case(num_rows, 0.8, spread=spread, seeds=seeds)
            what = f"{num_rows} rows, 80 % right, {seeds} seeds, spread {spread}"
            yield from shown(f"score: {what}", coverage_of_scores(case, repeats))
            yield from shown(f"difference: {what}", coverage_of_differences(case, repeats))


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="simulated dev sets per line")
    return parser.parse_args(words)


if __name__ == "__main__":
    for line in lines(parse_arguments().repeats):
        print(line, flush=True)
