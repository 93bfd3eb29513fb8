"""Classifiers to predict with, on the CPU."""

import pytest

from finetune.prediction import answering
from tests.finetune.classifiers import build_classifier_of_transformers
from tests.finetune.predictions import PIECE


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A stock BERT with random weights that tells texts apart, of three labels."""
    labels = ["low", "mid", "high"]
    return build_classifier_of_transformers(tmp_path_factory.mktemp("model"), labels)


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """Restores the variables that --use_cpu sets."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("finetune.data.batches.TOGETHER", PIECE)
    monkeypatch.setattr(answering, "TOGETHER", PIECE)
