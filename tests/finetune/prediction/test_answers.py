"""The values of the answers' columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from finetune.data.tasks import Split, Task
from finetune.prediction.answers import answer_columns, answers_of, pooled
from finetune.task_types.task_types import TASK_TYPES


def task(kind: str, labels=("a", "b", "c")) -> Task:
    words = {} if kind == "regression" else {word: word for word in labels}
    return Task(
        "own", (), "", (), 0, Split("", ()), (), (), labels=words, score_range=(0, 5), type=kind
    )


def test_a_label_and_all_probabilities():
    own = task("classification")
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.25, 0.25, 0.5]], np.float32))
    assert answers_of(own, logits, {}) == [["b", 0.7, 0.2, 0.7, 0.1], ["c", 0.5, 0.25, 0.25, 0.5]]
    names = ["label", "probability", "probability_a", "probability_b", "probability_c"]
    assert answer_columns(own) == names


def test_a_score_within_its_range():
    assert answers_of(task("regression"), np.array([[1 / 3], [7.0]], np.float32), {}) == [
        [0.333333],
        [5.0],
    ]
    assert answer_columns(task("regression")) == ["score"]


@given(arrays(np.float32, (5, 3), elements=st.floats(-80, 80, width=32)))
def test_windows_are_averaged_as_probabilities(logits):
    """A row of one window keeps its logits exactly; extreme ones do not overflow."""
    own = task("classification")
    found = pooled(own, logits, np.array([1, 3, 1]))
    assert (found[[0, 2]] == logits[[0, 4]]).all() and np.isfinite(found).all()
    powers = np.exp(logits[1:4].astype(float) - logits[1:4].max(axis=1, keepdims=True))
    mean = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
    [answer] = answers_of(own, found[1:2], {})
    np.testing.assert_allclose(answer[2:], mean, atol=2e-6)
    assert answer[1] == max(answer[2:])


def test_windows_of_scores():
    found = pooled(task("regression"), np.array([[1], [2], [4]], np.float32), np.array([1, 2]))
    assert found.tolist() == [[1], [3]]


@pytest.mark.parametrize("kind", [name for name in TASK_TYPES if name != "token_classification"])
def test_every_type_has_as_many_values_as_columns(kind):
    own = task(kind)
    logits = np.zeros((2, max(1, len(own.labels))), np.float32)
    answers = answers_of(own, logits, {})
    assert [len(answer) for answer in answers] == [len(answer_columns(own))] * 2
