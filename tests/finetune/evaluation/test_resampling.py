"""Intervals: the same on each machine, wider with few rows and different seeds."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.score_intervals import Case, classes, coverage_of_scores, simulated_runs
from finetune.data.tasks import find_task
from finetune.evaluation.dev_predictions import Matches, Scores
from finetune.evaluation.resampling import RESAMPLES, average, estimates, over_seeds
from pipeline.errors import StageError

MRPC, MNLI, STSB = map(find_task, ("MRPC", "MNLI", "STS-B"))


def run_of(num_rows: int, right: float, task=MRPC, seed=0):
    """A run that is right in exactly this share of the rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(task.labels), size=num_rows)
    wrong = rng.permutation(num_rows) < round((1 - right) * num_rows)
    predictions = np.where(wrong, (labels + 1) % len(task.labels), labels)
    return {split.name: classes(labels, predictions, tuple(task.labels)) for split in task.dev}


def test_accuracy_has_the_interval_of_a_proportion():
    found = estimates(MRPC, [run_of(400, 0.8)]).metrics["dev"]["accuracy"]
    assert found.value == pytest.approx(0.8) and len(found.resamples) == RESAMPLES
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert found.interval == pytest.approx((0.8 - half, 0.8 + half), abs=0.006)


def test_intervals_are_always_the_same():
    """Numbers computed once: no other machine or order of calls may give others."""
    found = estimates(MRPC, [run_of(400, 0.8)])
    assert found.score.interval == (0.765993, 0.843657)
    assert estimates(MRPC, [run_of(400, 0.8)]).score.interval == found.score.interval


def test_the_score_is_the_mean_of_metrics_and_dev_sets():
    found = estimates(MRPC, [run_of(300, 0.8)])
    values = [metric.value for metric in found.metrics["dev"].values()]
    assert found.score.value == pytest.approx(np.mean(values))
    one = run_of(300, 0.8, MNLI)
    both = estimates(MNLI, [one])
    width = np.diff(both.score.interval)[0]
    widths = [np.diff(found["accuracy"].interval)[0] for found in both.metrics.values()]
    assert width == pytest.approx(np.mean(widths) / np.sqrt(2), rel=0.1)  # independent rows


@pytest.mark.parametrize("num_rows", [20, 50, 300])
def test_no_mistake_is_not_certainty(num_rows):
    """The exact lower end is the accuracy that gives no mistake in 2.5 % of the dev sets."""
    low, high = estimates(MRPC, [run_of(num_rows, 1.0)]).metrics["dev"]["accuracy"].interval
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / num_rows), abs=1 / num_rows)


def test_intervals_include_the_value():
    for num_rows, right in ((3, 1.0), (4, 0.0), (10, 0.5), (30, 0.97)):
        for metric in estimates(MRPC, [run_of(num_rows, right)]).metrics["dev"].values():
            low, high = metric.interval
            assert 0 <= low <= round(metric.value, 6) <= high <= 1
    labels = np.arange(12.0)
    constant = Scores(np.arange(12).astype(str), labels, np.zeros(12))
    assert estimates(STSB, [{"dev": constant}]).score.interval == (0, 0)


def test_record_is_resampled_by_query():
    values = np.random.default_rng(0).random((200, 2)).round(6)
    found = Matches(np.arange(200).astype(str), ("token_f1", "exact_match"), values)
    score = estimates(find_task("ReCoRD"), [{"dev": found}]).score
    half = 1.96 * values.mean(axis=1).std() / np.sqrt(200)
    assert score.value == pytest.approx(values.mean())
    assert np.diff(score.interval)[0] == pytest.approx(2 * half, rel=0.1)


# --- seeds -------------------------------------------------------------------------------------


def test_seeds_count_only_beyond_the_noise_of_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.02, RESAMPLES)
    alike = over_seeds(np.array([0.8, 0.8, 0.8]), 0.8 + np.tile(rows, (3, 1)), "x")
    assert alike.interval == pytest.approx((0.76, 0.84), abs=0.005)
    points = np.array([0.75, 0.8, 0.85])
    apart = over_seeds(points, points[:, None] + rows, "x")
    half = 4.303 * 0.05 / np.sqrt(3)  # t of 2 degrees; the rows add little
    assert apart.interval == pytest.approx((0.8 - half, 0.8 + half), abs=0.02)
    assert apart.value == pytest.approx(0.8)


def test_scores_stay_within_their_range():
    points = np.array([0.5, 0.99])
    found = over_seeds(points, np.repeat(points[:, None], RESAMPLES, axis=1), "x", lowest=0.0)
    assert found.interval == (0, 1)


def test_seeds_are_matched_by_row():
    one, other = run_of(60, 0.8, seed=1)["dev"], run_of(60, 0.8, seed=1)["dev"]
    other = replace(other, predictions=1 - other.predictions)
    expected = estimates(MRPC, [{"dev": one}, {"dev": other}]).score
    mixed = other.taken(np.random.default_rng(0).permutation(60).tolist())
    found = estimates(MRPC, [{"dev": one}, {"dev": mixed}]).score
    assert found.interval == expected.interval
    with pytest.raises(StageError, match="MRPC, dev: row 59 is missing in the second of two runs"):
        estimates(MRPC, [{"dev": one}, {"dev": other.taken(range(59))}])
    with pytest.raises(StageError, match="row 59 is missing in the first of two runs"):
        estimates(MRPC, [{"dev": one.taken(range(59))}, {"dev": other}])
    with pytest.raises(StageError, match="the label of row 0 differs"):
        estimates(MRPC, [{"dev": one}, {"dev": replace(other, labels=1 - other.labels)}])


def test_averages_of_tasks_are_narrower():
    tasks = [find_task(name) for name in ("MRPC", "QQP", "RTE", "QNLI")]
    scores = [estimates(task, [run_of(200, 0.8, task)]).score for task in tasks]
    found = average(scores)
    assert found.value == pytest.approx(np.mean([score.value for score in scores]))
    widths = [np.diff(score.interval)[0] for score in scores]
    assert np.diff(found.interval)[0] == pytest.approx(np.mean(widths) / 2, rel=0.12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(50, 0.98),
        Case(277, 0.995),
    ],
    ids=str,
)
def test_intervals_cover_the_truth(case):
    for share, _ in coverage_of_scores(case, 100).values():
        assert share >= 0.91


def test_simulated_errors_are_correlated():
    [first], [second] = simulated_runs(Case(4000, 0.8), np.random.default_rng(0))
    wrong = [found["dev"].labels != found["dev"].predictions for found in (first, second)]
    assert np.corrcoef(wrong)[0, 1] > 0.3
