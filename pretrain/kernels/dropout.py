"""Fast dropout of hidden states and attention weights on the CPU.

On the CPU, torch draws a number per element, sequentially except on Intel's processors, and makes
a dozen passes over the attention weights of all heads. Here, a number of 64 bits decides four
elements, the mask is 0 or 1 in 16 bits, and attention works on a few heads at a time, in the cache.
On other devices and under torch.compile, torch's own code runs.

The mask is a function of the state of torch's global generator, as with torch's own dropout.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEVELS = 1 << 16  # p is rounded to a multiple of 1 / LEVELS
# Attention weights per core and piece: 2 MiB in fp32, in three buffers of that size. Fewer are not
# worth waking the other cores, more do not fit into the caches.
PIECE = 1 << 19


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


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float
) -> Tensor:
    """Returns scaled dot-product attention with dropout, in the shape of the queries.

    query: [batch, heads, queries, head_dim]; key, value: [batch, heads, keys, head_dim]. attn_mask:
    broadcastable to [batch, heads, queries, keys], True for pairs that attend, or a bias of the
    scores (attention_bias), or None for all pairs. dropout_p: 0.0 outside training.
    """
    if dropout_p == 0 or _is_left_to_torch(query, dropout_p):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p
        )
    return _DroppedAttention.apply(query, key, value, attn_mask, dropout_p)


def attention_bias(attends: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0 for True; for False the lowest number of the dtype, with a softmax of 0."""
    bias = torch.zeros(attends.shape, dtype=dtype, device=attends.device)
    return bias.masked_fill_(~attends, torch.finfo(dtype).min)


def _is_left_to_torch(tensor: Tensor, p: float) -> bool:
    """True except on the CPU without torch.compile; also if p would be rounded to 0 or 1."""
    rounds = not 1 <= _num_dropped_levels(p) < LEVELS
    return tensor.device.type != "cpu" or torch.compiler.is_compiling() or rounds


def _num_dropped_levels(p: float) -> int:
    return round(p * LEVELS)


def _scale(p: float) -> float:
    """Returns the scale of kept elements: 1 over their rounded probability."""
    return LEVELS / (LEVELS - _num_dropped_levels(p))


def draw_kept(shape: torch.Size, p: float) -> Tensor:
    """Returns an int16 mask, 0 with probability p, else 1; draws from torch's generator."""
    size = math.prod(shape)
    numbers = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    # The lowest int16 is -LEVELS / 2. A comparison in place stays int16: torch multiplies by it
    # many times faster than by bool.
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
    """Computes softmax(query key^T / sqrt(head_dim)), dropped and scaled, times value.

    Half precision is computed in fp32, with autocast disabled.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, query, key, value, mask: Tensor | None, p: float) -> Tensor:
        dtype = torch.promote_types(query.dtype, torch.float32)
        queries, keys, values = (_stack(part, dtype) for part in (query, key, value))
        kept = draw_kept(torch.Size((*queries.shape[:2], keys.shape[1])), p)
        if mask is not None:
            bias = attention_bias(mask, dtype) if mask.dtype == torch.bool else mask
            bias = bias.expand(*query.shape[:2], -1, -1)
        weights, output = torch.empty(kept.shape, dtype=dtype), torch.empty_like(queries)
        for piece in _pieces(kept.shape):
            scores = _product(queries[piece], keys[piece].mT, query.shape[3] ** -0.5)
            if mask is not None:
                scores.add_(_stacked(bias, piece))
            torch.softmax(scores, dim=-1, out=weights[piece])
            dropped = torch.mul(weights[piece], kept[piece], out=scores)
            _product(dropped, values[piece], _scale(p), out=output[piece])
        ctx.save_for_backward(queries, keys, values, weights, kept)
        ctx.scale, ctx.shapes = _scale(p), (query.shape, key.shape, value.shape)
        return output.view(query.shape).to(query.dtype)

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, weights, kept = ctx.saved_tensors
        upstream = _stack(grad, queries.dtype)
        grads = [torch.empty_like(part) for part in (queries, keys, values)]
        for piece in _pieces(kept.shape):
            grad_query, grad_key, grad_value = (part[piece] for part in grads)
            dropped = weights[piece] * kept[piece]
            _product(dropped.mT, upstream[piece], ctx.scale, out=grad_value)
            of_weights = _product(upstream[piece], values[piece].mT, ctx.scale).mul_(kept[piece])
            of_scores = torch.ops.aten._softmax_backward_data.out(
                of_weights, weights[piece], -1, weights.dtype, grad_input=dropped
            )
            _product(of_scores, keys[piece], queries.shape[2] ** -0.5, out=grad_query)
            _product(of_scores.mT, queries[piece], queries.shape[2] ** -0.5, out=grad_key)
        found = zip(grads, ctx.shapes, strict=True)
        return *(part.view(shape).to(grad.dtype) for part, shape in found), None, None


def _stack(heads: Tensor, dtype: torch.dtype) -> Tensor:
    """Reshapes [batch, heads, length, head_dim] to [batch * heads, ...], contiguous."""
    return heads.flatten(0, 1).contiguous().to(dtype)


def _stacked(bias: Tensor, piece: slice) -> Tensor:
    """Returns those rows of [batch, heads, ...] reshaped to [batch * heads, ...], without a copy
    of the whole."""
    rows = torch.arange(piece.start, piece.stop)
    return bias[rows // bias.shape[1], rows % bias.shape[1]]


def _pieces(shape: torch.Size) -> Iterator[slice]:
    """Yields slices of the heads of [heads, queries, keys], with about PIECE weights per core."""
    size, num_weights = shape[0], shape[1] * shape[2]
    step = max(1, PIECE * torch.get_num_threads() // num_weights)
    for start in range(0, size, step):
        yield slice(start, min(size, start + step))


def _product(left: Tensor, right: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Returns scale * left right, for stacks of matrices."""
    nothing = left.new_empty(1, 1, 1)
    return torch.baddbmm(nothing, left, right, beta=0, alpha=scale, out=out)
