"""Metrics against scikit-learn's and scipy's, against values by hand, and what is predicted."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from finetune.data.examples import Examples
from finetune.data.tasks import find_task
from finetune.task_types.label_metrics import (
    majority_baseline,
    normalised,
    only_label,
    predicted_rows,
    score_predictions,
    task_score,
    token_f1,
)


def outputs_for(classes, num_labels=2) -> np.ndarray:
    """[N, num_labels] outputs of a model that is sure of these classes."""
    return np.eye(num_labels, dtype=np.float32)[np.array(classes)]


def examples_with(labels, keys=(), answers=None) -> Examples:
    return Examples([("text",)] * len(keys or labels), list(labels), [], list(keys), answers or {})


def scores(task, predictions, labels, num_labels=2):
    outputs = outputs_for(predictions, num_labels)
    return score_predictions(find_task(task), outputs, examples_with(labels.tolist()))


@pytest.mark.parametrize("seed", range(3))
def test_classification_metrics(seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, 2, (2, 200))
    mrpc = scores("MRPC", predictions, labels)
    assert mrpc["accuracy"] == pytest.approx((labels == predictions).mean())
    assert mrpc["f1"] == pytest.approx(f1_score(labels, predictions))
    cola = scores("CoLA", predictions, labels)
    assert cola["matthews_correlation"] == pytest.approx(matthews_corrcoef(labels, predictions))
    labels, predictions = rng.integers(0, 3, (2, 200))
    per_class = [f1_score(labels == c, predictions == c) for c in range(3)]
    assert scores("CB", predictions, labels, 3)["f1_macro"] == pytest.approx(np.mean(per_class))


@pytest.mark.parametrize("seed", range(3))
def test_regression_metrics_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 21, 300).astype(np.float32) / 4
    predictions = (labels + rng.normal(0, 1, 300)).round(1).astype(np.float32).clip(0, 5)
    found = score_predictions(
        find_task("STS-B"), predictions[:, None], examples_with(labels.tolist())
    )
    assert found["pearson"] == pytest.approx(pearsonr(predictions, labels).statistic, abs=1e-6)
    assert found["spearman"] == pytest.approx(spearmanr(predictions, labels).statistic, abs=1e-6)


def test_constant_predictions_score_0():
    labels = np.array([0, 1, 1, 0])
    assert scores("CoLA", [0] * 4, labels) == {"matthews_correlation": 0.0}
    assert scores("QQP", [0] * 4, labels)["f1"] == 0.0
    third = np.full((4, 1), 1 / 3, np.float32)
    found = score_predictions(find_task("STS-B"), third, examples_with(labels.tolist()))
    assert found == {"pearson": 0, "spearman": 0}
    assert score_predictions(find_task("STS-B"), third[:1], examples_with([3.0])) == found


def test_task_score_is_the_mean_of_metrics_and_dev_sets():
    assert task_score({"dev": {"accuracy": 0.8, "f1": 0.6}}) == pytest.approx(0.7)
    assert task_score({"m": {"accuracy": 0.5}, "mm": {"accuracy": 0.7}}) == pytest.approx(0.6)


def test_copa_is_scored_by_row_and_predicts_the_likelier_choice():
    """Both choices of the first row are judged wrong; the less wrong one is taken."""
    outputs = np.array([[3, 0], [2, 1], [0, 5], [0, 4], [1, 1], [1, 1]], np.float32)
    keys = [(7, 0), (7, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    examples = examples_with([0, 1, 0, 1, 1, 0], keys)
    task = find_task("COPA")
    assert score_predictions(task, outputs, examples) == {"accuracy": pytest.approx(2 / 3)}
    assert predicted_rows(task, outputs, examples) == [("7", "1"), ("2", "0"), ("3", "0")]


def test_multirc_is_scored_over_all_answers_and_by_question():
    """Question 0 of passage 0 is right as a whole; question 0 of passage 1 has one mistake."""
    keys = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 2)]
    examples = examples_with([1, 0, 1, 1, 0], keys)
    outputs = outputs_for([1, 0, 1, 0, 1])
    task = find_task("MultiRC")
    found = score_predictions(task, outputs, examples)
    precision, recall = 2 / 3, 2 / 3
    assert found["f1a"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert predicted_rows(task, outputs, examples)[2:4] == [("1-0-0", "right"), ("1-0-1", "wrong")]


def test_record_is_scored_by_query_over_the_words_of_the_best_answer():
    keys = [(0, "Barack Obama"), (0, "the U.S.\nSenate"), (1, "Paris"), (2, "x"), (2, "London")]
    answers = {0: ("Obama", "Barack H. Obama"), 1: ("Paris",), 2: ("Rome",), 9: ("no entity",)}
    examples = examples_with([0] * 5, keys, answers)
    task = find_task("ReCoRD")
    outputs = np.array([[0, 2], [0, 1], [9, 0], [0, -2], [0, -1]], np.float32)
    found = score_predictions(task, outputs, examples)
    # best for query 0 is "Barack H. Obama": 2 common words of 2 and 3
    assert found["token_f1"] == pytest.approx((0.8 + 1 + 0 + 0) / 4)
    assert found["exact_match"] == pytest.approx(1 / 4)
    assert predicted_rows(task, outputs, examples) == [
        ("0", "Barack Obama"), ("1", "Paris"), ("2", "London")
    ]  # fmt: skip
    assert predicted_rows(task, outputs[[1, 0]], examples_with([], keys[:2]))[0][1] == (
        "the U.S. Senate"
    )


def test_answers_are_normalised():
    assert normalised("  The  U.S. Senate, an 'Office'") == "us senate office"
    assert token_f1("the", "a") == 0.0  # nothing but articles
    assert token_f1("new new york", "New York") == pytest.approx(0.8)
    assert token_f1("The Beatles", "beatles!") == 1.0


def test_predictions_are_words_or_clipped_scores_with_their_index():
    stsb = find_task("STS-B")
    outputs = np.array([[-1.0], [2.5], [7.0]], np.float32)
    assert predicted_rows(stsb, outputs, examples_with([])) == [
        ("0", "0.000000"), ("1", "2.500000"), ("2", "5.000000")
    ]  # fmt: skip
    cola = find_task("CoLA")
    rows = predicted_rows(cola, outputs_for([1, 0]), Examples([("a",), ("b",)]))
    assert rows == [("0", "acceptable"), ("1", "unacceptable")]
    boolq = find_task("BoolQ")
    rows = predicted_rows(boolq, outputs_for([1, 0]), examples_with([], [(4,), (9,)]))
    assert rows == [("4", "true"), ("9", "false")]


def test_a_model_that_gives_all_rows_the_same_label():
    mnli, same, both = find_task("MNLI"), outputs_for([1, 1]), outputs_for([1, 0])
    assert only_label(mnli, [same, same]) == "neutral"
    assert only_label(mnli, [same, both]) == only_label(mnli, [both]) == ""
    assert only_label(mnli, [outputs_for([1])]) == ""  # a single row has no other
    for name in ("STS-B", "COPA", "MultiRC"):
        assert only_label(find_task(name), [same]) == ""


def test_majority_baseline():
    mrpc = find_task("MRPC")
    train, dev = examples_with([1, 1, 0]), examples_with([1, 0, 1, 1])
    found = majority_baseline(mrpc, train, {"dev": dev})
    f1 = 2 * 0.75 / 1.75
    assert found == {"label": "equivalent", "score": pytest.approx((0.75 + f1) / 2)}
    mnli = find_task("MNLI")
    train = examples_with([2, 2, 1, 1, 0])  # of equals the first
    splits = {"dev_matched": examples_with([1, 0]), "dev_mismatched": examples_with([2, 1, 1, 1])}
    assert majority_baseline(mnli, train, splits) == {"label": "neutral", "score": 0.625}
    cola = majority_baseline(find_task("CoLA"), train=dev, dev={"dev": dev})
    assert cola == {"label": "acceptable", "score": 0.0}
    noes = examples_with([0, 0, 0, 1])  # F1 is that of class 1: always 0 says nothing
    found = majority_baseline(mrpc, noes, {"dev": examples_with([0, 1])})
    assert found == {"label": "equivalent", "score": pytest.approx((1 / 2 + 2 / 3) / 2)}
    tie = majority_baseline(find_task("RTE"), examples_with([0, 1]), {"dev": examples_with([1])})
    assert tie == {"label": "not_entailment", "score": 1.0}
    for name in ("STS-B", "COPA", "MultiRC", "ReCoRD"):
        assert majority_baseline(find_task(name), train, {"dev": dev}) == {}
