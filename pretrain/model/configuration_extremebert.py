"""The config of our own architecture in transformers; exports hold a copy of this file."""

from transformers import PretrainedConfig

# See encoder.py. classifier_dropout: before the last layer in heads of other tasks.
DEFAULTS = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "glu": False,
    "encoder_ln_mode": "pre-ln",
    "position_embedding_type": "absolute",
    "rope_theta": 10000.0,
    "local_rope_theta": 0.0,
    "attention_window": 0,
    "global_attention_every": 3,
    "use_bias": True,
    "norm_type": "layernorm",
    "embedding_norm": True,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
}


class ExtremeBertConfig(PretrainedConfig):
    """Config of encoder.py, with the attributes of DEFAULTS.

    max_seq_length is an alias of max_position_embeddings, the name in the configs of other models.
    """

    model_type = "extreme-bert"
    attribute_map = {"max_seq_length": "max_position_embeddings"}  # noqa: RUF012, as its base class

    def __init__(self, tie_word_embeddings=True, **kwargs):
        for name, default in DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    @property
    def type_vocab_size(self) -> int:
        """Number of segment embeddings, 0 with rotary positions."""
        return 2 if self.position_embedding_type == "absolute" else 0
