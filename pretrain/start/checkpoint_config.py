"""Reads the config.json of a checkpoint as values of MODEL.* keys; imports no torch.

The inverse of hugging_face_config in architectures.py. Our encoder takes the checkpoints that it
computes exactly; the others are trained by the code of transformers.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.defaults import ACTIVATIONS
from pipeline.errors import ConfigError
from pipeline.hub.models import CONFIG, problem_with_places
from pretrain.model.model_types import (
    CONFIG_NAMES,
    OWN_TYPE,
    SHIFTED_POSITIONS,
    check_model_type,
)

START_KEY = "PRETRAIN.START_FROM"
# Entries that a config.json may leave out: the defaults of the classes of transformers.
BERT_DEFAULTS: dict[str, Any] = {
    **{"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu"},
    **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    **{"max_position_embeddings": 512, "type_vocab_size": 2, "initializer_range": 0.02},
    **{"layer_norm_eps": 1e-12, "pad_token_id": 0, "tie_word_embeddings": True},
    **{"is_decoder": False, "add_cross_attention": False},
}
MODERN_DEFAULTS: dict[str, Any] = {
    **{"vocab_size": 50368, "hidden_size": 768, "num_hidden_layers": 22},
    **{"num_attention_heads": 12, "intermediate_size": 1152, "hidden_activation": "gelu"},
    **{"attention_dropout": 0.0, "mlp_dropout": 0.0, "max_position_embeddings": 8192},
    **{"initializer_range": 0.02, "norm_eps": 1e-5, "norm_bias": False, "mlp_bias": False},
    **{"attention_bias": False, "classifier_bias": False, "classifier_activation": "gelu"},
    **{"decoder_bias": True, "local_attention": 128, "pad_token_id": 50283},
    **{"tie_word_embeddings": True},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": BERT_DEFAULTS,
    "roberta-prelayernorm": {**BERT_DEFAULTS, "vocab_size": 50265, "pad_token_id": 1},
    "modernbert": MODERN_DEFAULTS,
    "extreme-bert": {"local_rope_theta": 0.0, "pad_token_id": 0, "tie_word_embeddings": True},
}
GLOBAL_THETA, LOCAL_THETA, GLOBAL_EVERY = 160_000.0, 10_000.0, 3  # of ModernBERT
# Other names of our activations.
ACTIVATION_NAMES = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}
# More names of sizes in configs of transformers.
OTHER_NAMES = {
    "hidden_size": ("dim", "emb_dim"),
    "num_hidden_layers": ("n_layers",),
    "num_attention_heads": ("n_heads",),
}
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("initializer_range", "layer_norm_eps", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)
SEGMENTS = (1, 2)  # of our encoder
# Transformers ignores position_embedding_type of all other architectures, since version 5.
WITH_POSITION_TYPES = ("esm", "extreme-bert")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, as its config.json describes it.

    folder: of config.json, weights and tokenizer. model_type: of transformers. keys: values of the
    keys of MODEL by name, TYPE included. other_keys: the same if the code of transformers trains
    it. vocab_size: rows of the word embeddings. num_positions: 0 if any number. why_not_ours: the
    reason for the code of transformers, or "".
    """

    folder: Path
    config: dict[str, Any]
    model_type: str
    keys: dict[str, Any]
    other_keys: dict[str, Any]
    vocab_size: int
    num_positions: int
    num_segments: int
    pad_token_id: int
    why_not_ours: str = ""

    @property
    def is_ours(self) -> bool:
        return not self.why_not_ours

    @property
    def class_name(self) -> str:
        """The class that wrote the checkpoint, or its model type."""
        return next(iter(self.config.get("architectures") or ()), self.model_type)

    def keys_for(self, model_type: str) -> dict[str, Any]:
        """Returns the values of MODEL.* keys if MODEL.TYPE is this one."""
        return self.other_keys if model_type == self.model_type else self.keys


@dataclass(frozen=True)
class Start:
    """The checkpoint of a run. own_vocabulary: False if the data has another tokenizer."""

    checkpoint: Checkpoint
    own_vocabulary: bool

    def model_values(self, model_type: str, vocab_size: int, length: int) -> dict[str, Any]:
        """Returns the fields of ModelSettings that no flag sets.

        vocab_size: of the tokenizer. length: tokens per row.
        """
        checkpoint = self.checkpoint
        positions = checkpoint.num_positions
        return {
            "vocab_size": checkpoint.vocab_size if self.own_vocabulary else vocab_size,
            "num_positions": max(positions, length) if positions else 0,
            "type_vocab_size": checkpoint.num_segments,
            "checkpoint_config": {} if model_type == OWN_TYPE else checkpoint.config,
        }


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads config.json. Raises ConfigError for a model that cannot be pretrained here."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([f"{START_KEY}: {path} cannot be read: {error}"]) from error
    try:
        return _checkpoint(folder, config)
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError([f"{START_KEY}: {path} has a missing or wrong entry ({what})"]) from error


def _checkpoint(folder: Path, config: dict[str, Any]) -> Checkpoint:
    _check(folder, config)
    model_type = config["model_type"]
    full = DEFAULTS.get(model_type, {}) | config
    own_keys: dict[str, Any] = {}
    why_not = f"only transformers has {model_type}"
    if model_type in READERS:
        own_keys = READERS[model_type](full)
        why_not = next(_obstacles(full, own_keys), "")
    other_keys = {"TYPE": model_type, **_sizes(full)}
    pad = _number(full, "pad_token_id", 0)
    num_positions = _number(full, "max_position_embeddings", 0)
    if num_positions and model_type in SHIFTED_POSITIONS:
        num_positions -= pad + 1
    return Checkpoint(
        folder=folder,
        config=config,
        model_type=model_type,
        keys=other_keys if why_not else {"TYPE": OWN_TYPE, **own_keys},
        other_keys=other_keys,
        vocab_size=int(full["vocab_size"]),
        num_positions=num_positions,
        num_segments=_number(full, "type_vocab_size", 2),
        pad_token_id=pad,
        why_not_ours=why_not,
    )


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a checkpoint that nothing here could train."""
    path, model_type = folder / CONFIG, config.get("model_type")
    problem = problem_with_places(folder)
    if not isinstance(model_type, str):
        problem = f"{path} has no model_type, expected that of an encoder, like bert"
    elif model_type not in DEFAULTS:
        if "auto_map" in config:
            problem = f"{path} names code of its own, which is not run, expected none"
        try:
            check_model_type(model_type)
        except ValueError as error:
            problem = f"{path}: {error}"
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute" and model_type not in WITH_POSITION_TYPES:
        problem = f"{path}: its positions are {positions}, which transformers no longer computes"
    if "quantization_config" in config:
        problem = f"{path}: its weights are quantized, expected fp32, fp16 or bf16"
    if problem:
        raise ConfigError([f"{START_KEY}: {problem}"])


def _number(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name)
    return default if value is None else int(value)


# --- values of keys --------------------------------------------------------------------------


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the keys that every architecture has, as far as the config says."""
    keys = {}
    for flag in SIZES:
        names = (*CONFIG_NAMES[flag], *OTHER_NAMES.get(flag, ()))
        value = next((config[name] for name in names if config.get(name) is not None), None)
        if flag == "hidden_act":
            value = ACTIVATION_NAMES.get(str(value), value)
            value = value if value in ACTIVATIONS else None
        if value is not None:
            keys[flag.upper()] = value
    return keys


def _read_bert(config: Mapping[str, Any], mode: str = "post-ln") -> dict[str, Any]:
    return {
        **_sizes(config),
        "ENCODER_LN_MODE": mode,
        "POSITION_EMBEDDING_TYPE": "absolute",
        **{"GLU": False, "USE_BIAS": True, "NORM_TYPE": "layernorm", "EMBEDDING_NORM": True},
        "ATTENTION_WINDOW": 0,
    }


def _read_pre_ln_bert(config: Mapping[str, Any]) -> dict[str, Any]:
    return _read_bert(config, "pre-ln")


def _read_modern_bert(config: Mapping[str, Any]) -> dict[str, Any]:
    windows = "sliding_attention" in _layer_types(config)
    theta, local_theta = _thetas(config)
    keys = {
        **_sizes({**config, "dropout": config["mlp_dropout"]}),
        "ENCODER_LN_MODE": "pre-ln",
        "POSITION_EMBEDDING_TYPE": "rotary",
        "ROPE_THETA": theta,
        **{"GLU": True, "USE_BIAS": config["norm_bias"], "NORM_TYPE": "layernorm"},
        "EMBEDDING_NORM": True,
        # A token attends to half of the window on either side.
        "ATTENTION_WINDOW": int(config["local_attention"]) // 2 * 2 if windows else 0,
    }
    if windows:
        keys["GLOBAL_ATTENTION_EVERY"] = _global_every(config)
        keys["LOCAL_ROPE_THETA"] = 0.0 if local_theta == theta else local_theta
    return keys


def _layer_types(config: Mapping[str, Any]) -> list[str]:
    """Returns the kind of attention of each layer; older configs give the distance alone."""
    return list(config.get("layer_types") or _regular_layers(config, _configured_every(config)))


def _configured_every(config: Mapping[str, Any]) -> int:
    return int(config.get("global_attn_every_n_layers") or GLOBAL_EVERY)


def _regular_layers(config: Mapping[str, Any], every: int) -> list[str]:
    numbers = range(int(config["num_hidden_layers"]))
    return ["sliding_attention" if number % every else "full_attention" for number in numbers]


def _global_every(config: Mapping[str, Any]) -> int:
    """Returns the distance between layers without a window; 0 if it is not regular."""
    layers = _layer_types(config)
    distances = (_configured_every(config), *range(2, len(layers) + 1))
    return next((n for n in distances if _regular_layers(config, n) == layers), 0)


def _ropes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    ropes = config.get("rope_parameters") or {}
    return [ropes.get(kind) or {} for kind in ("full_attention", "sliding_attention")]


def _thetas(config: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the theta of the layers without a window and of those with one."""
    wide, near = _ropes(config)
    theta = wide.get("rope_theta", config.get("global_rope_theta", GLOBAL_THETA))
    local_theta = near.get("rope_theta", config.get("local_rope_theta", LOCAL_THETA))
    return float(theta), float(local_theta)


def _read_extreme_bert(config: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        *("encoder_ln_mode", "position_embedding_type", "rope_theta", "glu", "use_bias"),
        *("norm_type", "embedding_norm", "attention_window"),
    )
    keys = {**_sizes(config), **{name.upper(): config[name] for name in names}}
    if config["attention_window"]:
        keys["GLOBAL_ATTENTION_EVERY"] = config["global_attention_every"]
    if config["attention_window"] and config["position_embedding_type"] == "rotary":
        keys["LOCAL_ROPE_THETA"] = config["local_rope_theta"]
    return keys


READERS = {
    "bert": _read_bert,
    "roberta-prelayernorm": _read_pre_ln_bert,
    "modernbert": _read_modern_bert,
    "extreme-bert": _read_extreme_bert,
}


# --- obstacles for our encoder ---------------------------------------------------------------


def _obstacles(config: Mapping[str, Any], keys: Mapping[str, Any]) -> Iterator[str]:
    """Yields why our encoder would not compute the same; one of our own exports has none."""
    if config["model_type"] == "extreme-bert":
        return
    if not config["tie_word_embeddings"]:
        yield "its output has a matrix of its own (tie_word_embeddings)"
    if "HIDDEN_ACT" not in keys:
        name = config.get("hidden_act", config.get("hidden_activation"))
        yield f"its activation is {name}"
    if config["model_type"] == "modernbert":
        yield from _obstacles_of_modern_bert(config, keys)
        return
    if config["is_decoder"] or config["add_cross_attention"]:
        yield "it is a decoder"
    if config["type_vocab_size"] not in SEGMENTS:
        yield f"it has {config['type_vocab_size']} segments"


def _obstacles_of_modern_bert(config: Mapping[str, Any], keys: Mapping[str, Any]) -> Iterator[str]:
    biases = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
    if len({config[name] for name in biases}) > 1:
        yield f"some of its biases are off ({', '.join(biases)})"
    if not config["decoder_bias"]:
        yield "its output has no bias (decoder_bias)"
    if config["classifier_activation"] != "gelu":
        yield f"the activation of its head is {config['classifier_activation']}"
    if keys.get("GLOBAL_ATTENTION_EVERY") == 0:
        yield "its layers with a window are not at regular distances (layer_types)"
    if keys["ATTENTION_WINDOW"] == 0 and "sliding_attention" in _layer_types(config):
        yield f"its window is {config['local_attention']}"
    kinds = {rope.get("rope_type", "default") for rope in _ropes(config)}
    if kinds != {"default"} or config.get("rope_scaling"):
        yield "its rotary positions are scaled (rope_type)"
