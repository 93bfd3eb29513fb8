"""Metrics as functions of weights: those of the task, and those of rows that are there again."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
)

from finetune.data.examples import Examples
from finetune.data.tasks import find_task
from finetune.evaluation.dev_predictions import (
    Classes,
    LabelSets,
    Scores,
    TokenTags,
    predictions_of,
)
from finetune.evaluation.prediction_files import read_dev_predictions, write_dev_predictions
from finetune.evaluation.row_metrics import DOUBTS, RowMetric, row_metrics
from finetune.task_types.label_metrics import score_predictions

CLASS_METRICS = {
    "accuracy": accuracy_score,
    "f1_macro": lambda labels, values: f1_score(labels, values, average="macro"),
    "matthews_correlation": matthews_corrcoef,
}


def of_copies(metric: RowMetric, copies: np.ndarray) -> float:
    """The metric of a dev set with each unit `copies` times."""
    weights = np.zeros((2, metric.num_units + DOUBTS))  # of two resamples, one of the rows as is
    weights[0, : metric.num_units] = 1
    weights[1, : metric.num_units] = copies
    values = metric.of(weights)
    assert values.shape == (2,) and values[0] == pytest.approx(metric.value, abs=1e-12)
    return values[1]


def rows(count: int) -> np.ndarray:
    return np.arange(count).astype(str)


def as_outputs(task, examples: Examples, rng) -> np.ndarray:
    """Outputs of a model that is often right."""
    if task.is_regression:
        noise = rng.normal(size=len(examples.labels))
        return (np.array(examples.labels) + noise).astype(np.float32).round(6)[:, None]
    labels = np.array(examples.labels, int)
    return (rng.normal(size=(len(labels), len(task.labels))) + np.eye(len(task.labels))[labels] * 2
            ).astype(np.float32)  # fmt: skip


def examples_of(task, rng) -> Examples:
    """80 rows, with the keys of the task's layout."""
    labels = rng.integers(len(task.labels), size=80).tolist() if task.labels else []
    if task.is_regression:
        labels = rng.random(80) * 5
        labels = labels.round(2).tolist()
    keys, answers = [], {}
    if task.layout == "choices":
        keys = [(row, choice) for row in range(40) for choice in (0, 1)]
        labels = [label for row in range(40) for label in ((0, 1), (1, 0))[row % 3 > 0]]
    elif task.layout == "answers":
        keys = [(i // 12, i // 4, i) for i in range(80)]
    elif task.layout == "entities":
        names = ["Anna Lee", "Lee", "the Bank", "Rome"]
        keys = [(i // 4, names[i % 4]) for i in range(80)]
        answers = {i: (names[i % 3], names[i % 2]) for i in range(20)} | {99: ("nothing",)}
    elif task.layout != "columns":
        keys = [(3 * i,) for i in range(80)]
    return Examples([()] * len(labels), labels, [], keys, answers)


@pytest.mark.parametrize(
    "name", ["CoLA", "MRPC", "STS-B", "MNLI", "CB", "COPA", "MultiRC", "ReCoRD", "WiC"]
)
def test_values_are_those_of_the_task(name, tmp_path):
    """Before and after the predictions are written to a file."""
    rng, task = np.random.default_rng(3), find_task(name)
    examples = examples_of(task, rng)
    outputs = as_outputs(task, examples, rng)
    predictions = predictions_of(task, outputs, examples)
    found = row_metrics(task.metrics, predictions)
    write_dev_predictions(tmp_path / "dev.tsv", predictions)
    again = row_metrics(task.metrics, read_dev_predictions(tmp_path / "dev.tsv"))
    assert {k: metric.value for k, metric in again.items()} == {
        k: metric.value for k, metric in found.items()
    }
    expected = score_predictions(task, outputs, examples)
    assert list(found) == list(expected)
    # 6 decimals in ReCoRD's file, float32 in the regression's outputs
    near = 1e-6 if name in ("ReCoRD", "STS-B") else 1e-12
    for metric, value in expected.items():
        assert found[metric].value == pytest.approx(value, abs=near)
        assert 0 < value < 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 5])
def test_weights_are_copies_of_rows(num_classes, seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(num_classes, size=(2, 60))
    labels[:9], copies = num_classes - 1, rng.poisson(1, 60)
    words = tuple("abcde"[:num_classes])
    found = Classes(rows(60), words, labels, predictions, np.eye(num_classes)[predictions])
    repeated = np.repeat(np.stack([labels, predictions]), copies, axis=1)
    for name, metric in row_metrics(CLASS_METRICS, found).items():
        expected = CLASS_METRICS[name](*repeated)
        assert of_copies(metric, copies) == pytest.approx(expected, abs=1e-12)
    if num_classes == 2:
        f1 = row_metrics(["f1"], found)["f1"]
        assert of_copies(f1, copies) == pytest.approx(f1_score(*repeated), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_copies_of_scored_rows(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 21, 70) / 4  # with ties
    scores, copies = (labels + rng.normal(0, 1, 70)).round(1), rng.poisson(1, 70)
    found = row_metrics(["pearson", "spearman"], Scores(rows(70), labels, scores))
    repeated = np.repeat(np.stack([labels, scores]), copies, axis=1)
    for name, function in (("pearson", pearsonr), ("spearman", spearmanr)):
        expected = function(*repeated).statistic
        assert of_copies(found[name], copies) == pytest.approx(expected, abs=1e-12)


def test_a_constant_score_counts_as_0():
    third = np.full(40, 1 / 3)
    found = row_metrics(["pearson", "spearman"], Scores(rows(40), np.arange(40.0), third))
    assert [metric.value for metric in found.values()] == [0, 0]
    assert of_copies(found["pearson"], np.arange(40) % 7) == 0


def test_questions_are_drawn_with_all_their_answers():
    labels = np.array([1, 0, 1, 1, 0])
    predictions = np.array([1, 0, 0, 1, 1])
    names = np.array(["0-0-0", "0-0-1", "1-0-0", "1-0-1", "1-1-2"])
    found = Classes(names, ("wrong", "right"), labels, predictions, np.eye(2)[predictions])
    metrics = row_metrics(["f1a", "exact_match"], found)
    copies = np.array([3, 1, 0])  # of the questions 0-0, 1-0 and 1-1
    assert of_copies(metrics["exact_match"], copies) == pytest.approx(3 / 4)
    picked = [0, 1, 0, 1, 0, 1, 2, 3]
    expected = f1_score(labels[picked], predictions[picked])
    assert of_copies(metrics["f1a"], copies) == pytest.approx(expected)


# --- any labels per row ------------------------------------------------------------------------


def label_sets(rng, count=80, num_labels=4) -> LabelSets:
    labels = rng.random((count, num_labels)) < 0.3
    shares = (labels * 0.3 + rng.random((count, num_labels)) * 0.7).round(1)  # with ties
    return LabelSets(rows(count), tuple("abcd"[:num_labels]), labels, shares > 0.5, shares)


@pytest.mark.parametrize("seed", range(3))
def test_label_sets_are_scored_as_by_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    found, copies = label_sets(rng), rng.poisson(1, 80)
    metrics = row_metrics(["f1_micro", "f1_macro", "average_precision"], found)
    repeated = [np.repeat(part, copies, axis=0) for part in (found.labels, found.predictions)]
    for average in ("micro", "macro"):
        expected = f1_score(*repeated, average=average)
        assert of_copies(metrics[f"f1_{average}"], copies) == pytest.approx(expected, abs=1e-12)
    shares = np.repeat(found.probabilities, copies, axis=0)
    expected = average_precision_score(repeated[0], shares, average="macro")
    assert of_copies(metrics["average_precision"], copies) == pytest.approx(expected)


def test_a_label_of_no_row_has_no_average_precision():
    """scikit-learn warns, and counts it as 0."""
    rng = np.random.default_rng(0)
    found = label_sets(rng)
    found.labels[:, 1] = False
    expected = average_precision_score(
        found.labels[:, [0, 2, 3]], found.probabilities[:, [0, 2, 3]], average="macro"
    )
    metric = row_metrics(["average_precision"], found)["average_precision"]
    assert metric.value == pytest.approx(expected)
    found.labels[:] = False
    assert row_metrics(["average_precision"], found)["average_precision"].value == 0


# --- tags of tokens ----------------------------------------------------------------------------


def test_entities_are_counted_by_sentence_and_type():
    found = TokenTags(
        rows=np.array(["0", "0", "0", "1", "1", "2"]),
        tokens=np.array([0, 1, 2, 1, 0, 0]),  # the second sentence's tokens are swapped
        labels=np.array(["B-PER", "O", "B-LOC", "O", "B-PER", "O"]),
        predictions=np.array(["B-PER", "B-PER", "B-LOC", "B-LOC", "B-PER", "O"]),
        probabilities=np.ones(6),
    )
    names = ["entity_f1", "entity_f1:LOC", "entity_f1:PER"]
    metrics = row_metrics(names, found)
    # right 3, predicted 5, actual 3; LOC 1, 2, 1; PER 2, 3, 2
    assert metrics["entity_f1"].value == pytest.approx(6 / 8)
    assert metrics["entity_f1:LOC"].value == pytest.approx(2 / 3)
    assert metrics["entity_f1:PER"].value == pytest.approx(4 / 5)
    # the first sentence twice, the second not, the third once: 4 right, 6 predicted, 4 actual
    assert of_copies(metrics["entity_f1"], np.array([2, 0, 1])) == pytest.approx(8 / 10)
