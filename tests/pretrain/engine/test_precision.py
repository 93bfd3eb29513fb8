"""What "auto" stands for, and when bf16 is our model's own."""

import pytest
import torch

from pretrain.engine import precision
from pretrain.engine.precision import multiplies_in_bf16, resolve_precision, set_tf32

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has_bf16", [False, True])
def test_auto(monkeypatch, has_bf16):
    monkeypatch.setattr(precision, "prefers_bf16", lambda: has_bf16)
    assert resolve_precision("auto", GPU, "bert-mlm") == "fp16"
    assert resolve_precision("auto", CPU, "bert-mlm") == ("bf16" if has_bf16 else "fp32")
    assert resolve_precision("auto", CPU, "bert") == "fp32"
    assert resolve_precision("fp16", CPU, "bert-mlm") == "fp16"


@pytest.mark.parametrize("is_native", [False, True])
def test_bf16_that_a_gpu_emulates_is_refused(monkeypatch, is_native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: is_native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    for asked, expected in (("auto", "fp16"), ("fp16", "fp16"), ("fp32", "fp32")):
        assert resolve_precision(asked, GPU, "bert-mlm") == expected
    if is_native:
        assert resolve_precision("bf16", GPU, "bert-mlm") == "bf16"
    else:
        with pytest.raises(ValueError, match=r"--precision: Tesla T4 only emulates bf16"):
            resolve_precision("bf16", GPU, "bert-mlm")


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        ({}, CPU, True),
        ({"zero_stage": 0}, CPU, True),
        ({"zero_stage": 1}, CPU, False),
        ({"precision": "fp32"}, CPU, False),
        ({"model_type": "bert"}, CPU, False),
        ({}, GPU, False),
    ],
)
def test_whose_bf16_is(changes, device, expected):
    run = {"precision": "bf16", "model_type": "bert-mlm", "zero_stage": -1, **changes}
    assert multiplies_in_bf16(device=device, **run) is expected


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_what_the_key_says(allowed):
    """Whatever an environment or a library has set before."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = not allowed
        set_tf32(allowed)
        assert matmul.allow_tf32 is allowed and cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
