"""Our model as a class of transformers: its name, weights and config.

If transformers lacks the architecture, the class is our own, exported with its code.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pretrain.settings import ModelSettings

BERT_NAMES = (  # of settings
    *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps"),
)
OWN_NAMES = (
    *("glu", "encoder_ln_mode", "position_embedding_type", "rope_theta", "use_bias", "norm_type"),
    *("embedding_norm", "attention_window", "global_attention_every"),
)
TRAINED_LENGTH = "trained_sequence_length"  # an entry of our own in config.json
LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
WORDS = "encoder.embeddings.word.weight"  # padded to a multiple, along the vocabulary
POSITIONS = "encoder.embeddings.position.weight"
BIAS = "output_bias"
# Rows of a checkpoint's table of positions without a token, kept as they are. Not a parameter.
UNUSED_POSITIONS = "encoder.embeddings.unused_position.weight"


@dataclass(frozen=True)
class Architecture:
    """A model of transformers equivalent to ours.

    names: our modules outside the layers -> theirs. layer_names: our modules in a layer -> theirs,
    under `layer_prefix.<number>`; a tuple if one of ours is several of theirs. settings: entries of
    config.json of this architecture alone. shifted_positions: True if position p is row
    p + pad_token_id + 1 of the table. own_code: True if the export needs our code. base: prefix of
    their encoder's tensors. tied: names of tensors that may repeat another one in a checkpoint.
    """

    model_type: str
    class_name: str
    names: dict[str, str]
    layer_prefix: str
    layer_names: dict[str, str | tuple[str, ...]]
    settings: Callable[[ModelSettings], dict[str, Any]]
    shifted_positions: bool = False
    own_code: bool = False
    base: str = "model."
    tied: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The name of their word embeddings."""
        return f"{self.names['encoder.embeddings.word']}.weight"


def architecture_of(settings: ModelSettings) -> Architecture:
    """Returns the architecture equivalent to BasePretrainModel with these settings."""
    pre_ln = settings.encoder_ln_mode == "pre-ln"
    rotary = settings.position_embedding_type == "rotary"
    if settings.norm_type == "layernorm" and settings.embedding_norm:
        if rotary and pre_ln and settings.glu:
            return MODERN_BERT
        if not rotary and settings.use_bias and not settings.glu and not settings.attention_window:
            return PRE_LN_BERT if pre_ln else BERT
    return EXTREME_BERT


# --- weights ---------------------------------------------------------------------------------


def hugging_face_weights(weights: dict[str, Tensor], settings: ModelSettings) -> dict[str, Tensor]:
    """Returns our state dict under transformers' names, in fp32, without vocabulary padding."""
    architecture = architecture_of(settings)
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensor = weight.detach().float().cpu()
        if name == WORDS:
            tensor = tensor[: settings.vocab_size]
        elif name == POSITIONS:
            unused = _unused_positions(settings, architecture)
            rows = weights.get(UNUSED_POSITIONS, tensor[:0])[:unused].float().cpu()
            more = tensor.new_zeros(unused - len(rows), tensor.shape[1])
            tensor = torch.cat([rows, more, tensor])
        if name != UNUSED_POSITIONS:
            result |= _renamed(name, tensor, architecture)
    return {name: tensor.contiguous() for name, tensor in result.items()}


def _renamed(name: str, tensor: Tensor, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) of the equivalents of one of our tensors."""
    names = their_names(name, architecture)
    if len(names) == 1:
        yield names[0], tensor
        return
    for theirs, piece in zip(names, tensor.chunk(len(names)), strict=True):
        yield theirs, piece.clone()


def their_names(name: str, architecture: Architecture) -> tuple[str, ...]:
    """Returns the equivalents of one of our tensors, in the order of its rows."""
    module, _, kind = name.rpartition(".")
    layer = LAYER.fullmatch(module)
    if not layer:
        theirs = architecture.names[module or kind]
        return ((f"{theirs}.{kind}" if module else theirs),)
    number, part = layer.groups()
    names = architecture.layer_names[part]
    names = (names,) if isinstance(names, str) else names
    return tuple(f"{architecture.layer_prefix}.{number}.{theirs}.{kind}" for theirs in names)


# --- config.json -----------------------------------------------------------------------------


def hugging_face_config(settings: ModelSettings) -> dict[str, Any]:
    """Returns config.json of the export."""
    architecture = architecture_of(settings)
    num_unused = _unused_positions(settings, architecture)
    return {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        **_picked(settings, "vocab_size", "hidden_size", "num_hidden_layers"),
        **_picked(settings, "num_attention_heads", "intermediate_size"),
        "max_position_embeddings": settings.positions + num_unused,
        **trained_length(settings),
        "initializer_range": settings.initializer_range,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **architecture.settings(settings),
        **settings.special_ids,
    }


def trained_length(settings: ModelSettings) -> dict[str, int]:
    """Returns an entry for config.json with the tokens per row, if the model takes longer rows."""
    return {TRAINED_LENGTH: settings.max_seq_length} if settings.num_positions else {}


def _unused_positions(settings: ModelSettings, architecture: Architecture) -> int:
    """Returns the number of unused rows at the start of the table of positions."""
    return settings.special_ids["pad_token_id"] + 1 if architecture.shifted_positions else 0


def _picked(settings: ModelSettings, *names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names}


def _bert_settings(settings: ModelSettings) -> dict[str, Any]:
    return _picked(settings, "type_vocab_size", *BERT_NAMES)


def _modern_bert_settings(settings: ModelSettings) -> dict[str, Any]:
    """Returns its settings; its dropout is inside the feed-forward part, not after it."""
    window, theta = settings.attention_window, settings.rope_theta
    local_theta = (window and settings.local_rope_theta) or theta
    every = settings.global_attention_every if window else 1
    layers = range(settings.num_hidden_layers)
    rope, local_rope = ({"rope_type": "default", "rope_theta": t} for t in (theta, local_theta))
    biases = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
    return {
        "hidden_activation": settings.hidden_act,
        "classifier_activation": "gelu",
        # [CLS] is never masked: its hidden state is not trained.
        "classifier_pooling": "mean",
        "norm_eps": settings.layer_norm_eps,
        "layer_types": ["sliding_attention" if n % every else "full_attention" for n in layers],
        "rope_parameters": {"full_attention": rope, "sliding_attention": local_rope},
        # The same for version 4 of transformers.
        "global_attn_every_n_layers": every,
        "global_rope_theta": theta,
        **({"local_attention": window, "local_rope_theta": local_theta} if window else {}),
        "embedding_dropout": settings.hidden_dropout_prob,
        "mlp_dropout": settings.hidden_dropout_prob,
        "attention_dropout": settings.attention_probs_dropout_prob,
        "classifier_dropout": settings.hidden_dropout_prob,
        "decoder_bias": True,
        "cls_token_id": settings.special_ids["bos_token_id"],
        "sep_token_id": settings.special_ids["eos_token_id"],
        **dict.fromkeys(biases, settings.use_bias),
    }


def _own_settings(settings: ModelSettings) -> dict[str, Any]:
    code, model = "configuration_extremebert", "modeling_extremebert.ExtremeBert"
    return {
        "auto_map": {
            "AutoConfig": f"{code}.ExtremeBertConfig",
            "AutoModel": f"{model}Model",
            "AutoModelForMaskedLM": f"{model}ForMaskedLM",
            "AutoModelForSequenceClassification": f"{model}ForSequenceClassification",
            "AutoModelForTokenClassification": f"{model}ForTokenClassification",
        },
        "classifier_dropout": settings.hidden_dropout_prob,
        **_picked(settings, *OWN_NAMES, *BERT_NAMES),
        **(_picked(settings, "local_rope_theta") if settings.local_rope_theta else {}),
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
    base="bert.",
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
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
    base="roberta_prelayernorm.",
    tied={
        "lm_head.decoder.weight": "roberta_prelayernorm.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
)

HEAD = {"head.dense": "head.dense", "head.norm": "head.norm", "output_bias": "decoder.bias"}
MODERN_BERT = Architecture(
    model_type="modernbert",
    class_name="ModernBertForMaskedLM",
    names={
        "encoder.embeddings.word": "model.embeddings.tok_embeddings",
        "encoder.embeddings.norm": "model.embeddings.norm",
        "encoder.final_norm": "model.final_norm",
        **HEAD,
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
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)

EXTREME_BERT = Architecture(
    model_type="extreme-bert",
    class_name="ExtremeBertForMaskedLM",
    names={
        **{name: f"model.{name}" for name in (*_bert_embeddings(""), "encoder.final_norm")},
        **HEAD,
    },
    layer_prefix="model.encoder.layers",
    layer_names={name: name for name in MODERN_BERT.layer_names},
    settings=_own_settings,
    own_code=True,
    tied={"decoder.weight": "model.encoder.embeddings.word.weight"},
)
