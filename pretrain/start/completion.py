"""Completes a config from the model that PRETRAIN.START_FROM names.

Keys of MODEL and TOKENIZER at their defaults take the values of the checkpoint. Completing a
completed config changes nothing.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.keys import KEYS
from configs.pretrain_rules import problems_of_pretraining
from dataset.start_from import (
    complete_tokenizer,
    has_tokenizer,
    read_tokenizer,
    tokenizer_entries,
)
from dataset.tokenizers.load import load_tokenizer
from pipeline.errors import ConfigError, StageError
from pipeline.hub.models import CONFIG, described_model, find_model
from pretrain.model.model_types import OWN_TYPE
from pretrain.start.checkpoint_config import START_KEY, Checkpoint, read_checkpoint
from pretrain.transfer.growth_check import SIZES, problems_of_growth
from pretrain.transfer.matching import match_entries

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Keys that do not change what the weights of the checkpoint compute, or may do so on purpose.
FREE_KEYS = (
    *("HIDDEN_DROPOUT_PROB", "ATTENTION_PROBS_DROPOUT_PROB", "INITIALIZER_RANGE"),
    *("ROPE_THETA", "LOCAL_ROPE_THETA"),
)


def completed(config: "CfgNode") -> "CfgNode":
    """Returns the completed config, the same one without START_FROM.

    Raises ConfigError with all contradictions between the config and the checkpoint.
    """
    if not config.PRETRAIN.START_FROM:
        return config
    frozen, config = config, config.clone()
    config.defrost()
    problems = [*complete(config), *problems_of_pretraining(config)]
    if problems:
        raise ConfigError(problems)
    config.freeze()
    return frozen if config == frozen else config


def complete(config: "CfgNode", written: Collection[str] = ()) -> list[str]:
    """Sets the keys at their defaults; returns a line for each contradiction.

    written: full keys that the user has set, perhaps to their defaults.
    """
    if not config.PRETRAIN.START_FROM:
        return []
    problems: list[str] = []
    try:
        problems += complete_model(config, written)
        complete_tokenizer(config)
    except ConfigError as error:
        problems += error.problems
    return problems


def checkpoint_of(config: "CfgNode") -> Checkpoint | None:
    """Reads the checkpoint that this config starts from, None without START_FROM.

    Raises ConfigError if it does not exist, or cannot be trained here.
    """
    name = config.PRETRAIN.START_FROM
    if not name:
        return None
    _, folder = described_model(name, Path(config.SYSTEM.OUTPUT_ROOT), START_KEY)
    return read_checkpoint(folder)


def on_hub(config: "CfgNode") -> bool:
    """True if START_FROM names a model on the Hub."""
    name = config.PRETRAIN.START_FROM
    return bool(name) and find_model(name, Path(config.SYSTEM.OUTPUT_ROOT), START_KEY) is None


def complete_model(config: "CfgNode", written: Collection[str] = ()) -> list[str]:
    """Sets the keys of MODEL as `complete` does. Raises ConfigError as `checkpoint_of` does."""
    checkpoint = checkpoint_of(config)
    if checkpoint is None:
        return []
    model = config.MODEL
    problems: list[str] = []
    if model.TYPE != checkpoint.model_type:  # else the user prefers the code of transformers
        problems += _set(model, "TYPE", checkpoint.keys["TYPE"], checkpoint, written)
    for name, value in checkpoint.keys_for(model.TYPE).items():
        if name == "LOCAL_ROPE_THETA":
            value = value or _kept_local_theta(model, checkpoint)
        if not (model.GROW and name.lower() in SIZES):
            problems += _set(model, name, value, checkpoint, written)
    return [*problems, *_problems_of_growth(model, checkpoint)]


def _problems_of_growth(model: "CfgNode", checkpoint: Checkpoint) -> Iterator[str]:
    """Yields a line for each reason against MODEL.GROW, if it is set."""
    if not model.GROW:
        return
    if model.TYPE != OWN_TYPE:
        yield f"MODEL.GROW: only {OWN_TYPE} grows, got True with MODEL.TYPE {model.TYPE}"
        return
    small, large = (
        {name: keys[name.upper()] for name in SIZES} for keys in (checkpoint.keys, model)
    )
    for name, problem in problems_of_growth(small, large):
        yield f"MODEL.{name.upper()}: MODEL.GROW from {checkpoint.folder}: {problem}"


def _kept_local_theta(model: "CfgNode", checkpoint: Checkpoint) -> float:
    """Returns the theta of layers with a window: a higher ROPE_THETA is for the others."""
    theta = checkpoint.keys["ROPE_THETA"]
    return 0.0 if model.ROPE_THETA == theta else theta


def _set(
    model: "CfgNode", name: str, value: Any, checkpoint: Checkpoint, written: Collection[str]
) -> Iterator[str]:
    """Sets a key of MODEL, or yields a line if its value contradicts the checkpoint's."""
    key, found = f"MODEL.{name}", model[name]
    row = KEYS[key]
    value = type(row.default)(value)
    is_default = found == row.default
    if found == value or (name in FREE_KEYS and not is_default):
        return
    place = checkpoint.folder / CONFIG
    if name in FREE_KEYS and key in written:
        yield (
            f"{key}: got {found}, its default, which means as in {START_KEY}, and that is {value} "
            f"({place}); expected {value}, or a value other than the default"
        )
    elif not is_default or key in written:
        yield (
            f"{key}: got {found}, but {START_KEY} has {value} ({place}), expected {value}, or no "
            "value here"
        )
    elif row.rule and not row.rule.test(value):
        yield f"{key}: {place} has {value}, expected {row.rule.expected}"
    else:
        model[name] = value


def problems_of_vocabulary(config: "CfgNode", checkpoint: Checkpoint) -> Iterator[str]:
    """Yields a line if nothing says which words the rows of the checkpoint belong to."""
    if config.TOKENIZER.TRAIN and not has_tokenizer(checkpoint.folder):
        yield (
            f"TOKENIZER.TRAIN: {START_KEY} {checkpoint.folder} has no tokenizer to compare with, "
            "got True, expected False with its TOKENIZER.NAME_OR_PATH, or its files in that folder"
        )


def notes_on_vocabulary(
    config: "CfgNode", checkpoint: Checkpoint, built: Path | None
) -> Iterator[str]:
    """Yields a line on the entries of another tokenizer than the checkpoint's.

    built: folder of the data's tokenizer; None before it is made.
    """
    if not has_other_tokenizer(config, checkpoint):
        return
    if built is None and config.TOKENIZER.TRAIN:
        yield "entries that the new vocabulary shares with the checkpoint's keep their embeddings"
        return
    new = load_tokenizer(built) if built else read_tokenizer(Path(config.TOKENIZER.NAME_OR_PATH))
    old = read_tokenizer(checkpoint.folder)
    if new.tokenizer.get_vocab() != old.tokenizer.get_vocab():
        how = config.MODEL.VOCABULARY_TRANSFER
        yield f"another vocabulary than the checkpoint's: {match_entries(new, old)}, others: {how}"


def has_other_tokenizer(config: "CfgNode", checkpoint: Checkpoint) -> bool:
    """True if the entries of TOKENIZER are not the checkpoint's, as far as local files say.

    Raises ConfigError for a tokenizer that cannot be built.
    """
    name, folder = config.TOKENIZER.NAME_OR_PATH, checkpoint.folder
    if config.TOKENIZER.TRAIN:
        return True
    path = Path(name).expanduser()
    is_same = name == config.PRETRAIN.START_FROM or path.absolute() == folder.absolute()
    if is_same or not path.exists() or not has_tokenizer(folder):
        return False
    try:
        return tokenizer_entries(path) != tokenizer_entries(folder)
    except StageError as error:
        raise ConfigError([error.cause]) from error


def notes(config: "CfgNode", checkpoint: Checkpoint) -> Iterator[str]:
    """Yields lines on the start, and on the differences from the checkpoint, for a reader."""
    model, length = config.MODEL, config.DATASET.MAX_SEQ_LENGTH
    how = "" if model.TYPE == OWN_TYPE else f", by the code of transformers for {model.TYPE}"
    if not checkpoint.is_ours:
        how += f": {checkpoint.why_not_ours}"
    yield f"starts from {config.PRETRAIN.START_FROM}, a {checkpoint.class_name}{how}"
    if model.GROW:
        small, large = (
            (keys["NUM_HIDDEN_LAYERS"], keys["HIDDEN_SIZE"]) for keys in (checkpoint.keys, model)
        )
        yield f"grows from {small[0]} layers of width {small[1]} to {large[0]} of width {large[1]}"
    for name, value in checkpoint.keys_for(model.TYPE).items():
        if name in FREE_KEYS and (value or name != "LOCAL_ROPE_THETA") and model[name] != value:
            yield f"MODEL.{name} is {model[name]:g}, that of the checkpoint {value:g}"
    positions = checkpoint.num_positions
    if 0 < positions < length:
        how = "are trained"
        if model.POSITION_EMBEDDING_TYPE == "absolute":
            how = "begin as a repetition of the first"
        yield f"the checkpoint has {positions} positions: those up to {length} {how}"
