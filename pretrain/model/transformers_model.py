"""Architectures of transformers, trained from random weights as our own model is."""

from argparse import Namespace
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pretrain.kernels.attention import Documents
from pretrain.kernels.cross_entropy import mean_cross_entropy
from pretrain.model.model import check_model_settings, select_predictions
from pretrain.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Our flags -> the names that configs have for them; all that a config has are set.
NAMES = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "num_hidden_layers": ("num_hidden_layers",),
    "num_attention_heads": ("num_attention_heads",),
    "intermediate_size": ("intermediate_size", "hidden_dim"),
    "hidden_act": ("hidden_act", "hidden_activation", "activation"),
    "hidden_dropout_prob": ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout"),
    "attention_probs_dropout_prob": ("attention_probs_dropout_prob", "attention_dropout"),
    "initializer_range": ("initializer_range",),
    "layer_norm_eps": ("layer_norm_eps", "norm_eps"),
}
# Special ids that some configs name once more.
OTHER_ROLES = {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}
# Their positions start behind that of the padding token, and it takes no row of its own for them.
SHIFTED_POSITIONS = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert"),
    *("data2vec-text", "ibert", "longformer", "luke", "esm"),
)
# They take a mask for all queries, and then read no number of it, for which the host would wait.
# Those with layers that attend to a window of tokens would lose it.
READY_MASK = (
    *("bert", "roberta", "roberta-prelayernorm", "camembert", "electra", "albert", "distilbert"),
)
# Where a class's defaults are not what its published models are.
SETTINGS: dict[str, dict[str, Any]] = {
    "luke": {"entity_vocab_size": 4},  # no text names one of its half a million entities
    # DeBERTa is its relative positions, which the config leaves off.
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
}


class TransformersModel(nn.Module):
    """An architecture of transformers with its masked-language-model head, randomly initialised.

    Of the settings, it reads model_type (a key of transformers' AutoModelForMaskedLM),
    max_seq_length, the keys of NAMES, gradient_checkpointing and special_ids. Raises ValueError for
    settings that make no model.

    Its forward is that of BasePretrainModel. Attention is torch's scaled_dot_product_attention
    where the architecture supports it.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__()
        from transformers import AutoModelForMaskedLM

        check_model_settings(settings)
        try:
            self.model: PreTrainedModel = AutoModelForMaskedLM.from_config(build_config(settings))
        except Exception as error:  # some types demand more than sizes; each says so in its own way
            raise ValueError(
                f"model_type: {settings.model_type} cannot be built: {error}"
            ) from error
        self.takes_segments = takes_segments(self.model)
        self.prediction_index: Tensor | None = None
        self.model.base_model.register_forward_hook(self._keep_predictions)
        if settings.gradient_checkpointing:
            self._checkpoint_gradients(settings.model_type)

    def _checkpoint_gradients(self, model_type: str) -> None:
        if not self.model.supports_gradient_checkpointing:
            raise ValueError(f"gradient_checkpointing: {model_type} does not support it")
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def _keep_predictions(self, encoder: nn.Module, inputs: tuple, output: Any) -> Any:
        """The encoder's output as its head shall see it: a row of the predicted tokens alone."""
        if self.prediction_index is None:
            return output
        output.last_hidden_state = select_predictions(
            output.last_hidden_state, self.prediction_index
        )[None]
        return output

    def forward(
        self,
        input_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor | Documents | None,
        prediction_index: Tensor,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Mean cross entropy (fp32 scalar), or without labels logits [predictions, vocabulary].

        Arguments as in BasePretrainModel.forward; position_ids must be None: raises ValueError for
        packed rows, whose samples these architectures cannot keep apart.
        """
        if position_ids is not None:
            raise ValueError(
                "model_type: packed rows need bert-mlm, which keeps their samples apart, "
                f"got {self.model.config.model_type}"
            )
        if isinstance(attention_mask, Documents):
            attention_mask = attention_mask.numbers
        inputs = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = self._mask(attention_mask)
        if self.takes_segments:
            inputs["token_type_ids"] = segment_ids
        self.prediction_index = prediction_index
        try:
            logits = self.model(**inputs).logits[0]
        finally:
            self.prediction_index = None
        return logits if labels is None else mean_cross_entropy(logits, labels)

    def _mask(self, is_real: Tensor) -> Tensor:
        """What the model takes to attend to real tokens alone; is_real: bool [batch, length]."""
        config = self.model.config
        if config.model_type in READY_MASK and config._attn_implementation == "sdpa":
            return is_real[:, None, None]  # for all heads and queries
        return is_real.long()


def takes_segments(model: "PreTrainedModel") -> bool:
    """Whether the architecture tells the first of two texts from the second."""
    takes_them = "token_type_ids" in signature(model.forward).parameters
    return takes_them and getattr(model.config, "type_vocab_size", 0) > 1


def build_config(settings: ModelSettings) -> "PreTrainedConfig":
    """The config of the model type with our sizes under its own names."""
    from transformers import AutoConfig

    default = AutoConfig.for_model(settings.model_type)
    values: dict[str, Any] = {
        name: getattr(settings, flag)
        for flag, names in NAMES.items()
        for name in names
        if hasattr(default, name)
    }
    special_ids = settings.special_ids
    values |= {**SETTINGS.get(settings.model_type, {}), **special_ids}
    values |= {
        name: special_ids[role] for name, role in OTHER_ROLES.items() if hasattr(default, name)
    }
    values["max_position_embeddings"] = settings.max_seq_length + _unused_positions(settings)
    # Electra's default is that of a generator; ALBERT's is small on purpose.
    if settings.model_type == "electra" or _embeddings_are_as_wide_as_layers(default):
        values["embedding_size"] = settings.hidden_size
    return AutoConfig.for_model(settings.model_type, **values)


def _embeddings_are_as_wide_as_layers(config: "PreTrainedConfig") -> bool:
    return getattr(config, "embedding_size", None) == config.hidden_size


def _unused_positions(settings: ModelSettings) -> int:
    is_shifted = settings.model_type in SHIFTED_POSITIONS
    return settings.special_ids["pad_token_id"] + 1 if is_shifted else 0


def check_config(args: Namespace) -> None:
    """Raises ValueError, naming the flag, if no model can be built from it; takes no memory."""
    with torch.device("meta"):
        TransformersModel(ModelSettings.from_args(args))
