"""Loads the weights of a checkpoint in Hugging Face form into a model that is trained here.

The inverse of hugging_face_weights in architectures.py; transformers_weights.py loads the other
architectures. Tensors of the encoder must all find their places, and all its parameters must be
found; the prediction head may be missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import StageError
from pretrain.model.architectures import (
    BIAS,
    POSITIONS,
    UNUSED_POSITIONS,
    WORDS,
    Architecture,
    architecture_of,
    their_names,
)
from pretrain.model.model import BasePretrainModel
from pretrain.settings import ModelSettings
from pretrain.start.checkpoint_config import START_KEY, Checkpoint
from pretrain.start.weight_files import WeightFiles, shown

# Names of older checkpoints.
OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}
POOLER = "pooler."  # of an encoder, but not for masked tokens

# (word embeddings [rows, width], output bias [rows] or None) of the checkpoint's vocabulary -> the
# same of another one. fp32; without a bias, none is returned.
NewVocabulary = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Loaded:
    """Counts of tensors, under the names of the checkpoint.

    num_loaded: found in it and used. fresh: parameters that keep their random values. fresh_bias:
    True if the bias of our output is one of them. unused: tensors of other heads. kept: tensors
    without a parameter here, by our names, for the export.
    """

    num_loaded: int
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    kept: dict[str, Tensor] = field(default_factory=dict)
    fresh_bias: bool = False

    def in_words(self) -> str:
        """Returns one line for the log."""
        parts = [f"{self.num_loaded} tensors loaded"]
        if self.fresh:
            parts.append(f"a fresh prediction head of {len(self.fresh)} ({shown(self.fresh)})")
        if self.unused:
            parts.append(f"{len(self.unused)} unused ({shown(self.unused)})")
        return "; ".join(parts)


# --- our encoder -----------------------------------------------------------------------------


def places_by_name(names: Sequence[str], architecture: Architecture) -> dict[str, str]:
    """Returns {name in a model with head: name in the files}.

    Files of a bare encoder lack the prefix; older ones have other names for norms.
    """
    is_bare = not any(name.startswith(architecture.base) for name in names)
    places = {}
    for name in names:
        usual = name
        for old, new in OLD_ENDINGS.items():
            usual = usual.removesuffix(old) + new if usual.endswith(old) else usual
        places[architecture.base + usual if is_bare else usual] = name
    return places


def load_our_model(
    model: BasePretrainModel,
    settings: ModelSettings,
    checkpoint: Checkpoint,
    new_vocabulary: NewVocabulary | None = None,
) -> Loaded:
    """Sets the weights of a model with these settings to the checkpoint's, tensor by tensor.

    new_vocabulary: None if the model has the rows of the checkpoint's word embeddings. Raises
    StageError naming the tensors without a place, and the parameters that are not found.
    """
    architecture = architecture_of(settings)
    if architecture.model_type != checkpoint.model_type:
        raise StageError(
            f"{START_KEY}: {checkpoint.folder} is a {checkpoint.model_type}, but these settings "
            f"make a {architecture.model_type}"
        )
    with WeightFiles(checkpoint.folder) as files, torch.no_grad():
        places = _untied(places_by_name(files.names, architecture), files, architecture)
        return _load(model, settings, checkpoint, places, files, new_vocabulary)


def _untied(
    places: dict[str, str], files: WeightFiles, architecture: Architecture
) -> dict[str, str]:
    """Removes copies of tied tensors; a copy takes the place of a missing original."""
    places = dict(places)
    for copy, original in architecture.tied.items():
        if copy not in places:
            continue
        if original not in places:
            places[original] = places.pop(copy)
        elif not torch.equal(files.read(places[copy]), files.read(places[original])):
            raise StageError(
                f"{START_KEY}: {places[copy]} differs from {places[original]} in {files.folder}, "
                "which its config.json ties; expected tie_word_embeddings false there"
            )
        else:
            places.pop(copy)
    return places


def _load(
    model: BasePretrainModel,
    settings: ModelSettings,
    checkpoint: Checkpoint,
    places: dict[str, str],
    files: WeightFiles,
    new_vocabulary: NewVocabulary | None,
) -> Loaded:
    architecture = architecture_of(settings)
    wanted = {name: their_names(name, architecture) for name, _ in model.named_parameters()}
    used = {theirs for names in wanted.values() for theirs in names}
    lost = [name for name in places if name not in used]
    lacking = sorted(used - places.keys())
    check_encoder(
        checkpoint.folder,
        [places[name] for name in lost if _is_of_encoder(name, architecture)],
        [name for name in lacking if _is_of_encoder(name, architecture)],
    )
    kept: dict[str, Tensor] = {}
    held: dict[str, Tensor] = {}  # of the vocabulary
    for name, parameter in model.named_parameters():
        if not places.keys() >= set(wanted[name]):
            continue
        tensor = _joined([places[theirs] for theirs in wanted[name]], files)
        if name == POSITIONS:
            unused = checkpoint.pad_token_id + 1 if architecture.shifted_positions else 0
            if unused:
                kept[UNUSED_POSITIONS] = tensor[:unused].float().clone()
            tensor = repeated(tensor[unused:], len(parameter))
        if name in (WORDS, BIAS):
            _check_rows(places[wanted[name][0]], tensor, checkpoint)
            held[name] = tensor
        else:
            set_values(parameter, tensor, places[wanted[name][0]])
    _set_vocabulary(model, held, new_vocabulary)
    return Loaded(
        num_loaded=len(used) - len(lacking),
        fresh=tuple(lacking),
        unused=tuple(places[name] for name in lost),
        kept=kept,
        fresh_bias=BIAS not in held,
    )


def _joined(names: Sequence[str], files: WeightFiles) -> Tensor:
    """Reads a tensor, or the rows of several, which must have one shape."""
    if len(names) == 1:
        return files.read(names[0])
    found = [files.read(name) for name in names]
    for name, tensor in zip(names, found, strict=True):
        if tensor.shape != found[0].shape:
            raise StageError(
                f"{START_KEY}: {name} has the shape {list(tensor.shape)}, expected "
                f"{list(found[0].shape)}, that of {names[0]}"
            )
    return torch.cat(found)


def _is_of_encoder(name: str, architecture: Architecture) -> bool:
    rest = name.removeprefix(architecture.base)
    return rest != name and not rest.startswith(POOLER)


def check_encoder(folder: Path, lost: list[str], lacking: list[str]) -> None:
    """Raises StageError for an encoder that is not whole."""
    if lacking:
        raise StageError(f"{START_KEY}: {folder} lacks parameters of the encoder: {shown(lacking)}")
    if lost:
        raise StageError(
            f"{START_KEY}: {folder} has tensors of an encoder that find no place: {shown(lost)}; "
            "expected those that its config.json describes"
        )


def _check_rows(name: str, tensor: Tensor, checkpoint: Checkpoint) -> None:
    if len(tensor) != checkpoint.vocab_size:
        raise StageError(
            f"{START_KEY}: {name} has {len(tensor)} rows in {checkpoint.folder}, expected "
            f"{checkpoint.vocab_size}, the vocab_size of its config.json"
        )


def _set_vocabulary(
    model: BasePretrainModel, found: dict[str, Tensor], new_vocabulary: NewVocabulary | None
) -> None:
    words, bias = found[WORDS], found.get(BIAS)
    if new_vocabulary:
        words, bias = new_vocabulary(words.float(), None if bias is None else bias.float())
    rows = model.encoder.embeddings.word.weight[: len(model.output_bias)]
    set_values(rows, words, WORDS)
    if bias is not None:
        set_values(model.output_bias, bias, BIAS)


def set_values(parameter: Tensor, tensor: Tensor, name: str) -> None:
    """Copies a tensor into a parameter. Raises StageError, with the name, for another shape."""
    if parameter.shape != tensor.shape:
        raise StageError(
            f"{START_KEY}: {name} has the shape {list(tensor.shape)}, expected "
            f"{list(parameter.shape)}"
        )
    parameter.copy_(tensor)


def repeated(table: Tensor, num_positions: int) -> Tensor:
    """Extends a table of positions by copies of itself: row p is row p modulo its length.

    So Longformer began (Beltagy et al., 2020): a copy keeps the relations of near positions,
    everywhere but where one copy ends and the next begins.
    """
    copies = -(-num_positions // max(1, len(table)))
    return table.repeat(copies, 1)[:num_positions] if copies > 1 else table[:num_positions]
