"""Makes a transformers model train faster on the CPU, without a change of its weights or names.

Linear layers multiply by oneDNN, and in training in bf16 where the processor is built for it, as
GPUs do under autocast. Dropout is that of pretrain.kernels.dropout, and attention with dropout
too, or that of pretrain.kernels.bf16_attention in bf16. What is saved, and in fp32 what is
computed, stays that of the model as it was.
"""

import functools

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pretrain.kernels.bf16_attention import half_attention
from pretrain.kernels.dropout import Dropout
from pretrain.kernels.dropout import attention as dropped_attention
from pretrain.kernels.linear import Linear, multiply_in_bf16, prefers_bf16

# Names of our attention among those of transformers, by whether it is in half precision. "sdpa" in
# them has transformers check that the model can do without the attention weights.
ATTENTION = {False: "sdpa_with_fast_dropout", True: "sdpa_in_bf16"}

# In classes of transformers' models, the names of an activation and of the layer just before it,
# where another layer follows: BERT and all that have its names, DistilBERT, ALBERT.
ACTIVATED = (("intermediate_act_fn", "dense"), ("activation", "lin1"), ("activation", "ffn"))


def accelerate(model: PreTrainedModel, half: bool | None = None) -> None:
    """Exchanges the layers of a model on the CPU in place. half: default `prefers_bf16()`."""
    if half is None:
        half = prefers_bf16()
    for module in model.modules():
        if type(module) in (nn.Linear, Linear):
            module.__class__ = Linear
        elif type(module) is nn.Dropout:
            module.__class__ = Dropout
    if half:
        multiply_in_bf16(model)
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
            if hasattr(module, activation) and type(getattr(module, first, None)) is Linear:
                getattr(module, first).gives_bf16 = True


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
