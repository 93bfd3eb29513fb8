"""Loads a checkpoint by the code of transformers, for architectures that only it has."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import StageError
from pipeline.hub.models import refusing_code
from pretrain.model.transformers_model import TransformersModel, build_config
from pretrain.settings import ModelSettings
from pretrain.start.checkpoint_config import START_KEY, Checkpoint
from pretrain.start.checkpoint_weights import (
    POOLER,
    Loaded,
    NewVocabulary,
    check_encoder,
    repeated,
    set_values,
)
from pretrain.start.weight_files import BUFFERS, WeightFiles, shown


def load_transformers_model(
    settings: ModelSettings,
    checkpoint: Checkpoint,
    new_vocabulary: NewVocabulary | None = None,
) -> tuple[TransformersModel, Loaded]:
    """Returns a model of the checkpoint's architecture with its weights.

    Arguments and errors as of `load_our_model`.
    """
    wanted = build_config(settings)
    with WeightFiles(checkpoint.folder) as files:
        names = files.names
    is_same = new_vocabulary is None and _has_sizes_of(wanted, checkpoint)
    model, info = _from_pretrained(checkpoint, wanted if is_same else None)
    base = model.base_model_prefix
    parts = {name for name, _ in model.base_model.named_children()}

    def is_of_encoder(name: str) -> bool:
        rest = name.removeprefix(f"{base}.")
        return rest.partition(".")[0] in parts and not rest.startswith(POOLER)

    lacking = sorted(info["missing_keys"])
    lost = sorted(name for name in info["unexpected_keys"] if not name.endswith(BUFFERS))
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if mismatched:
        raise StageError(f"{START_KEY}: other shapes in {checkpoint.folder}: {shown(mismatched)}")
    check_encoder(
        checkpoint.folder,
        [name for name in lost if is_of_encoder(name)],
        [name for name in lacking if name.startswith(f"{base}.")],
    )
    if not is_same:
        model = _adapted(model, settings, checkpoint, new_vocabulary)
    loaded = Loaded(len(names) - len(lost), tuple(lacking), tuple(lost))
    return TransformersModel(settings, model), loaded


def _has_sizes_of(wanted: Any, checkpoint: Checkpoint) -> bool:
    names = ("vocab_size", "max_position_embeddings", "pad_token_id")
    config = checkpoint.config
    return all(getattr(wanted, name, None) == config[name] for name in names if name in config)


def _from_pretrained(checkpoint: Checkpoint, config: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForMaskedLM

    folder = str(checkpoint.folder)
    with refusing_code(folder):
        return AutoModelForMaskedLM.from_pretrained(
            folder,
            **({} if config is None else {"config": config}),
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
        )


@torch.no_grad()
def _adapted(
    old: Any, settings: ModelSettings, checkpoint: Checkpoint, new_vocabulary: NewVocabulary | None
) -> nn.Module:
    """Returns a model with another number of positions or another vocabulary."""
    from transformers import AutoModelForMaskedLM

    new = AutoModelForMaskedLM.from_config(build_config(settings))
    found = dict(old.named_parameters())
    words = old.get_input_embeddings().weight
    bias = _output_bias(old)
    if new_vocabulary:
        rows, new_bias = new_vocabulary(words, bias)
    for name, parameter in new.named_parameters():
        tensor = found[name]
        if tensor is words and new_vocabulary:
            tensor = rows
        elif tensor is bias and new_vocabulary and new_bias is not None:
            tensor = new_bias
        elif "position_embeddings" in name and tensor.ndim == 2:
            tensor = _moved(tensor, len(parameter), settings, checkpoint)
        set_values(parameter, tensor, name)
    return new


def _output_bias(model: Any) -> Tensor | None:
    """Returns the bias of the output over the vocabulary, if it has one."""
    bias = getattr(model.get_output_embeddings(), "bias", None)
    num_words = len(model.get_input_embeddings().weight)
    return bias if bias is not None and len(bias) == num_words else None


def _moved(table: Tensor, num_rows: int, settings: ModelSettings, checkpoint: Checkpoint) -> Tensor:
    """Returns a table of positions with more rows, after the unused ones at its beginning."""
    is_shifted = checkpoint.num_positions < len(table)
    unused = checkpoint.pad_token_id + 1 if is_shifted else 0
    now = settings.special_ids["pad_token_id"] + 1 if is_shifted else 0
    head = table[:now] if now <= unused else torch.cat([table[:unused], table[: now - unused]])
    return torch.cat([head, repeated(table[unused:], num_rows - now)])
