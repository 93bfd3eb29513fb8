"""Linear layers by oneDNN compute what torch's do, and only where they may."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pretrain.kernels import linear as module
from pretrain.kernels.linear import Linear, bf16_linear, linear, multiply_in_bf16

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


@pytest.fixture
def onednn(monkeypatch):
    """Counts the products that go that way."""
    calls = []
    product = module._product

    def counted(*tensors):
        calls.append(tensors)
        return product(*tensors)

    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "_product", counted)
    return calls


def _gradients(function, *tensors):
    leaves = [t.clone().requires_grad_() if t is not None else None for t in tensors]
    output = function(*leaves)
    output.pow(2).sum().backward()
    return output, *(leaf.grad for leaf in leaves if leaf is not None)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
def test_outputs_and_gradients_are_those_of_torch(onednn, shape, bias):
    torch.manual_seed(0)
    hidden, weight = torch.randn(shape), torch.randn(40, 24)
    tensors = hidden, weight, torch.randn(40) if bias else None
    ours, expected = _gradients(linear, *tensors), _gradients(functional.linear, *tensors)
    assert len(onednn) == 3  # forward, and the gradients of both factors
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


@needs_onednn
def test_no_gradient_is_computed_that_nobody_wants(onednn):
    layer = Linear(24, 40)
    layer(torch.randn(5, 24)).sum().backward()
    assert len(onednn) == 2


@needs_onednn
def test_no_rows(onednn):
    hidden, weight, bias = torch.zeros(0, 24), torch.randn(40, 24), torch.randn(40)
    output, *gradients = _gradients(linear, hidden, weight, bias)
    assert output.shape == (0, 40) and not any(gradient.any() for gradient in gradients)


@needs_onednn
def test_half_precision_is_left_to_torch(onednn):
    layer = Linear(24, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(5, 24)).dtype == torch.bfloat16
    layer.bfloat16()(torch.randn(5, 24, dtype=torch.bfloat16))
    assert not onednn


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Platinum", "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_which_processors(monkeypatch, processor, expected):
    module.prefers_onednn.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert module.prefers_onednn() is expected
    module.prefers_onednn.cache_clear()


def test_which_processors_multiply_bf16(monkeypatch):
    for capabilities, expected in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        module.prefers_bf16.cache_clear()
        assert module.prefers_bf16() is expected
    module.prefers_bf16.cache_clear()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_products_are_close_and_gradients_keep_their_types(bias, dtype):
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 30, 24), torch.randn(40, 24)
    tensors = hidden.to(dtype), weight, torch.randn(40) if bias else None
    ours, expected = _gradients(bf16_linear, *tensors), _gradients(_exact, *tensors)
    assert ours[0].dtype == torch.bfloat16
    assert [t.dtype for t in ours[1:]] == [dtype, torch.float32, torch.float32][: 2 + bias]
    for mine, exact in zip(ours, expected, strict=True):
        assert (mine - exact).norm() < 0.02 * exact.norm()


def test_no_rows_in_bf16():
    weight, bias = torch.randn(40, 24), torch.randn(40)
    output, *gradients = _gradients(bf16_linear, torch.zeros(0, 24), weight, bias)
    assert output.shape == (0, 40) and not any(gradient.any() for gradient in gradients)


def _exact(hidden, weight, bias):
    return functional.linear(hidden.float(), weight, bias)


def test_bf16_is_for_training_alone():
    torch.manual_seed(0)
    model = nn.Sequential(Linear(24, 40), nn.GELU(), Linear(40, 24))
    model[0].gives_bf16 = True
    hidden = torch.randn(5, 24)
    exact = model.train()(hidden)
    multiply_in_bf16(model)
    torch.testing.assert_close(model.eval()(hidden), exact, atol=0, rtol=0)
    half = model.train()(hidden)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert (half - exact).norm() < 0.02 * exact.norm()
    assert model[0](hidden).dtype == torch.bfloat16
