"""Size and special tokens of the tokenizer."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Vocabulary:
    """size: number of word embeddings, without padding. special_ids: as in config.json."""

    directory: Path
    size: int
    special_ids: dict[str, int]


def find_tokenizer(dataset_path: Path, tokenizer_name: str, output_dir: Path) -> Path:
    """Returns the folder of the dataset's tokenizer, or of the named one, saved in output_dir.

    Raises FileNotFoundError if there is neither.
    """
    own = dataset_path / "tokenizer"
    if own.is_dir():
        return own
    if not tokenizer_name:
        raise FileNotFoundError(f"{own} is missing; name one with --tokenizer_name")
    from transformers import AutoTokenizer

    copy = output_dir / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, trust_remote_code=False)
    tokenizer.save_pretrained(copy)
    return copy


def read_vocabulary(directory: Path) -> Vocabulary:
    """Reads tokenizer.json and tokenizer_config.json.

    Raises OSError naming an unreadable file, and KeyError without a special token.
    """
    from tokenizers import Tokenizer

    # The error of from_file would not name a missing file.
    text = (directory / "tokenizer.json").read_text(encoding="utf-8")
    tokens = Tokenizer.from_str(text).get_vocab()
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    special_ids = {
        "pad_token_id": tokens[special_token(config, "pad_token", "[PAD]")],
        "bos_token_id": tokens[special_token(config, "cls_token", "[CLS]")],
        "eos_token_id": tokens[special_token(config, "sep_token", "[SEP]")],
    }
    return Vocabulary(directory, max(tokens.values()) + 1, special_ids)


def special_token(config: dict, role: str, default: str) -> str:
    """Returns the text of a special token, an object in older files."""
    value = config.get(role) or default
    return value["content"] if isinstance(value, dict) else value
