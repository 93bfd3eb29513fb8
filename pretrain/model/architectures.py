"""Which class of transformers our model is, and its weights and config under that class's names.

Where transformers has no such class, it is one of our own, whose code goes with the export.
"""

import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.model.encoder import NUM_SEGMENTS

SpecialIds = dict[str, int]
LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
WORDS = "encoder.embeddings.word.weight"  # padded to a multiple, along the vocabulary


@dataclass(frozen=True)
class Architecture:
    """A model of transformers that computes what ours does.

    names: our modules outside the layers -> theirs. layer_names: our modules in a layer -> theirs,
    below `layer_prefix.<number>`; a tuple where theirs has several for one of ours. settings: what
    only its config.json holds, of our flags and the special ids. shifted_positions: whether
    position p is row p + pad_token_id + 1 of its table. own_code: whether it needs files of ours.
    """

    model_type: str
    class_name: str
    names: dict[str, str]
    layer_prefix: str
    layer_names: dict[str, str | tuple[str, ...]]
    settings: Callable[[Namespace, SpecialIds], dict[str, Any]]
    shifted_positions: bool = False
    own_code: bool = False


def architecture_of(args: Namespace) -> Architecture:
    """The one whose masked language model is BasePretrainModel with these flags."""
    pre_ln, rotary = args.encoder_ln_mode == "pre-ln", args.position_embedding_type == "rotary"
    if args.norm_type == "layernorm" and args.embedding_norm:
        if rotary and pre_ln and args.glu:
            return MODERN_BERT
        if not rotary and args.use_bias and not args.glu and not args.attention_window:
            return PRE_LN_BERT if pre_ln else BERT
    return EXTREME_BERT


# --- weights ---------------------------------------------------------------------------------


def hugging_face_weights(
    weights: dict[str, Tensor], args: Namespace, pad_token_id: int
) -> dict[str, Tensor]:
    """Our state dict under transformers' names, in fp32, without the padding of the vocabulary."""
    architecture = architecture_of(args)
    result = {}
    for name, weight in weights.items():
        tensor = weight.detach().float().cpu()
        if name == WORDS:
            tensor = tensor[: args.vocab_size]
        elif name == "encoder.embeddings.position.weight" and architecture.shifted_positions:
            tensor = torch.cat([tensor.new_zeros(pad_token_id + 1, tensor.shape[1]), tensor])
        result |= _renamed(name, tensor, architecture)
    return {name: tensor.contiguous() for name, tensor in result.items()}


def _renamed(name: str, tensor: Tensor, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of what stands for one of our tensors."""
    module, _, kind = name.rpartition(".")
    layer = LAYER.fullmatch(module)
    if not layer:
        theirs = architecture.names[module or kind]
        yield (f"{theirs}.{kind}" if module else theirs), tensor
        return
    number, part = layer.groups()
    names = architecture.layer_names[part]
    names = (names,) if isinstance(names, str) else names
    for theirs, piece in zip(names, tensor.chunk(len(names)), strict=True):
        yield f"{architecture.layer_prefix}.{number}.{theirs}.{kind}", piece.clone()


# --- config.json -----------------------------------------------------------------------------


def hugging_face_config(args: Namespace, special_ids: SpecialIds) -> dict[str, Any]:
    """config.json of the export; special_ids: pad_token_id, bos_token_id, eos_token_id."""
    architecture = architecture_of(args)
    unused_positions = special_ids["pad_token_id"] + 1 if architecture.shifted_positions else 0
    return {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": args.vocab_size,
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "num_attention_heads": args.num_attention_heads,
        "intermediate_size": args.intermediate_size,
        "max_position_embeddings": args.max_seq_length + unused_positions,
        "initializer_range": args.initializer_range,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **architecture.settings(args, special_ids),
        **special_ids,
    }


def _picked(args: Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names}


def _bert_settings(args: Namespace, special_ids: SpecialIds) -> dict[str, Any]:
    names = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps")
    return {"type_vocab_size": NUM_SEGMENTS, **_picked(args, *names)}


def _modern_bert_settings(args: Namespace, special_ids: SpecialIds) -> dict[str, Any]:
    """Dropout stands inside the feed-forward, not behind it."""
    every = args.global_attention_every if args.attention_window else 1
    layers = range(args.num_hidden_layers)
    rope = {"rope_type": "default", "rope_theta": args.rope_theta}
    windows = {"local_attention": args.attention_window, "local_rope_theta": args.rope_theta}
    biases = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
    return {
        "hidden_activation": args.hidden_act,
        "classifier_activation": "gelu",
        # Masked tokens alone are trained, so that [CLS], which is none, stands for nothing.
        "classifier_pooling": "mean",
        "norm_eps": args.layer_norm_eps,
        "layer_types": ["sliding_attention" if n % every else "full_attention" for n in layers],
        "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
        # The same in the words of versions 4 of transformers, which pass over the lines above.
        "global_attn_every_n_layers": every,
        "global_rope_theta": args.rope_theta,
        **(windows if args.attention_window else {}),
        "embedding_dropout": args.hidden_dropout_prob,
        "mlp_dropout": args.hidden_dropout_prob,
        "attention_dropout": args.attention_probs_dropout_prob,
        "classifier_dropout": args.hidden_dropout_prob,
        "decoder_bias": True,
        "cls_token_id": special_ids["bos_token_id"],
        "sep_token_id": special_ids["eos_token_id"],
        **dict.fromkeys(biases, args.use_bias),
    }


def _own_settings(args: Namespace, special_ids: SpecialIds) -> dict[str, Any]:
    code, model = "configuration_extremebert", "modeling_extremebert.ExtremeBert"
    return {
        "auto_map": {
            "AutoConfig": f"{code}.ExtremeBertConfig",
            "AutoModel": f"{model}Model",
            "AutoModelForMaskedLM": f"{model}ForMaskedLM",
            "AutoModelForSequenceClassification": f"{model}ForSequenceClassification",
        },
        "classifier_dropout": args.hidden_dropout_prob,
        **_picked(args, "hidden_act", "glu", "encoder_ln_mode", "position_embedding_type"),
        **_picked(args, "rope_theta", "use_bias", "norm_type", "embedding_norm"),
        **_picked(args, "attention_window", "global_attention_every"),
        **_picked(args, "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps"),
    }


# --- the architectures -----------------------------------------------------------------------


def _bert_embeddings(prefix: str) -> dict[str, str]:
    return {
        "encoder.embeddings.word": f"{prefix}.embeddings.word_embeddings",
        "encoder.embeddings.position": f"{prefix}.embeddings.position_embeddings",
        "encoder.embeddings.segment": f"{prefix}.embeddings.token_type_embeddings",
        "encoder.embeddings.norm": f"{prefix}.embeddings.LayerNorm",
    }


BERT_LAYER: dict[str, str | tuple[str, ...]] = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": "attention.output.dense",
    "feed_forward.input": "intermediate.dense",
    "feed_forward.output": "output.dense",
}

BERT = Architecture(
    model_type="bert",
    class_name="BertForMaskedLM",
    names={
        **_bert_embeddings("bert"),
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "output_bias": "cls.predictions.bias",
    },
    layer_prefix="bert.encoder.layer",
    layer_names={
        **BERT_LAYER,
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward_norm": "output.LayerNorm",
    },
    settings=_bert_settings,
)

PRE_LN_BERT = Architecture(
    model_type="roberta-prelayernorm",
    class_name="RobertaPreLayerNormForMaskedLM",
    names={
        **_bert_embeddings("roberta_prelayernorm"),
        "encoder.final_norm": "roberta_prelayernorm.LayerNorm",
        "head.dense": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "output_bias": "lm_head.bias",
    },
    layer_prefix="roberta_prelayernorm.encoder.layer",
    layer_names={
        **BERT_LAYER,
        "attention_norm": "attention.LayerNorm",
        "feed_forward_norm": "intermediate.LayerNorm",
    },
    settings=_bert_settings,
    shifted_positions=True,
)

MODERN_BERT = Architecture(
    model_type="modernbert",
    class_name="ModernBertForMaskedLM",
    names={
        "encoder.embeddings.word": "model.embeddings.tok_embeddings",
        "encoder.embeddings.norm": "model.embeddings.norm",
        "encoder.final_norm": "model.final_norm",
        "head.dense": "head.dense",
        "head.norm": "head.norm",
        "output_bias": "decoder.bias",
    },
    layer_prefix="model.layers",
    layer_names={
        "attention.qkv": "attn.Wqkv",
        "attention.output": "attn.Wo",
        "attention_norm": "attn_norm",
        "feed_forward.input": "mlp.Wi",
        "feed_forward.output": "mlp.Wo",
        "feed_forward_norm": "mlp_norm",
    },
    settings=_modern_bert_settings,
)

_OWN_NAMES = ("embeddings.word", "embeddings.position", "embeddings.segment", "embeddings.norm")
EXTREME_BERT = Architecture(
    model_type="extreme-bert",
    class_name="ExtremeBertForMaskedLM",
    names={
        **{f"encoder.{name}": f"model.encoder.{name}" for name in (*_OWN_NAMES, "final_norm")},
        "head.dense": "head.dense",
        "head.norm": "head.norm",
        "output_bias": "decoder.bias",
    },
    layer_prefix="model.encoder.layers",
    layer_names={name: name for name in MODERN_BERT.layer_names},
    settings=_own_settings,
    own_code=True,
)
