"""Linear layers with fast matrix products on the CPU.

In fp32, torch multiplies matrices with Intel's MKL, without the AVX-512 units of processors of
other makers. On those, the products of oneDNN, a part of torch, take less than half of the time.
On other processors, and under torch.compile or autocast, torch's own code runs.

A model can also multiply in bf16 during training (`multiply_in_bf16`), as GPUs do under autocast,
with weights and residual sums in fp32. Processors with bf16 products take half of the time again.

The machine and the settings alone decide between these kernels: a run resumed on the same machine
ends with the same bits.
"""

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Linear(nn.Linear):
    """nn.Linear with the kernel `linear` or, in training with in_bf16, `bf16_linear`.

    gives_bf16: True if the output of `bf16_linear` stays bf16, for another such layer, possibly
    after an activation.
    """

    in_bf16 = gives_bf16 = False

    def forward(self, hidden: Tensor) -> Tensor:
        half = self.in_bf16 and self.training
        if not half or hidden.dtype not in (torch.float32, torch.bfloat16):
            return linear(hidden, self.weight, self.bias)
        product = bf16_linear(hidden, self.weight, self.bias)
        return product if self.gives_bf16 else product.float()


def multiply_in_bf16(model: nn.Module) -> None:
    """Sets in_bf16 in all modules with that attribute, for training on the CPU."""
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "in_bf16"):
            module.in_bf16 = True


@functools.cache
def prefers_bf16() -> bool:
    """True if this processor has fast bf16 products, and torch oneDNN."""
    return has_bf16_products() and torch.backends.mkldnn.is_available()


def has_bf16_products() -> bool:
    """True if this processor has instructions for bf16 products."""
    processor = torch.cpu.get_capabilities()
    return processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)


def bf16_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes `linear` in bf16, with a bf16 result, from hidden states in fp32 or bf16."""
    return _FastLinear.apply(hidden, weight, bias, torch.bfloat16)


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns hidden [..., inputs] weight^T + bias, for a weight [outputs, inputs]."""
    if _is_left_to_torch(hidden, weight):
        return functional.linear(hidden, weight, bias)
    return _FastLinear.apply(hidden, weight, bias, torch.float32)


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
    """True if this processor has AVX-512 units unused by MKL, and torch oneDNN."""
    processor = torch.cpu.get_capabilities()
    is_intels = "Intel" in processor.get("cpu_name", "Intel")
    has_avx512 = processor.get("avx512_f", False)
    return has_avx512 and not is_intels and torch.backends.mkldnn.is_available()


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns left [n, k] times right [m, k] transposed, plus bias [m]; all fp32 or all bf16."""
    if left.dtype == torch.bfloat16:
        return functional.linear(left, right, bias)
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _FastLinear(torch.autograd.Function):
    """Multiplies in `dtype`, with a result of that dtype.

    hidden and its gradient: fp32 or bf16; gradients of the parameters: fp32.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype) -> Tensor:
        factors = hidden.to(dtype), weight.to(dtype)
        ctx.save_for_backward(*factors)
        ctx.hidden_dtype, ctx.has_bias = hidden.dtype, bias is not None
        return _product(*factors, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        upstream = grad.reshape(-1, grad.shape[-1])
        of_hidden = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_hidden = _product(upstream, weight.t()).to(ctx.hidden_dtype).view(hidden.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _product(upstream.t(), hidden.reshape(-1, hidden.shape[-1]).t()).float()
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = upstream.sum(0).float()  # summed in fp32 internally
        return of_hidden, of_weight, of_bias, None
