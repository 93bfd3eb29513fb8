"""Exports a model as a Hugging Face folder: config.json, weights, tokenizer, and code if needed.

transformers loads it without our code if it has the architecture (pretrain.model.architectures).
Otherwise the folder also holds the code of the training, and loads with trust_remote_code=True.
"""

import os
import shutil
from pathlib import Path

from torch import Tensor

from dataset.tokenizers.formats import PLAIN_CLASS
from pipeline.store.atomic_files import flush_to_disk, write_json
from pipeline.store.record_files import delete_tree, read_json
from pretrain.model.architectures import (
    architecture_of,
    hugging_face_config,
    hugging_face_weights,
    trained_length,
)
from pretrain.model.exported_code import write_code
from pretrain.model.model_types import OWN_TYPE
from pretrain.settings import ModelSettings

TOKENIZER_SUFFIXES = (".json", ".txt", ".model")


def export_model(
    weights: dict[str, Tensor], settings: ModelSettings, tokenizer_dir: Path, output: Path
) -> None:
    """Writes the folder aside, then replaces `output`; leaves it unchanged after an error.

    weights: all parameters of build_model(settings), in fp32 on the CPU; tied ones under one of
    their names or all.
    """
    aside = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write = _write_our_model if settings.model_type == OWN_TYPE else _write_transformers_model
    try:
        takes_segments = write(weights, settings, aside)
        _write_tokenizer(tokenizer_dir, aside, settings.positions, takes_segments)
        for file in (*aside.iterdir(), aside):
            flush_to_disk(file)
    except BaseException:  # half a model would fill the disk
        shutil.rmtree(aside, ignore_errors=True)
        raise
    delete_tree(output)
    os.replace(aside, output)
    flush_to_disk(output.parent)


def needs_remote_code(settings: ModelSettings) -> bool:
    """True if the export of this model loads only with trust_remote_code=True."""
    return settings.model_type == OWN_TYPE and architecture_of(settings).own_code


def _write_our_model(weights: dict[str, Tensor], settings: ModelSettings, folder: Path) -> bool:
    """Returns True if the model takes segments."""
    from safetensors.torch import save_file

    tensors = hugging_face_weights(weights, settings)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", hugging_face_config(settings))
    if needs_remote_code(settings):
        write_code(folder)
    return settings.position_embedding_type == "absolute" and settings.type_vocab_size > 1


def _write_transformers_model(
    weights: dict[str, Tensor], settings: ModelSettings, folder: Path
) -> bool:
    """Returns True if the model takes segments. Raises ValueError for weights of another model."""
    from pretrain.model.transformers_model import TransformersModel

    model = TransformersModel(settings)
    found = {name: tensor.float() for name, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(found, strict=False)
    lacking = {name for name, _ in model.named_parameters()} & set(missing)
    if lacking or unexpected:
        raise ValueError(f"weights of another model: {sorted(lacking) + unexpected}")
    model.model.config.update(trained_length(settings))
    model.model.save_pretrained(folder)
    return model.takes_segments


def _write_tokenizer(
    tokenizer_dir: Path, folder: Path, num_positions: int, takes_segments: bool
) -> None:
    """Copies the tokenizer's files, adapted to the model.

    truncation=True needs the number of the model's positions, and pairs the names of its inputs.
    The class reads tokenizer.json unchanged, as pretraining did.
    """
    for file in tokenizer_dir.iterdir():
        # No code: users of the model may run code in its folder.
        if file.suffix in TOKENIZER_SUFFIXES and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    config = read_json(folder / "tokenizer_config.json") or {}
    config.pop("auto_map", None)  # refers to code elsewhere
    config["model_max_length"] = num_positions
    config["tokenizer_class"] = PLAIN_CLASS
    if not takes_segments:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    write_json(folder / "tokenizer_config.json", config)
