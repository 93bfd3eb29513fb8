"""Files of dev predictions come back as they were written, or name what is damaged."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.tasks import find_task
from finetune.evaluation.dev_predictions import (
    Classes,
    LabelSets,
    Matches,
    Scores,
    TokenTags,
)
from finetune.evaluation.prediction_files import (
    read_dev_predictions,
    write_dev_predictions,
)
from finetune.search.job_folder import dev_predictions_path
from pipeline.errors import StageError

ROWS = np.array(["0", "1", "7"])
HALVES = np.array([[0.25, 0.75], [1, 0], [0.333333, 0.666667]])
FOUND = [
    Classes(ROWS, ("no", "yes"), np.array([0, 1, 1]), np.array([1, 0, 1]), HALVES),
    Scores(ROWS, np.array([0.5, 3.25, 5]), np.array([-1.25, 3, 4.123456])),
    LabelSets(ROWS, ("a", "b"), HALVES > 0.5, HALVES > 0.3, HALVES),
    TokenTags(ROWS, np.arange(3), np.array(["O", "B-x", "O"]), np.array(["O"] * 3), HALVES[:, 0]),
    Matches(ROWS, ("token_f1", "exact_match"), HALVES),
]


def assert_same(found, expected) -> None:
    assert type(found) is type(expected)
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value)
            assert getattr(found, name).dtype.kind == value.dtype.kind
        else:
            assert getattr(found, name) == value


@pytest.mark.parametrize("found", FOUND, ids=lambda found: type(found).__name__)
def test_what_is_written_is_read(found, tmp_path):
    write_dev_predictions(tmp_path / "x.tsv", found)
    assert_same(read_dev_predictions(tmp_path / "x.tsv"), found)


labels = st.text(
    st.sampled_from("a|\\tpn\t\n\r ,\"'\u2028\x85é"), min_size=1, max_size=5
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(words=st.lists(labels, min_size=2, max_size=4, unique=True), data=st.data())
def test_any_label_survives(words, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any_label.tsv"
    size = len(words)
    classes = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=3, max_size=3)))
    shares = np.full((3, size), 0.5)
    sets = np.array(data.draw(st.lists(st.booleans(), min_size=3 * size, max_size=3 * size)))
    sets = sets.reshape(3, size)
    tags = np.array([words[i] for i in classes])
    for found in (
        Classes(ROWS, tuple(words), classes, classes[::-1].copy(), shares),
        LabelSets(ROWS, tuple(words), sets, ~sets, shares),
        TokenTags(ROWS, np.arange(3), tags, tags[::-1].copy(), shares[:, 0]),
    ):
        write_dev_predictions(path, found)
        assert_same(read_dev_predictions(path), found)


def test_an_empty_label_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="an empty label"):
        write_dev_predictions(
            tmp_path / "x.tsv", Classes(ROWS, ("", "a"), *np.zeros((2, 3), int), HALVES)
        )


GOOD = "row\tlabel\tprediction\tno\tyes\n0\tno\tyes\t0.250000\t0.750000\n1\tyes\tyes\t0.1\t0.9\n"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\t0.9\n", "\t0.9", "is cut off"),
        (GOOD, "row\tlabel\tprediction\tno\tyes\n", "is cut off"),
        ("\t0.9\n", "\n", ":3: 4 cells, expected 5"),
        ("0.9\n", "x\n", ":3: 'x', expected a number from 0 to 1"),
        ("0.250000", "1.5", ":2: '1.5', expected a number from 0 to 1"),
        ("0.250000", "nan", ":2: 'nan', expected a number from 0 to 1"),
        ("0\tno\t", "0\tmaybe\t", ":2: label 'maybe' is none of the header's"),
        ("0\tno\t", "0\tn\\o\t", r":2: label 'n\\o'"),
        ("0\tno\t", "0\t\t", ":2: label ''"),
        ("1\tyes", "0\tyes", ":3: the same row as in line 2"),
        ("\tno\tyes\n", "\tno\tno\n", ":1: a label appears twice"),
        ("row\tlabel", "index\tlabel", ":1: columns 'index, label, prediction, no, yes'"),
    ],
)
def test_damage_is_named(tmp_path, old, new, problem):
    path = tmp_path / "dev.tsv"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(StageError, match=re.escape(problem)):
        read_dev_predictions(path)


def test_other_damage(tmp_path):
    path = tmp_path / "dev.tsv"
    with pytest.raises(StageError, match=r"dev\.tsv: no such file"):
        read_dev_predictions(path)
    path.write_bytes(GOOD.encode() + b"\xff\n")
    with pytest.raises(StageError, match="cannot be read"):
        read_dev_predictions(path)
    path.write_text("row\ttoken\tlabel\tprediction\tprobability\n0\tx\tO\tO\t1\n")
    with pytest.raises(StageError, match=":2: token 'x', expected a whole number"):
        read_dev_predictions(path)
    path.write_text("row\tlabels\tpredictions\ta\tb\n0\ta|c\t\t1\t0\n")
    with pytest.raises(StageError, match=":2: label 'c' is none of the header's"):
        read_dev_predictions(path)


def test_paths_are_those_of_the_splits(tmp_path):
    names = [dev_predictions_path(tmp_path, split).name for split in find_task("MNLI").dev]
    assert names == ["dev_matched.tsv", "dev_mismatched.tsv"]
