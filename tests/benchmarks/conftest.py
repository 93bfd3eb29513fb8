"""Fixtures for the tests of the GPU check."""

import pytest
import torch

from benchmarks.gpu_check.bench import REHEARSAL, Bench
from benchmarks.models import LENGTH
from tests.pretrain.shards import write_dataset


@pytest.fixture
def bench(tmp_path):
    bench = Bench(torch.device("cpu"), REHEARSAL, tmp_path)
    vars(bench)["dataset"] = write_dataset(tmp_path / "dataset", length=LENGTH)
    return bench
