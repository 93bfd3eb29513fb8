"""Attention for training on the CPU in bf16, with dropout of its weights.

Computes scores and softmax in fp32, all other products in bf16. torch's own attention makes many
passes over the weights with dropout, and is slow for short samples in any case.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pretrain.kernels.dropout import attention_bias, draw_kept


def half_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Returns softmax(query key^T / sqrt(head_dim)), dropped and scaled, times value.

    Arguments as for dropout.attention, float32 or bfloat16; the result has their dtype.
    """
    if mask is not None and mask.dtype == torch.bool:
        mask = attention_bias(mask, torch.float32)
    return _HalfAttention.apply(query, key, value, mask, dropout)


class _HalfAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, bias: Tensor | None, dropout: float) -> Tensor:
        shape, ctx.scale, ctx.dtype = query.shape, query.shape[-1] ** -0.5, query.dtype
        ctx.shapes = shape, key.shape, value.shape
        query, key = (query.float() * ctx.scale).flatten(0, 1), key.float().flatten(0, 1)
        scores = torch.bmm(query, key.mT)
        if bias is not None:
            scores.view(*shape[:3], -1).add_(bias)
        weights = torch.softmax(scores, dim=-1, out=scores).bfloat16()
        kept, ctx.dropout_scale = None, 1.0
        if dropout:
            kept = draw_kept(weights.shape, dropout).neg_()  # -1 has all bits
            ctx.dropout_scale = 1 / (1 - dropout)
        values = (value * ctx.dropout_scale).bfloat16().flatten(0, 1)
        ctx.save_for_backward(query.bfloat16(), key.bfloat16(), values, weights, kept)
        return torch.bmm(_dropped(weights, kept), values).to(ctx.dtype).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        upstream = grad.bfloat16().flatten(0, 1)
        of_value = torch.bmm(_dropped(weights, kept).mT, upstream).to(ctx.dtype)
        of_value.mul_(ctx.dropout_scale)
        of_weights = _dropped(torch.bmm(upstream, value.mT), kept)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_query = torch.bmm(of_scores, key).to(ctx.dtype).mul_(ctx.scale)
        of_key = torch.bmm(of_scores.mT, query).to(ctx.dtype)
        found = zip((of_query, of_key, of_value), ctx.shapes, strict=True)
        return *(part.view(shape) for part, shape in found), None, None


def _dropped(weights: Tensor, kept: Tensor | None) -> Tensor:
    """Sets bf16 weights to 0 at zeros of `kept` (int16, -1 or 0), by their bits."""
    if kept is None:
        return weights
    return torch.bitwise_and(weights.view(torch.int16), kept).view(torch.bfloat16)
