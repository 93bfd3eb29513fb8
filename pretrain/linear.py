"""Linear layers, whose matrix products are made fast on the CPU.

In fp32, torch multiplies matrices with Intel's MKL, which leaves the AVX-512 units of other makers'
processors unused. There, the same products by oneDNN, which torch brings along, take less than half
of the time. Elsewhere, and where torch.compile or autocast is at work, torch's own code does all.

Which of the two computes depends on the machine alone, so that a run that is resumed on it ends
with the same bits.
"""

import functools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Linear(nn.Linear):
    """torch's, through `linear`."""

    def forward(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.weight, self.bias)


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden [..., inputs] times weight [outputs, inputs] transposed, plus bias [outputs]."""
    if _is_left_to_torch(hidden, weight):
        return functional.linear(hidden, weight, bias)
    return _OneDnnLinear.apply(hidden, weight, bias)


def _is_left_to_torch(hidden: Tensor, weight: Tensor) -> bool:
    return (
        hidden.device.type != "cpu"
        or not hidden.dtype == weight.dtype == torch.float32
        or torch.is_autocast_enabled("cpu")
        or hidden.numel() == 0  # a micro batch without predictions
        or torch.compiler.is_compiling()
        or not prefers_onednn()
    )


@functools.cache
def prefers_onednn() -> bool:
    """Whether this processor has AVX-512 that MKL does not use, and torch has oneDNN."""
    processor = torch.cpu.get_capabilities()
    is_intels = "Intel" in processor.get("cpu_name", "Intel")
    has_avx512 = processor.get("avx512_f", False)
    return has_avx512 and not is_intels and torch.backends.mkldnn.is_available()


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [n, k] times right [m, k] transposed, plus bias [m]."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.has_bias = bias is not None
        return _product(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        upstream = grad.reshape(-1, grad.shape[-1])
        of_hidden = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_hidden = _product(upstream, weight.t()).view(hidden.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _product(upstream.t(), hidden.reshape(-1, hidden.shape[-1]).t())
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = upstream.sum(0)
        return of_hidden, of_weight, of_bias
