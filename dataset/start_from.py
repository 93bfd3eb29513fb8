"""The tokenizer of PRETRAIN.START_FROM, for data that this model is trained on."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from configs.keys import KEYS
from dataset.tokenizers.build import build_tokenizer, lower_cases_text
from dataset.tokenizers.load import CorpusTokenizer, load_tokenizer
from dataset.tokenizers.tokenizer_files import NAME_KEY
from pipeline.errors import ConfigError, StageError
from pipeline.hub.models import MODEL_FILES, described_model

if TYPE_CHECKING:
    from yacs.config import CfgNode

START_KEY = "PRETRAIN.START_FROM"


def completed(config: "CfgNode") -> "CfgNode":
    """Returns a config with the tokenizer of PRETRAIN.START_FROM where none is named.

    Raises ConfigError if there is no such model, or if it has no tokenizer.
    """
    if not takes_tokenizer(config):
        return config
    config = config.clone()
    config.defrost()
    complete_tokenizer(config)
    config.freeze()
    return config


def takes_tokenizer(config: "CfgNode") -> bool:
    """True if START_FROM is set, and the keys of TOKENIZER name no other tokenizer."""
    tokenizer = config.TOKENIZER
    is_default = tokenizer.NAME_OR_PATH == KEYS[NAME_KEY].default
    return bool(config.PRETRAIN.START_FROM) and is_default and not tokenizer.TRAIN


def complete_tokenizer(config: "CfgNode") -> None:
    """Sets TOKENIZER.NAME_OR_PATH and DO_LOWER_CASE if `takes_tokenizer`; see `completed`."""
    if not takes_tokenizer(config):
        return
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    name, folder = described_model(config.PRETRAIN.START_FROM, root, START_KEY)
    if not has_tokenizer(folder):
        raise ConfigError([f"{NAME_KEY}: {START_KEY} {name} has no tokenizer, expected its name"])
    try:
        lowers = lower_cases_text(folder)
    except StageError as error:
        raise ConfigError([error.cause]) from error
    config.TOKENIZER.NAME_OR_PATH = name
    key = "DO_LOWER_CASE"
    if lowers is not None and config.TOKENIZER[key] == KEYS[f"TOKENIZER.{key}"].default:
        config.TOKENIZER[key] = lowers


def has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in MODEL_FILES["tokenizer"])


def tokenizer_entries(path: Path) -> dict[str, int]:
    """Returns the id of each entry of a user's tokenizer.

    Raises StageError if it cannot be built.
    """
    return read_tokenizer(path).tokenizer.get_vocab()


def read_tokenizer(path: Path) -> CorpusTokenizer:
    """Reads a user's tokenizer, local and in any form, as data preparation would build it.

    Raises StageError if it cannot be built.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tokenizer"
        build_tokenizer(str(path), lower_cases_text(path) is not False, folder)
        return load_tokenizer(folder)
