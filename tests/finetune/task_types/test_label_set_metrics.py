"""Scores of sets of labels against scikit-learn's, and the threshold against all others."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from finetune.task_types.label_set_metrics import (
    average_precisions,
    best_constant,
    best_threshold,
    f1_of_labels,
    macro_f1,
    mean_average_precision,
    micro_f1,
    sigmoid,
)

F1 = {"f1_micro": micro_f1, "f1_macro": macro_f1}
METRICS = ("f1_micro", "f1_macro", "average_precision")


@st.composite
def scored_rows(draw):
    """Labels and probabilities of up to 8 rows and 4 labels, with many equal probabilities."""
    shape = draw(st.integers(1, 8)), draw(st.integers(2, 4))
    size = shape[0] * shape[1]
    labels = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    numbers = st.sampled_from([0.0, 1e-9, 0.1, 0.3, 0.49999, 0.5, 0.50001, 0.7, 1.0])
    values = draw(st.lists(numbers | st.floats(0, 1), min_size=size, max_size=size))
    return np.array(labels).reshape(shape), np.array(values).reshape(shape)


@pytest.mark.slow
@given(scored_rows())
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_scikit_learn(found):
    labels, probabilities = found
    predicted = probabilities >= 0.5
    for average, ours in (("micro", micro_f1), ("macro", macro_f1), (None, f1_of_labels)):
        theirs = f1_score(labels, predicted, average=average, zero_division=0)
        assert ours(labels, predicted) == pytest.approx(theirs)
    there = labels.any(axis=0)
    ours = average_precisions(labels, probabilities)
    assert np.isnan(ours).tolist() == (~there).tolist()
    if there.sum() > 1:  # scikit-learn takes one column for two classes
        theirs = average_precision_score(labels[:, there], probabilities[:, there])
        assert mean_average_precision(labels, probabilities) == pytest.approx(theirs)
    if not there.any():
        assert mean_average_precision(labels, probabilities) == 0


@pytest.mark.slow
@given(scored_rows(), st.sampled_from([("f1_micro",), ("f1_macro",), METRICS, METRICS[2:]]))
@settings(max_examples=150, deadline=None)
def test_no_threshold_is_better_and_none_as_good_is_closer_to_a_half(found, metrics):
    labels, probabilities = found
    names = [name for name in metrics if name in F1] or ["f1_micro"]

    def score(threshold):
        predicted = probabilities >= threshold
        return np.mean([F1[name](labels, predicted) for name in names])

    chosen = best_threshold(labels, probabilities, metrics)
    assert score(chosen) >= score(0.5)
    present = np.unique(np.append(probabilities, 2.0))
    assert score(chosen) >= max(map(score, present)) - 1e-12
    if score(0.5) > score(chosen) - 1e-12:
        assert chosen == 0.5
    shuffled = np.random.default_rng(0).permutation(len(labels))
    assert best_threshold(labels[shuffled], probabilities[shuffled], metrics) == chosen


def test_a_threshold_is_a_short_number_between_two_probabilities():
    labels = np.array([[1, 1], [0, 0]], bool)
    assert best_threshold(labels, np.array([[0.9, 0.31], [0.24, 0.1]]), ["f1_micro"]) == 0.3
    assert best_threshold(labels, np.array([[0.9, 0.8], [0.7, 0.1]]), ["f1_micro"]) == 0.8
    assert best_threshold(labels, np.array([[0.9, 0.8], [0.1, 0.2]]), ["f1_micro"]) == 0.5
    assert best_threshold(np.zeros((2, 2), bool), np.ones((2, 2)), ["f1_micro"]) == 0.5
    above = np.array([[0.50001, 0.4], [0.5, 0.3]])  # as good with 0.50001, but 0.5 is closer
    assert best_threshold(np.array([[1, 0], [1, 0]], bool), above, ["f1_macro"]) == 0.5
    high = np.nextafter(0.75, 1)
    assert best_threshold(labels, np.array([[high, high], [0.75, 0.1]]), ["f1_macro"]) == high


def test_probabilities_keep_the_order_of_large_logits():
    logits = np.array([-800, -100, -50, 0, 20, 30], np.float32)
    found = sigmoid(logits)
    assert found[3] == 0.5 and (np.diff(found) > 0).all() and found.max() < 1


@pytest.mark.slow
@given(scored_rows(), st.sampled_from([METRICS[:1], METRICS[1:2], METRICS[:2], METRICS]))
@settings(max_examples=40, deadline=None)
def test_no_other_constant_set_is_better(found, metrics):
    labels, _ = found
    if not labels.any():
        return
    num_labels, constant = labels.shape[1], np.zeros(labels.shape)
    of_constant = mean_average_precision(labels, constant)

    def score(chosen):
        predicted = np.zeros(labels.shape, bool)
        predicted[:, list(chosen)] = True
        values = {name: F1[name](labels, predicted) for name in F1}
        values["average_precision"] = of_constant
        return np.mean([values[name] for name in metrics])

    sizes = range(num_labels + 1)
    best = max(score(some) for size in sizes for some in combinations(range(num_labels), size))
    chosen, value = best_constant(labels, metrics)
    assert value == pytest.approx(best) and score(chosen) == pytest.approx(best)
