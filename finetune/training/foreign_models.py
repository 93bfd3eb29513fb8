"""Checkpoints that somebody else made, in a folder or on the Hub, run no code of theirs.

One of the Hub is fetched once, and read as a folder from then on: all runs have the same weights,
and none needs the network.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from pipeline.errors import StageError
from pipeline.hub.repository import Repository, cached_commit, fetch_model
from pipeline.store.record_files import read_json

# Types of models that number their tokens from the padding's id + 1, so that no token has the
# positions before -> that id where config.json says nothing.
PADDING_ROWS = {
    **dict.fromkeys(("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"), 1),
    **dict.fromkeys(("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet"), 1),
    **dict.fromkeys(("layoutlmv3", "xmod"), 1),
    **dict.fromkeys(("lilt", "markuplm"), 0),
    "esm": None,
}


def local_model(name: str, key: str) -> tuple[str, dict[str, str]]:
    """(folder of a model, its commit by its name if it is one of the Hub).

    name: a folder, or a name on the Hub, from where it is fetched. key: that it was given by.
    Raises StageError if it is not there.
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
    """The Hub has names like `bert-base-uncased` and `google/electra-small`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/")


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def refusing_code(model: str) -> Iterator[None]:
    """Around a call of transformers with trust_remote_code=False: what it refuses is a StageError.

    Weights in pickles (pytorch_model.bin) are read as tensors and nothing else.
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
    """What an index of weights names outside of its folder, or an empty string."""
    inside = os.path.normpath(folder)
    for index in sorted(folder.glob("*.index.json")):
        names = (read_json(index) or {}).get("weight_map", {})
        for name in map(str, names.values() if isinstance(names, dict) else ()):
            if not Path(os.path.normpath(folder / name)).is_relative_to(inside):
                return f"{index} names {name}, expected files of that folder"
    return ""


def positions_of(folder: Path) -> int:
    """Tokens that a model can take, as its config.json says it; 0 if it does not."""
    config = read_json(folder / "config.json") or {}
    positions, padding = config.get("max_position_embeddings"), None
    if config.get("model_type") in PADDING_ROWS:
        padding = config.get("pad_token_id", PADDING_ROWS[config["model_type"]])
    reserved = padding + 1 if isinstance(padding, int) else 0
    return max(positions - reserved, 0) if isinstance(positions, int) else 0


def problem_with_vocabulary(folder: Path) -> str:
    """A tokenizer with ids that its model has no embeddings for, or an empty string.

    What only transformers can read is looked at when the model is loaded.
    """
    size = (read_json(folder / "config.json") or {}).get("vocab_size")
    highest = max(_token_ids(folder), default=-1)
    if isinstance(size, int) and highest >= size:
        return too_many_entries(str(folder), highest + 1, size)
    return ""


def _token_ids(folder: Path) -> Iterator[int]:
    """The ids that the files of a tokenizer give; none of a file that is not as expected.

    vocab.txt and vocab.json count where there is no tokenizer.json, as for transformers.
    """
    if (folder / "tokenizer.json").exists():
        tokenizer = read_json(folder / "tokenizer.json") or {}
        with suppress(AttributeError, KeyError, TypeError):
            vocab = tokenizer["model"]["vocab"]
            # Unigram models have a list of pieces, the others a number for each.
            yield from vocab.values() if isinstance(vocab, dict) else range(len(vocab))
            yield from (token["id"] for token in tokenizer.get("added_tokens") or ())
    else:
        yield from _ids_in(folder / "vocab.json")
        with suppress(OSError), open(folder / "vocab.txt", "rb") as lines:
            tokens = {line.rstrip(b"\r\n"): number for number, line in enumerate(lines)}
            yield from tokens.values()
    yield from _ids_in(folder / "added_tokens.json")


def _ids_in(file: Path) -> Iterator[int]:
    """The ids of a file that gives each token one."""
    numbers = (read_json(file) or {}).values()
    yield from (number for number in numbers if isinstance(number, int))


def too_many_entries(model: str, entries: int, embeddings: int) -> str:
    return (
        f"{model}: the tokenizer has {entries:,} entries, the model embeddings for {embeddings:,} "
        "(vocab_size of its config.json), expected the tokenizer that the model was trained with"
    )


def check_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises StageError if the tokenizer has more entries than the model has embeddings."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        raise StageError(too_many_entries(model.name_or_path, len(tokenizer), embeddings))
