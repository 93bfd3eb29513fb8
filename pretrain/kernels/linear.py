"""Linear layers, whose matrix products are made fast on the CPU.

In fp32, torch multiplies matrices with Intel's MKL, which leaves the AVX-512 units of other makers'
processors unused. There, the same products by oneDNN, which torch brings along, take less than half
of the time. Elsewhere, and where torch.compile or autocast is at work, torch's own code does all.

A model may also multiply in bf16 while it trains (`multiply_in_bf16`), as GPUs do under autocast.
Its weights and what layers add up stay fp32. Processors that are built for it take half of the time
again.

Which way a product is computed depends on the machine and the run's settings alone, so that a run
that is resumed there ends with the same bits.
"""

import functools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Linear(nn.Linear):
    """torch's, through `linear` or, if in_bf16 and in training, `bf16_linear`.

    gives_bf16: what it gives then goes into another such layer, at most through an activation, and
    stays bf16.
    """

    in_bf16 = gives_bf16 = False

    def forward(self, hidden: Tensor) -> Tensor:
        half = self.in_bf16 and self.training
        if not half or hidden.dtype not in (torch.float32, torch.bfloat16):
            return linear(hidden, self.weight, self.bias)
        product = bf16_linear(hidden, self.weight, self.bias)
        return product if self.gives_bf16 else product.float()


def multiply_in_bf16(model: nn.Module) -> None:
    """Has all modules that know how multiply in bf16 while they train on the CPU."""
    for module in model.modules():
        if hasattr(module, "in_bf16"):
            module.in_bf16 = True


@functools.cache
def prefers_bf16() -> bool:
    """Whether this processor multiplies bf16 faster than fp32, and torch knows how."""
    processor = torch.cpu.get_capabilities()
    is_built_for_it = processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)
    return is_built_for_it and torch.backends.mkldnn.is_available()


def bf16_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` of fp32 or bf16 hidden states and fp32 parameters, in bf16. The result is bf16."""
    return _FastLinear.apply(hidden, weight, bias, torch.bfloat16)


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden [..., inputs] times weight [outputs, inputs] transposed, plus bias [outputs]."""
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
    """Whether this processor has AVX-512 that MKL does not use, and torch has oneDNN."""
    processor = torch.cpu.get_capabilities()
    is_intels = "Intel" in processor.get("cpu_name", "Intel")
    has_avx512 = processor.get("avx512_f", False)
    return has_avx512 and not is_intels and torch.backends.mkldnn.is_available()


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [n, k] times right [m, k] transposed, plus bias [m]; all fp32, or all bf16."""
    if left.dtype == torch.bfloat16:
        return functional.linear(left, right, bias)
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _FastLinear(torch.autograd.Function):
    """Multiplies in `dtype`, and gives that.

    hidden: fp32 or bf16, and so is its gradient; those of the parameters are fp32.
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
            of_bias = upstream.sum(0).float()  # which is added up in fp32
        return of_hidden, of_weight, of_bias, None
