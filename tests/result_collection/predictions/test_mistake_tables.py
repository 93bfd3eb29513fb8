"""What a run gets wrong, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from finetune.evaluation.dev_predictions import (
    Classes,
    LabelSets,
    Matches,
    Scores,
    TokenTags,
)
from result_collection.predictions.tables import MOST_MISTAKES, reliability, tables_of


def rows(count: int) -> np.ndarray:
    return np.array(list(map(str, range(count))))


def drawn(count: int, num_classes: int, unused: int = 0) -> Classes:
    """Random predictions; the last `unused` classes have no row and no prediction."""
    rng, used = np.random.default_rng(7), num_classes - unused
    shares = np.zeros((count, num_classes))
    shares[:, :used] = rng.dirichlet(np.ones(used), count).round(6)
    labels = np.where(rng.random(count) < 0.5, shares.argmax(1), rng.integers(used, size=count))
    words = tuple(f"c{i:02}" for i in range(num_classes))
    return Classes(rows(count), words, labels, shares.argmax(1), shares)


def test_confusion_and_classes_are_those_of_scikit_learn():
    found = drawn(500, 6, unused=2)
    tables = tables_of(found)
    assert tables["confusion"]["labels"] == ["c00", "c01", "c02", "c03"]
    expected = confusion_matrix(found.labels, found.predictions)
    assert tables["confusion"]["counts"] == expected.tolist()
    values = precision_recall_fscore_support(found.labels, found.predictions, zero_division=0)
    for number, column in enumerate(("precision", "recall", "f1", "rows")):
        assert [row[column] for row in tables["classes"]] == pytest.approx(values[number], abs=1e-6)
    assert tables["num_mistakes"] == int((found.labels != found.predictions).sum())


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    found = drawn(3000, 30)
    tables = tables_of(found)
    assert "confusion" not in tables and len(tables["confusions"]) == 20
    expected = confusion_matrix(found.labels, found.predictions)
    np.fill_diagonal(expected, 0)
    assert [one["rows"] for one in tables["confusions"]] == sorted(expected.ravel())[:-21:-1]
    for one in tables["confusions"]:
        place = (int(one["label"][1:]), int(one["prediction"][1:]))
        assert expected[place] == one["rows"]
    wide = tables_of(drawn(20_000, 150))
    assert len(wide["classes"]) == 100 and wide["num_classes"] == 150


def test_the_most_confident_mistakes_come_first():
    found = drawn(500, 3)
    tables = tables_of(found)
    wrong = np.flatnonzero(found.labels != found.predictions)
    shares = found.probabilities.max(1)
    expected = sorted(wrong, key=lambda i: (-shares[i], i))[:MOST_MISTAKES]
    assert [mistake["row"] for mistake in tables["mistakes"]] == [str(i) for i in expected]
    first = tables["mistakes"][0]
    assert first["label"] == found.gold[expected[0]] != first["prediction"]


def test_reliability_has_bins_of_equally_many_rows_and_ties_in_one():
    rng = np.random.default_rng(3)
    shares = rng.random(1000)
    found = reliability(shares, rng.random(1000) < shares**2)
    assert [one["rows"] for one in found["bins"]] == [100] * 10
    assert 0.1 < found["error"] < 0.25  # the mean of p - p^2 is 1/6
    assert reliability(shares, rng.random(1000) < shares)["error"] < 0.06
    ties = reliability(np.array([0.9] * 30 + [1.0] * 70), np.arange(100) % 2 == 0)
    assert [one["rows"] for one in ties["bins"]] == [30, 70]
    assert ties["error"] == pytest.approx(0.3 * 0.4 + 0.7 * 0.5)
    one = reliability(np.array([0.7]), np.array([True]))
    assert one == {"bins": [{"probability": 0.7, "right": 1.0, "rows": 1}], "error": 1 - 0.7}


def test_labels_of_sets_are_those_of_scikit_learn():
    rng = np.random.default_rng(5)
    labels, shares = rng.random((300, 4)) < 0.3, rng.random((300, 4)).round(6)
    found = LabelSets(rows(300), ("a", "b", "c", "d"), labels, shares > 0.6, shares)
    tables = tables_of(found)
    values = precision_recall_fscore_support(labels, shares > 0.6, zero_division=0)
    for number, column in enumerate(("precision", "recall", "f1", "rows")):
        assert [row[column] for row in tables["classes"]] == pytest.approx(values[number], abs=1e-6)
    assert tables["num_rows"] == 300
    assert tables["num_mistakes"] == int((labels != (shares > 0.6)).sum())
    for mistake in tables["mistakes"]:
        row, name = int(mistake["row"]), mistake["label"].removeprefix("not ")
        column = "abcd".index(name)
        is_there = not mistake["label"].startswith("not ")
        assert labels[row, column] == is_there != (shares[row, column] > 0.6)
        share = shares[row, column] if not is_there else 1 - shares[row, column]
        assert mistake["probability"] == pytest.approx(share, abs=1e-4)


def test_types_of_entities_and_tokens_that_are_wrong():
    """The first sentence has one of two persons, and a place with a wrong end."""
    gold = ["B-PER", "O", "B-PER", "B-LOC", "I-LOC", "O"]
    tags = ["B-PER", "O", "O", "B-LOC", "O", "B-ORG"]
    sentences, tokens = np.array(["0"] * 5 + ["1"]), np.array([0, 1, 2, 3, 4, 0])
    shares = np.array([0.9, 0.9, 0.6, 0.9, 0.7, 0.8])
    found = TokenTags(sentences, tokens, np.array(gold), np.array(tags), shares)
    tables = tables_of(found)
    by_type = {row["label"]: row for row in tables["classes"]}
    assert by_type["PER"]["precision"] == 1 and by_type["PER"]["recall"] == 0.5
    assert by_type["LOC"]["f1"] == 0 and by_type["LOC"]["rows"] == 1
    assert by_type["ORG"] == {"label": "ORG", "precision": 0, "recall": 0, "f1": 0, "rows": 0}
    assert [(one["row"], one["token"]) for one in tables["mistakes"]] == [
        *(("1", 0), ("0", 4), ("0", 2))
    ]
    assert tables["num_rows"] == 2


def test_scores_have_points_and_errors():
    labels = np.linspace(0, 5, 2001)
    found = Scores(rows(2001), labels, labels + np.where(np.arange(2001) == 3, 2.0, 0.1))
    tables = tables_of(found)
    assert len(tables["points"]) <= 500 and tables["mean_absolute_error"] == 0.1009
    assert tables["mistakes"][0] == {"row": "3", "label": "0.0075", "prediction": "2.0075"}
    assert "reliability" not in tables and "num_mistakes" not in tables


def test_answers_of_record_have_no_tables():
    assert tables_of(Matches(rows(3), ("exact_match",), np.ones((3, 1)))) == {"num_rows": 3}
