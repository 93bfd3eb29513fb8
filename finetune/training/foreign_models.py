"""Loads checkpoints from elsewhere, in a folder or on the Hub, without running their code.

A checkpoint of the Hub is downloaded once and read as a folder afterwards: all runs get the same
weights, and none needs the network.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, cast

from pipeline.errors import StageError
from pipeline.hub.repository import Repository, cached_commit, fetch_model
from pipeline.store.record_files import read_json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def local_model(name: str, key: str) -> tuple[str, dict[str, str]]:
    """Returns (folder of a model, {name: commit} of a model on the Hub), after a download.

    name: a folder, or a name on the Hub. key: the config key or flag with this name. Raises
    StageError if the model does not exist or cannot be downloaded.
    """
    if os.path.exists(name):
        return name, {}
    if can_only_be_a_folder(name):
        raise StageError(f"{key}: no such folder, got {os.path.abspath(name)}")
    repository = Repository(name, "model")
    try:
        folder = fetch_model(repository)
    except StageError as error:
        raise StageError(f"{key}: {error.cause}") from error
    return str(folder), {name: cached_commit(repository)}


def can_only_be_a_folder(name: str) -> bool:
    """True for paths; names on the Hub are like `bert-base-uncased`, `google/electra-small`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/")


@contextmanager
def refusing_code(model: str) -> Iterator[None]:
    """Turns refusals of transformers (trust_remote_code=False) into StageError.

    Weights in pickles (pytorch_model.bin) are loaded if they hold nothing but tensors.
    """
    try:
        yield
    except UnpicklingError as error:
        raise StageError(
            f"{model}: its weights are a pickle that holds more than tensors, which may be code "
            "and is not loaded; expected model.safetensors, or tensors alone"
        ) from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise StageError(
            f"{model}: needs code of its own, which is not run; expected an architecture of "
            "transformers, or a model exported here"
        ) from error


def problem_with_places(folder: Path) -> str:
    """Returns an error message if an index of weights names files of other folders, else ""."""
    inside = os.path.normpath(folder)
    for index in sorted(folder.glob("*.index.json")):
        names = (read_json(index) or {}).get("weight_map", {})
        for name in map(str, names.values() if isinstance(names, dict) else ()):
            if not Path(os.path.normpath(folder / name)).is_relative_to(inside):
                return f"{index} names {name}, expected files of that folder"
    return ""


def check_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises StageError if the tokenizer has more entries than the model has embeddings."""
    embeddings = cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > embeddings:
        raise StageError(
            f"{model.name_or_path}: the tokenizer has {len(tokenizer):,} entries, the model "
            f"embeddings for {embeddings:,} (vocab_size of its config.json), expected the "
            "tokenizer that the model was trained with"
        )
