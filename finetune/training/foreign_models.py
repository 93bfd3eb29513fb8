"""Loads checkpoints from elsewhere, in a folder or on the Hub, without running their code.

A checkpoint of the Hub is downloaded once and read as a folder afterwards: all runs get the same
weights, and none needs the network.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, cast

from pipeline.errors import StageError
from pipeline.hub.repository import Repository, cached_commit, fetch_model
from pipeline.store.record_files import read_json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Model types that number the positions of tokens from the padding's id + 1 -> the default id.
PADDING_ROWS = {
    **dict.fromkeys(("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"), 1),
    **dict.fromkeys(("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet"), 1),
    **dict.fromkeys(("layoutlmv3", "xmod"), 1),
    **dict.fromkeys(("lilt", "markuplm"), 0),
    "esm": None,
}


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


def positions_of(folder: Path) -> int:
    """Returns the maximum tokens per sample by a model's config.json, 0 if it does not say."""
    config = read_json(folder / "config.json") or {}
    positions, padding = config.get("max_position_embeddings"), None
    if config.get("model_type") in PADDING_ROWS:
        padding = config.get("pad_token_id", PADDING_ROWS[config["model_type"]])
    reserved = padding + 1 if isinstance(padding, int) else 0
    return max(positions - reserved, 0) if isinstance(positions, int) else 0


def problem_with_vocabulary(folder: Path) -> str:
    """Returns an error message if the tokenizer has more ids than the model embeddings, else "".

    Tokenizers in other formats are checked when transformers has loaded them.
    """
    size = (read_json(folder / "config.json") or {}).get("vocab_size")
    highest = max(_token_ids(folder), default=-1)
    if isinstance(size, int) and highest >= size:
        return too_many_entries(str(folder), highest + 1, size)
    return ""


def _token_ids(folder: Path) -> Iterator[int]:
    """Yields the token ids in the files of a tokenizer; skips files of an unknown form.

    As in transformers, vocab.txt and vocab.json count only without a tokenizer.json.
    """
    if (folder / "tokenizer.json").exists():
        tokenizer = read_json(folder / "tokenizer.json") or {}
        with suppress(AttributeError, KeyError, TypeError):
            vocab = tokenizer["model"]["vocab"]
            # Unigram models have a list of tokens, the others a dict of ids.
            yield from vocab.values() if isinstance(vocab, dict) else range(len(vocab))
            yield from (token["id"] for token in tokenizer.get("added_tokens") or ())
    else:
        yield from _ids_in(folder / "vocab.json")
        with suppress(OSError), open(folder / "vocab.txt", "rb") as lines:
            tokens = {line.rstrip(b"\r\n"): number for number, line in enumerate(lines)}
            yield from tokens.values()
    yield from _ids_in(folder / "added_tokens.json")


def _ids_in(file: Path) -> Iterator[int]:
    """Yields the values of a JSON object {token: id}."""
    numbers = (read_json(file) or {}).values()
    yield from (number for number in numbers if isinstance(number, int))


def too_many_entries(model: str, entries: int, embeddings: int) -> str:
    return (
        f"{model}: the tokenizer has {entries:,} entries, the model embeddings for {embeddings:,} "
        "(vocab_size of its config.json), expected the tokenizer that the model was trained with"
    )


def check_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises StageError if the tokenizer has more entries than the model has embeddings."""
    embeddings = cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > embeddings:
        raise StageError(too_many_entries(str(model.name_or_path), len(tokenizer), embeddings))
