"""Dev predictions from the outputs of a model."""

import numpy as np
import pytest

from finetune.data.examples import Examples
from finetune.data.tasks import find_task
from finetune.evaluation.dev_predictions import predictions_of


def test_copa_has_a_row_for_each_question():
    outputs = np.array([[3, 0], [2, 1], [0, 5], [0, 4]], np.float32)
    keys = [(7, 0), (7, 1), (2, 0), (2, 1)]
    found = predictions_of(find_task("COPA"), outputs, Examples([], [0, 1, 0, 1], [], keys))
    assert found.rows.tolist() == ["7", "2"] and found.words == ("0", "1")
    assert found.labels.tolist() == [1, 1] and found.predictions.tolist() == [1, 0]
    # margins of -3 and -1, of 5 and 4
    assert found.probabilities[:, 1] == pytest.approx([0.880797, 0.268941])


def test_rows_are_named_as_in_predictions_of_test_sets():
    outputs = np.eye(2, dtype=np.float32)
    multirc = Examples([], [0, 0], [], [(3, 0, 1), (3, 1, 2)])
    assert predictions_of(find_task("MultiRC"), outputs, multirc).rows.tolist() == [
        "3-0-1", "3-1-2"
    ]  # fmt: skip
    cola = predictions_of(find_task("CoLA"), outputs, Examples([], [0, 0]))
    assert cola.rows.tolist() == ["0", "1"] and cola.gold == ["unacceptable"] * 2


def test_record_keeps_no_text():
    examples = Examples(
        [], [1, 0], [], [(5, "Anna Lee"), (5, "Rome")], {5: ("Lee",), 9: ("nobody",)}
    )
    found = predictions_of(find_task("ReCoRD"), np.eye(2, dtype=np.float32)[::-1], examples)
    assert found.rows.tolist() == ["5", "9"] and found.names == ("token_f1", "exact_match")
    assert found.values.tolist() == [[0.666667, 0], [0, 0]]


def test_probabilities_do_not_overflow():
    outputs = np.array([[1e4, 0], [-1e4, 0]], np.float32)
    found = predictions_of(find_task("RTE"), outputs, Examples([], [0, 0]))
    assert found.probabilities.tolist() == [[1, 0], [0, 1]]
