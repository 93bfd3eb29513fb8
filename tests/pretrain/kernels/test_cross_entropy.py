"""The loss over the vocabulary in bf16 stays close to the exact one."""

import pytest
import torch

from pretrain.kernels import cross_entropy
from pretrain.kernels.cross_entropy import half_mean_cross_entropy, mean_cross_entropy


def _gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = function(*leaves)
    (3 * loss).backward()
    return loss.detach(), *(leaf.grad for leaf in leaves)


@pytest.mark.parametrize(("number", "piece"), [(40, 1), (40, 7 * 61), (40, 1 << 22), (1, 61)])
def test_loss_and_gradients(monkeypatch, number, piece):
    monkeypatch.setattr(cross_entropy, "PIECE", piece)
    torch.manual_seed(0)
    labels = torch.randint(0, 61, (number,))
    labels[:2] = 5  # twice the same, in rows of their own
    tensors = torch.randn(number, 24), torch.randn(61, 24), torch.randn(61)
    ours = _gradients(lambda *parts: half_mean_cross_entropy(*parts, labels), *tensors)
    exact = _gradients(lambda h, w, b: mean_cross_entropy(h @ w.T + b, labels), *tensors)
    assert ours[0] == pytest.approx(exact[0].item(), rel=2e-3)
    for mine, theirs in zip(ours[1:], exact[1:], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


def test_what_is_hopeless_has_a_finite_loss():
    hidden, weight = torch.full((1, 8), 10.0), torch.zeros(3, 8)
    weight[0] = 10.0
    loss = half_mean_cross_entropy(hidden, weight, torch.zeros(3), torch.tensor([1]))
    assert 50 < loss < 100


def test_no_predictions():
    loss = half_mean_cross_entropy(
        torch.zeros(0, 8), torch.zeros(3, 8), torch.zeros(3), torch.zeros(0, dtype=torch.int64)
    )
    assert loss == 0
