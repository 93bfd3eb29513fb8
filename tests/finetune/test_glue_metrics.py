"""Our metrics against scikit-learn's and scipy's."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from finetune.metrics import predicted_values, score_predictions, task_score
from finetune.tasks import find_task


@pytest.mark.parametrize("seed", range(5))
def test_classification_metrics(seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, 2, (2, 200))
    mrpc = score_predictions(find_task("MRPC"), predictions, labels)
    assert mrpc["accuracy"] == pytest.approx((labels == predictions).mean())
    assert mrpc["f1"] == pytest.approx(f1_score(labels, predictions))
    cola = score_predictions(find_task("CoLA"), predictions, labels)
    assert cola["matthews_correlation"] == pytest.approx(matthews_corrcoef(labels, predictions))


@pytest.mark.parametrize("seed", range(5))
def test_regression_metrics_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 21, 300).astype(np.float32) / 4
    predictions = (labels + rng.normal(0, 1, 300)).round(1).astype(np.float32)
    scores = score_predictions(find_task("STS-B"), predictions, labels)
    assert scores["pearson"] == pytest.approx(pearsonr(predictions, labels).statistic, abs=1e-6)
    assert scores["spearman"] == pytest.approx(spearmanr(predictions, labels).statistic, abs=1e-6)


def test_constant_predictions_score_0():
    labels = np.array([0, 1, 1, 0])
    assert score_predictions(find_task("CoLA"), np.zeros(4, int), labels) == {
        "matthews_correlation": 0.0
    }
    assert score_predictions(find_task("QQP"), np.zeros(4, int), labels)["f1"] == 0.0
    third = np.full(4, 1 / 3, np.float32)
    assert score_predictions(find_task("STS-B"), third, labels) == {"pearson": 0, "spearman": 0}


def test_task_score_is_the_mean_of_metrics_and_dev_sets():
    assert task_score({"dev": {"accuracy": 0.8, "f1": 0.6}}) == pytest.approx(0.7)
    assert task_score({"m": {"accuracy": 0.5}, "mm": {"accuracy": 0.7}}) == pytest.approx(0.6)


def test_scores_are_clipped_to_the_range():
    logits = np.array([[-1.0], [2.5], [7.0]], np.float32)
    assert predicted_values(find_task("STS-B"), logits).tolist() == [0.0, 2.5, 5.0]
