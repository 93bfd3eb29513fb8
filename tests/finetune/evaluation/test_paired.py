"""The difference of two models on the same rows."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.score_intervals import Case, classes, coverage_of_differences, simulated_runs
from finetune.data.tasks import find_task
from finetune.evaluation.paired import ModelRuns, compare, is_more_than_chance
from finetune.evaluation.resampling import average, estimates
from pipeline.errors import StageError

MRPC = find_task("MRPC")


def two_models(num_rows: int, only_first: int, only_second: int) -> tuple[ModelRuns, ModelRuns]:
    """Models that are both right, but for rows that just one of them gets right."""
    labels = np.arange(num_rows) % 2
    mine, theirs = labels.copy(), labels.copy()
    theirs[:only_first] = 1 - theirs[:only_first]
    mine[only_first : only_first + only_second] ^= 1
    words = tuple(MRPC.labels)
    runs = [[{"dev": classes(labels, found, words)}] for found in (mine, theirs)]
    return ModelRuns(runs[0], {"dev": "x"}), ModelRuns(runs[1], {"dev": "x"})


@pytest.mark.parametrize(
    ("only_first", "only_second", "is_real"),
    [(0, 0, False), (4, 0, False), (9, 0, True), (0, 9, True), (30, 20, False), (40, 15, True)],
)
def test_more_than_chance_as_by_mcnemars_test(only_first, only_second, is_real):
    """Exact p values: 1, 0.125, 0.004, 0.004, 0.20, 0.001. Plain resampling takes 4 for certain."""
    found = compare(MRPC, *two_models(300, only_first, only_second)).metrics["dev"]["accuracy"]
    assert found.value == pytest.approx((only_first - only_second) / 300)
    assert is_more_than_chance(found) == is_real


def test_differences_are_antisymmetric_and_narrower_than_scores():
    first, second = (ModelRuns(runs, {}) for runs in simulated_runs(
        Case(1000, 0.8), np.random.default_rng(5)))  # fmt: skip
    found, turned = compare(MRPC, first, second).score, compare(MRPC, second, first).score
    assert found.value == -turned.value
    assert found.interval == pytest.approx([-end for end in turned.interval[::-1]], abs=0.003)
    alone = [np.diff(estimates(MRPC, model.runs).score.interval)[0] for model in (first, second)]
    assert np.diff(found.interval)[0] < 0.9 * np.hypot(*alone)


def test_rows_may_be_in_another_order():
    first, second = two_models(100, 9, 3)
    order = np.random.default_rng(0).permutation(100).tolist()
    mixed = ModelRuns([{"dev": second.runs[0]["dev"].taken(order)}], second.digests)
    expected = compare(MRPC, first, second).score.interval
    assert compare(MRPC, first, mixed).score.interval == expected


def test_other_dev_data_is_refused():
    first, second = two_models(100, 9, 3)
    with pytest.raises(StageError, match="MRPC, dev: the two models were scored on different dev"):
        compare(MRPC, first, replace(second, digests={"dev": "y"}))
    fewer = {"dev": second.runs[0]["dev"].taken(range(99))}
    with pytest.raises(StageError, match="row 99 is missing in the second of two runs"):
        compare(MRPC, first, replace(second, runs=[fewer]))


def test_an_average_over_tasks():
    tasks = [find_task(name) for name in ("MRPC", "QQP")]
    first, second = two_models(300, 12, 4)
    scores = [compare(task, first, second).score for task in tasks]
    found = average(scores)
    assert found.value == pytest.approx(scores[0].value)
    widths = [np.diff(score.interval)[0] for score in scores]
    assert np.diff(found.interval)[0] == pytest.approx(np.mean(widths) / np.sqrt(2), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(200, 0.8),
        Case(277, 0.98, gap=0.005),
        Case(1000, 0.9),
        Case(400, 0.85, spread=0.2, seeds=3),
    ],
    ids=str,
)
def test_95_of_100_intervals_cover_the_truth(case):
    """Of accuracy, F1 and their mean, with correlated errors; 91 is within two sigma of 95."""
    for share, _ in coverage_of_differences(case, 100).values():
        assert share >= 0.91
