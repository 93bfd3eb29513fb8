"""The benchmark of predictions: both ways give the same answers to the same rows."""

import csv
from pathlib import Path

import pytest

from benchmarks.predict import (
    MEAN_CHARACTERS,
    predict_usually,
    predict_with_command,
    texts_of_rows,
    write_rows,
)
from tests.finetune.classifiers import WORDS, build_classifier_of_transformers
from tests.finetune.conftest import one_thread  # noqa: F401, a fixture


class Enough(Exception):
    """Ends a contestant."""


def one_turn(seconds: float | None) -> None:
    if seconds is not None:
        raise Enough


def answers(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return [row for row in csv.reader(file) if row[0] != "id"]


@pytest.mark.usefixtures("one_thread")
def test_both_ways_give_the_same_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = Path(build_classifier_of_transformers(tmp_path / "model", ["no", "yes"]))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(" ".join(WORDS) + "\n\n" + " ".join(WORDS[::-1]))
    rows = texts_of_rows(tmp_path / "text")
    few = write_rows(tmp_path / "few.csv", rows, 100 * MEAN_CHARACTERS)
    found = {}
    for way in (predict_usually, predict_with_command):
        with pytest.raises(Enough):
            way(one_turn, model, few, tmp_path / f"{way.__name__}.csv")
        found[way] = answers(tmp_path / f"{way.__name__}.csv")
    assert len(found[predict_usually]) >= 100
    for usual, ours in zip(found[predict_usually], found[predict_with_command], strict=True):
        assert usual[:3] == ours[:3]  # id, text, label
        assert float(usual[3]) == pytest.approx(float(ours[3]), abs=2e-6)
