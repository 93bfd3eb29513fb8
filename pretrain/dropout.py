"""Dropout of hidden states and of attention weights, made fast on the CPU.

There, torch draws one number after the other, in fp32, and attention with dropout falls back to a
dozen passes over the weights of all heads. Here, a number of 64 bits decides about four elements,
what is kept is 0 or 1 in 16 bits, and attention goes through its heads in pieces that stay in the
cache. On other devices, and where torch.compile is at work, torch's own code does it all.

What is dropped is a function of the state of torch's global generator, as with torch's own.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEVELS = 1 << 16  # p is rounded to 1 / LEVELS, and what is kept is scaled for the rounded p
# Attention weights that a core works on at a time. They pass through several buffers of 4 bytes
# each, and a core's own cache has about 1 MiB.
PIECE = 1 << 17


class Dropout(nn.Module):
    """Sets each element to 0 with probability p while training, and scales the others up."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, hidden: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return hidden
        if _is_left_to_torch(hidden, self.p):
            return functional.dropout(hidden, self.p)
        return _HiddenDropout.apply(hidden, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float
) -> Tensor:
    """Scaled dot-product attention, its weights under dropout: [batch, heads, length, head_dim].

    query, key, value: [batch, heads, length, head_dim]. attn_mask: bool, broadcastable to
    [batch, heads, length, length], True where a query attends to a key, or None for everywhere.
    dropout_p: 0.0 outside training.
    """
    if dropout_p == 0 or _is_left_to_torch(query, dropout_p):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p
        )
    return _DroppedAttention.apply(query, key, value, attn_mask, dropout_p)


def _is_left_to_torch(tensor: Tensor, p: float) -> bool:
    """Also a p so close to 0 or 1 that rounding would make it 0 or 1."""
    rounds = not 1 <= _num_dropped_levels(p) < LEVELS
    return tensor.device.type != "cpu" or torch.compiler.is_compiling() or rounds


def _num_dropped_levels(p: float) -> int:
    return round(p * LEVELS)


def _scale(p: float) -> float:
    """Of what is kept: one over the probability to keep it."""
    return LEVELS / (LEVELS - _num_dropped_levels(p))


def draw_kept(shape: torch.Size, p: float) -> Tensor:
    """int16: 1 where an element is kept, 0 with probability p; drawn from torch's generator."""
    size = math.prod(shape)
    numbers = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    # As int16, numbers begin at -LEVELS / 2. A comparison in place stays int16, which torch
    # multiplies with many times faster than with bool.
    levels = numbers.view(torch.int16)[:size]
    return levels.ge_(_num_dropped_levels(p) - LEVELS // 2).view(shape)


class _HiddenDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, p: float) -> Tensor:
        kept = draw_kept(hidden.shape, p)
        ctx.save_for_backward(kept)
        ctx.scale = _scale(p)
        return (hidden * kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None


class _DroppedAttention(torch.autograd.Function):
    """softmax(query key^T / sqrt(head_dim)), dropped and scaled, times value.

    Half precision is computed in fp32. Autocast must keep out: it would halve that again.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, query, key, value, mask: Tensor | None, p: float) -> Tensor:
        batch, heads, length, width = query.shape
        dtype = torch.promote_types(query.dtype, torch.float32)
        bias = None if mask is None else _bias(mask, dtype).expand(batch, heads, -1, -1)
        kept = draw_kept(torch.Size((batch, heads, length, length)), p)
        weights = torch.empty(kept.shape, dtype=dtype)
        output = query.new_empty(batch, length, heads, width).transpose(1, 2)
        for piece in _pieces(batch, heads, length):
            queries, keys, values = (_stack(part[piece], dtype) for part in (query, key, value))
            scores = _product(queries, keys.mT, width**-0.5)
            if bias is not None:
                scores.view(weights[piece].shape).add_(bias[piece])
            softmax = weights[piece].view(scores.shape)
            torch.softmax(scores, dim=-1, out=softmax)
            dropped = torch.mul(softmax, kept[piece].view(scores.shape), out=scores)
            product = _product(dropped, values, _scale(p))
            output[piece].copy_(product.view(output[piece].shape))
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = _scale(p)
        return output

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        batch, heads, length, width = query.shape
        dtype = weights.dtype
        # In the memory order of the one product that query, key and value usually come from.
        grads = query.new_empty(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4).unbind()
        for piece in _pieces(batch, heads, length):
            queries, keys, values, grad_output = (
                _stack(part[piece], dtype) for part in (query, key, value, grad)
            )
            softmax = weights[piece].view(-1, length, length)
            keep = kept[piece].view(softmax.shape)
            dropped = softmax * keep
            grad_value = _product(dropped.mT, grad_output, ctx.scale)
            grad_softmax = _product(grad_output, values.mT, ctx.scale).mul_(keep)
            grad_scores = torch.ops.aten._softmax_backward_data.out(
                grad_softmax, softmax, -1, dtype, grad_input=dropped
            )
            grad_query = _product(grad_scores, keys, width**-0.5)
            grad_key = _product(grad_scores.mT, queries, width**-0.5)
            for whole, part in zip(grads, (grad_query, grad_key, grad_value), strict=True):
                whole[piece].copy_(part.view(whole[piece].shape))
        return *grads, None, None


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where the mask is True, and a number so low that its softmax is 0 where it is False."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _pieces(batch: int, heads: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Rows and heads to work on at a time: several rows, or if one is too much, some heads of it.

    Pieces of more than a core's PIECE are for the other cores.
    """
    num_heads = max(1, PIECE * torch.get_num_threads() // length**2)
    if num_heads >= heads:
        rows = num_heads // heads
        for row in range(0, batch, rows):
            yield slice(row, row + rows), slice(None)
    else:
        for row in range(batch):
            for head in range(0, heads, num_heads):
                yield slice(row, row + 1), slice(head, head + num_heads)


def _stack(piece: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, heads, length, head_dim] as [rows * heads, length, head_dim]."""
    return piece.flatten(0, 1).to(dtype)


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left right, of stacks of matrices."""
    nothing = left.new_empty(1, 1, 1)
    return torch.baddbmm(nothing, left, right, beta=0, alpha=scale)
