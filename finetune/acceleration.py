"""Makes a transformers model train faster on the CPU, without a change of its weights or names.

Linear layers multiply by oneDNN, and in training in bf16 where the processor is built for it, as
GPUs do under autocast. Dropout is that of pretrain.dropout, and attention with dropout too, or that
of finetune.attention in bf16. What is saved, and in fp32 what is computed, stays that of the model
as it was.
"""

import ctypes
import functools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune.attention import half_attention
from pretrain.dropout import Dropout
from pretrain.dropout import attention as dropped_attention
from pretrain.linear import Linear, linear

# Names of our attention among those of transformers, by whether it is in half precision. "sdpa" in
# them has transformers check that the model can do without the attention weights.
ATTENTION = {False: "sdpa_with_fast_dropout", True: "sdpa_in_bf16"}

# In classes of transformers' models, the names of an activation and of the layer just before it,
# where another layer follows: BERT and all that have its names, DistilBERT, ALBERT.
ACTIVATED = (("intermediate_act_fn", "dense"), ("activation", "lin1"), ("activation", "ffn"))

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class HalfLinear(nn.Linear):
    """Multiplies in bf16 while training, and is pretrain.linear's otherwise.

    What it gives is fp32, unlike under autocast, so that layers are added up in fp32. gives_half:
    what it gives goes into another such layer, at most through an activation, and stays bf16.
    """

    gives_half = False

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or hidden.dtype not in (torch.float32, torch.bfloat16):
            return linear(hidden, self.weight, self.bias)
        product = _HalfProduct.apply(hidden, self.weight, self.bias)
        return product if self.gives_half else product.float()


class _HalfProduct(torch.autograd.Function):
    """hidden: fp32 or bf16, and so is its gradient. The product is bf16."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half, half_weight = hidden.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(half, half_weight)
        ctx.dtype, ctx.has_bias = hidden.dtype, bias is not None
        return functional.linear(half, half_weight, None if bias is None else bias.bfloat16())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        upstream = grad.reshape(-1, grad.shape[-1])
        of_hidden = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_hidden = (upstream @ weight).to(ctx.dtype).view(hidden.shape)
        if ctx.needs_input_grad[1]:
            of_weight = (upstream.t() @ hidden.reshape(-1, hidden.shape[-1])).float()
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = upstream.sum(0).float()  # which is added up in fp32
        return of_hidden, of_weight, of_bias


@functools.cache
def prefers_bf16() -> bool:
    """Whether this processor multiplies bf16 faster than fp32, and torch knows how."""
    processor = torch.cpu.get_capabilities()
    is_built_for_it = processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)
    return is_built_for_it and torch.backends.mkldnn.is_available()


def accelerate(model: PreTrainedModel, half: bool | None = None) -> None:
    """Exchanges the layers of a model on the CPU in place. half: default `prefers_bf16()`."""
    if half is None:
        half = prefers_bf16()
    for module in model.modules():
        if type(module) in (nn.Linear, Linear):
            module.__class__ = HalfLinear if half else Linear
        elif type(module) is nn.Dropout:
            module.__class__ = Dropout
    if half:
        _keep_inner_states_half(model)
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        name = ATTENTION[half]
        AttentionInterface.register(name, functools.partial(_attention, half))
        AttentionMaskInterface.register(name, sdpa_mask)
        model.set_attn_implementation(name)


def _keep_inner_states_half(model: nn.Module) -> None:
    """The widest states of a transformer, between the two matrices of a feed-forward layer."""
    for module in model.modules():
        for activation, first in ACTIVATED:
            if hasattr(module, activation) and type(getattr(module, first, None)) is HalfLinear:
                getattr(module, first).gives_half = True


def _attention(
    half: bool,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others,
) -> tuple[Tensor, None]:
    """transformers' sdpa, faster in training where no more than a mask shapes it.

    query, key, value: [batch, heads, length, head_dim]; returns [batch, length, heads, head_dim].
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    is_plain = (
        query.shape == key.shape == value.shape
        and query.dtype == torch.float32
        and scaling in (None, query.shape[-1] ** -0.5)
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and not (causal and attention_mask is None)
        and others.get("position_bias") is None
    )
    if not (is_plain and module.training and (dropout or half)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **others
        )
    attend = half_attention if half else dropped_attention
    output = attend(query, key, value, attention_mask, dropout)
    return output.transpose(1, 2).contiguous(), None


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next step, which would else get fresh pages each time.

    Does nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
