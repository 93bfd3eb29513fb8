"""Attention in bf16 stays close to the formula, in fp64."""

import math
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pretrain.kernels.bf16_attention import half_attention
from pretrain.kernels.dropout import draw_kept


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_attention_of_the_formula(masked, p, dtype):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 2, 4, 10, 8, generator=generator).to(dtype).requires_grad_()
    theirs = ours.detach().double().requires_grad_()
    mask = torch.arange(10) < torch.tensor([10, 7])[:, None, None, None] if masked else None
    torch.manual_seed(3)
    result = half_attention(*ours, mask, p)
    torch.manual_seed(3)
    kept = draw_kept(torch.Size((8, 10, 10)), p).view(2, 4, 10, 10) if p else 1
    query, key, value = theirs
    scores = query @ key.mT / 8**0.5
    scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    expected = (scores.softmax(-1) * kept / (1 - p)) @ value
    upstream = torch.randn(expected.shape, generator=generator)
    (of_ours,) = torch.autograd.grad(result, ours, upstream.to(dtype))
    (of_theirs,) = torch.autograd.grad(expected, theirs, upstream.double())
    for mine, exact in ((result, expected), (of_ours, of_theirs)):
        assert mine.dtype == dtype
        assert (mine - exact).norm() < 0.01 * exact.norm()  # bf16 has 8 bits


def test_gradient_checkpointing_drops_the_same_again():
    heads = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for attend in (half_attention, partial(checkpoint, half_attention, use_reentrant=False)):
        torch.manual_seed(3)
        leaves = heads.clone().requires_grad_()
        attend(*leaves, None, 0.25).pow(2).sum().backward()
        gradients.append(leaves.grad)
    assert torch.equal(*gradients)
