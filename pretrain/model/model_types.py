"""Supported architectures of transformers; imports neither torch nor transformers."""

from difflib import get_close_matches

OWN_TYPE = "bert-mlm"
# Tested in tests/pretrain/model/test_model_types.py.
SUPPORTED = (
    *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta"),
    *("deberta-v2", "distilbert", "electra", "ernie", "esm", "esmc", "eurobert", "flaubert"),
    *("gte", "ibert", "jina_embeddings_v3", "layoutlm", "longformer", "luke", "megatron-bert"),
    *("modernbert", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm"),
    *("roc_bert", "roformer", "squeezebert", "tapas", "ultrabert", "xlm", "xlm-roberta"),
    *("xlm-roberta-xl", "yoso"),
)
WITH_IMAGES = "it also reads images"
DECODER = "it writes text with a decoder"
UNSUPPORTED = {
    **dict.fromkeys(("bart", "mbart", "mvp"), DECODER),
    **dict.fromkeys(("modernvbert", "ultravbert"), WITH_IMAGES),
    "fnet": "it has no attention, and would read the padding",
    "funnel": "its layers form blocks, unlike NUM_HIDDEN_LAYERS",
    "mobilebert": "its layers are wider than HIDDEN_SIZE, with other settings",
    "mpnet": "its padding token must be 1",
    "mra": "its attention needs a CUDA kernel that is not part of transformers",
    "neomme": "its HIDDEN_ACT can only be relu2",
    "perceiver": "it reads bytes, and has other sizes",
    "reformer": "its layers and positions have other settings",
    "xmod": "it needs the language of every row",
}
# Their positions rotate pairs of a head's components.
ROTARY = (
    *("esmc", "eurobert", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert"),
    *("roformer", "ultrabert"),
)
# Their positions start at pad_token_id + 1.
SHIFTED_POSITIONS = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert"),
    *("data2vec-text", "ibert", "longformer", "luke", "esm"),
)
# Our flags -> their names in the configs of transformers.
CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("vocab_size", "hidden_size", "initializer_range")},
    **{name: (name,) for name in ("num_hidden_layers", "num_attention_heads")},
    "intermediate_size": ("intermediate_size", "hidden_dim"),
    "hidden_act": ("hidden_act", "hidden_activation", "activation"),
    "hidden_dropout_prob": ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout"),
    "attention_probs_dropout_prob": ("attention_probs_dropout_prob", "attention_dropout"),
    "layer_norm_eps": ("layer_norm_eps", "norm_eps"),
}


def check_model_type(model_type: str) -> None:
    """Raises ValueError, with the supported types, for an unsupported one."""
    if model_type in (OWN_TYPE, *SUPPORTED):
        return
    expected = f"{OWN_TYPE}, or of transformers one of {', '.join(SUPPORTED)}"
    if model_type in UNSUPPORTED:
        why = f"{model_type} cannot be trained here, {UNSUPPORTED[model_type]}"
        raise ValueError(f"model_type: {why}; expected {expected}")
    close = get_close_matches(model_type, (OWN_TYPE, *SUPPORTED))
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"model_type: expected {expected}, got {model_type}{hint}")


def check_heads(model_type: str, hidden_size: int, num_attention_heads: int) -> None:
    """Raises ValueError naming the flag if the architecture cannot compute with these heads."""
    head_dim, rest = divmod(hidden_size, num_attention_heads)
    if rest:
        raise ValueError(
            f"hidden_size: expected a multiple of num_attention_heads ({num_attention_heads}), "
            f"got {hidden_size}"
        )
    if model_type in ROTARY and head_dim % 2:
        raise ValueError(
            f"num_attention_heads: {model_type} needs heads of even size, got {head_dim}"
        )
    if model_type == "convbert" and num_attention_heads % 2:  # half of them are convolutions
        raise ValueError(
            f"num_attention_heads: convbert needs an even number, got {num_attention_heads}"
        )
