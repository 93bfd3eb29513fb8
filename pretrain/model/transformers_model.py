"""Architectures of transformers, with random weights or those of a checkpoint."""

from argparse import Namespace
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pretrain.kernels.attention import Documents
from pretrain.kernels.cross_entropy import mean_cross_entropy
from pretrain.model.model_types import (
    CONFIG_NAMES,
    SHIFTED_POSITIONS,
    check_heads,
    check_model_type,
)
from pretrain.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Those that may differ from a checkpoint's.
FREE_FLAGS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
# Second names of special ids in some configs.
OTHER_ROLES = {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}
# They accept a mask [batch, 1, 1, length] and then avoid a wait for the device. Architectures with
# windows of tokens would lose these.
READY_MASK = (
    *("bert", "roberta", "roberta-prelayernorm", "camembert", "electra", "albert", "distilbert"),
)
# Settings of published models, different from the defaults of the class.
SETTINGS: dict[str, dict[str, Any]] = {
    "luke": {"entity_vocab_size": 4},  # text has none of its half a million entities
    # The default config lacks DeBERTa's relative positions.
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

    Reads the settings model_type, positions, the keys of CONFIG_NAMES, gradient_checkpointing,
    special_ids and checkpoint_config. loaded: a model of `build_config(settings)` instead of a new
    one. Raises ValueError for invalid settings. Has the forward of BasePretrainModel.
    """

    def __init__(self, settings: ModelSettings, loaded: nn.Module | None = None):
        super().__init__()
        from transformers import AutoModelForMaskedLM

        model_type = settings.model_type
        check_model_type(model_type)
        check_heads(model_type, settings.hidden_size, settings.num_attention_heads)
        try:
            model = loaded or AutoModelForMaskedLM.from_config(build_config(settings))
            self.model = cast("PreTrainedModel", model)
        except Exception as error:  # the errors of transformers' types have no common class
            raise ValueError(f"model_type: {model_type} cannot be built: {error}") from error
        self.takes_segments = takes_segments(self.model)
        self.prediction_index: Tensor | None = None
        self.model.base_model.register_forward_hook(self._keep_predictions)
        if settings.gradient_checkpointing:
            if not self.model.supports_gradient_checkpointing:
                raise ValueError(f"gradient_checkpointing: {model_type} does not support it")
            self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def _keep_predictions(self, encoder: nn.Module, inputs: tuple, output: Any) -> Any:
        """Reduces the encoder's output to one row of the predicted tokens, for the head."""
        if self.prediction_index is not None:
            hidden = output.last_hidden_state.flatten(0, 1)
            output.last_hidden_state = hidden.index_select(0, self.prediction_index)[None]
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
        """Returns the mean cross entropy (fp32 scalar), or without labels the logits.

        Arguments and shapes as in BasePretrainModel.forward. Raises ValueError for packed rows
        (position_ids), since these architectures cannot separate their samples.
        """
        if position_ids is not None:
            raise ValueError(
                "model_type: only bert-mlm can separate the samples of packed rows, "
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
        """Converts a mask for the architecture. is_real: bool [batch, length]."""
        config = self.model.config
        if config.model_type in READY_MASK and config._attn_implementation == "sdpa":
            return is_real[:, None, None]  # for all heads and queries
        return is_real.long()


def takes_segments(model: "PreTrainedModel") -> bool:
    """True if the architecture distinguishes the first of two texts from the second."""
    takes_them = "token_type_ids" in signature(model.forward).parameters
    return takes_them and getattr(model.config, "type_vocab_size", 0) > 1


def build_config(settings: ModelSettings) -> "PreTrainedConfig":
    """Returns the config of the model type, with our sizes under its own names."""
    from transformers import AutoConfig

    if settings.checkpoint_config:
        return _config_of_checkpoint(settings)
    default = AutoConfig.for_model(settings.model_type)
    values: dict[str, Any] = {
        name: getattr(settings, flag)
        for flag, names in CONFIG_NAMES.items()
        for name in names
        if hasattr(default, name)
    }
    ids = settings.special_ids
    values |= SETTINGS.get(settings.model_type, {}) | ids
    values |= {name: ids[role] for name, role in OTHER_ROLES.items() if hasattr(default, name)}
    num_unused = ids["pad_token_id"] + 1 if settings.model_type in SHIFTED_POSITIONS else 0
    values["max_position_embeddings"] = settings.positions + num_unused
    # As wide as the layers, except where the default is smaller on purpose, as in ALBERT; Electra's
    # is that of a generator.
    is_wide = getattr(default, "embedding_size", None) == default.hidden_size
    if settings.model_type == "electra" or is_wide:
        values["embedding_size"] = settings.hidden_size
    return AutoConfig.for_model(settings.model_type, **values)


def _config_of_checkpoint(settings: ModelSettings) -> "PreTrainedConfig":
    """Returns the config of a checkpoint with our vocabulary, positions and dropouts."""
    from transformers import AutoConfig

    content = {
        name: value
        for name, value in settings.checkpoint_config.items()
        if name not in ("dtype", "torch_dtype", "auto_map")  # trained in fp32, by no other code
    }
    config = type(AutoConfig.for_model(settings.model_type)).from_dict(content)
    for flag in FREE_FLAGS:
        names = [name for name in CONFIG_NAMES[flag] if hasattr(config, name)]
        if names and getattr(config, names[0]) != getattr(settings, flag):
            for name in names:
                setattr(config, name, getattr(settings, flag))
    ids = settings.special_ids
    roles = {name: ids[role] for name, role in OTHER_ROLES.items() if hasattr(config, name)}
    for name, value in {**ids, **roles, "vocab_size": settings.vocab_size}.items():
        setattr(config, name, value)
    shift = ids["pad_token_id"] + 1 if settings.model_type in SHIFTED_POSITIONS else 0
    # DeBERTa without a table of positions takes any length; the number sizes its buckets.
    if settings.num_positions and getattr(config, "position_biased_input", True):
        config.max_position_embeddings = settings.num_positions + shift
    return config


def check_config(args: Namespace) -> None:
    """Raises ValueError naming the flag if the model cannot be built; takes no memory."""
    with torch.device("meta"):
        TransformersModel(ModelSettings.from_args(args))
