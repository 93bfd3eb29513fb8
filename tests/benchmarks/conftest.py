"""What the tests of the GPU check work with."""

import os

import pytest
import torch

from benchmarks.contestants import LENGTH
from benchmarks.gpu_check.bench import REHEARSAL, Bench
from pretrain.distributed import start_ranks
from tests.pretrain.shards import write_dataset


@pytest.fixture
def bench(tmp_path):
    bench = Bench(torch.device("cpu"), REHEARSAL, tmp_path)
    vars(bench)["dataset"] = write_dataset(tmp_path / "dataset", length=LENGTH)
    return bench


@pytest.fixture(scope="module")
def one_rank():
    """This process as the one rank of its own runs; its variables are not for its children."""
    before = set(os.environ)
    start_ranks()
    torch.set_num_threads(1)
    for name in os.environ.keys() - before - {"LOCAL_RANK"}:
        del os.environ[name]
    yield
    os.environ.pop("LOCAL_RANK", None)
