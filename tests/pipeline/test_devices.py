"""GPUs are counted as CUDA counts them."""

import pytest

from pipeline.devices import num_gpus, visible_gpu_names
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "names"),
    [("2,3", ["2", "3"]), ("-1", []), ("", []), ("0,-1,1", ["0"]), ("GPU-ab, 1", ["GPU-ab", "1"])],
)
def test_visible_names_end_at_minus_one(monkeypatch, value, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpu_names() == names


def test_without_the_variable_all_are_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpu_names() is None


def test_switched_off_gpus_are_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert num_gpus(-1) == num_gpus(0) == 0
    with pytest.raises(ConfigError, match=r"SYSTEM\.NUM_GPUS"):
        num_gpus(1)
