"""Speeds up training of a transformers model on the CPU, with the same weights and names.

Linear layers multiply by oneDNN, in training in bf16 on processors with bf16 instructions, as GPUs
do under autocast. Dropout and attention with dropout are those of pretrain.kernels. Saved files
do not change, nor, up to rounding, do results in fp32.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pretrain.kernels.bf16_attention import half_attention
from pretrain.kernels.dropout import Dropout
from pretrain.kernels.dropout import attention as attention_with_dropout
from pretrain.kernels.linear import Linear, multiply_in_bf16, prefers_bf16

# Names of our attention in transformers, by whether it computes in bf16. transformers takes names
# with "sdpa" for attention that returns no attention weights.
ATTENTION = {False: "sdpa_with_fast_dropout", True: "sdpa_in_bf16"}
FASTER_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.Dropout: Dropout}
# In transformers' feed-forward blocks, the names of the activation and of the layer before it:
# BERT and its relatives, DistilBERT, ALBERT.
ACTIVATED = (("intermediate_act_fn", "dense"), ("activation", "lin1"), ("activation", "ffn"))


def accelerate(model: PreTrainedModel, half: bool | None = None) -> None:
    """Replaces the layers of a model on the CPU in place.

    half: train in bf16, by default if the processor has bf16 instructions.
    """
    if half is None:
        half = prefers_bf16()
    for module in model.modules():
        if faster := FASTER_LAYERS.get(type(module)):
            module.__class__ = faster
    if half:
        multiply_in_bf16(model)
        _keep_inner_states_half(model)
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        name = ATTENTION[half]
        AttentionInterface.register(name, functools.partial(_attention, half))
        AttentionMaskInterface.register(name, sdpa_mask)
        model.set_attn_implementation(name)


def _keep_inner_states_half(model: nn.Module) -> None:
    """Keeps the widest hidden states, inside of the feed-forward blocks, in bf16."""
    for module in model.modules():
        for activation, first in ACTIVATED:
            layer = getattr(module, first, None)
            if hasattr(module, activation) and type(layer) is Linear:
                layer.gives_bf16 = True


def _attention(
    half: bool,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Computes attention faster in training if its only option is a mask, else by transformers.

    query, key, value: [batch, heads, length, head_dim]. options: of `sdpa_attention_forward`.
    Returns [batch, length, heads, head_dim].
    """
    dropout, causal = options.get("dropout", 0.0), options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    is_plain = (
        query.shape == key.shape == value.shape
        and query.dtype == torch.float32
        and options.get("scaling") in (None, query.shape[-1] ** -0.5)
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and not (causal and attention_mask is None)
        and options.get("position_bias") is None
    )
    if not (is_plain and module.training and (dropout or half)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    attend = half_attention if half else attention_with_dropout
    output = attend(query, key, value, attention_mask, dropout)
    return output.transpose(1, 2).contiguous(), None
