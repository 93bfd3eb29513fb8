"""What the files of a user's tokenizer hold; something else is an error that names the file."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StageError
from pipeline.user_files.file_checks import problem_with_encoding, problem_with_file, shown

NAME_KEY = "TOKENIZER.NAME_OR_PATH"
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MERGES = "merges.txt"  # which a vocab.json is nothing without
# All that decides how a tokenizer in Hugging Face form behaves; config.json names its class.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    MERGES,
    "spm.model",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "config.json",
)
# What counts beside a vocabulary's file that was named.
BESIDE = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"),
    MERGES,
)
MAX_FILE_BYTES = 256 << 20  # the largest known are of 35 MB
MAX_ID = 1 << 22  # the largest vocabularies have a million entries


def tokenizer_files(name_or_path: str) -> list[Path]:
    """Local files that a tokenizer consists of; none if the name is one of the Hub."""
    path = Path(os.path.expanduser(name_or_path))
    if path.is_file() and path.name not in TOKENIZER_FILES:
        return [path]
    folder = path if path.is_dir() else path.parent
    names = [name for name in TOKENIZER_FILES if path.is_dir() or name in (path.name, *BESIDE)]
    return [folder / name for name in names if (folder / name).is_file()]


def read_vocabulary(path: Path) -> list[str]:
    """Returns the entries of a vocab.txt, one per line. Raises StageError for what is none."""
    lines = _read(path).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    entries = lines.removesuffix("\n").split("\n")
    places: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        if "\0" in entry:
            raise StageError(f"{NAME_KEY}: {path}:{number}: NUL byte")
        if first := places.get(entry):
            raise StageError(
                f"{NAME_KEY}: {path} has entries that occur twice, like `{shown(entry)}` in lines "
                f"{first} and {number}"
            )
        places[entry] = number
    return entries


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no such file.

    Raises StageError if it is something else.
    """
    if not os.path.lexists(path):
        return {}
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{NAME_KEY}: {path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise StageError(f"{NAME_KEY}: {path}: no JSON object")
    return content


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Returns the content of a tokenizer.json, with a list as `added_tokens`.

    Raises StageError unless its parts are of the kinds that are looked at here.
    """
    content = read_object(path)
    content["added_tokens"] = content.get("added_tokens") or []
    if problem := _problem_with_model(content.get("model")) or _problem_with_parts(content):
        raise StageError(f"{NAME_KEY}: {path}: {problem}")
    return content


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Token by role, of a folder's tokenizer_config.json. Older ones hold an object for each."""
    path = folder / "tokenizer_config.json"
    settings, tokens = read_object(path), {}
    for role, default in SPECIAL_TOKENS.items():
        value = settings.get(role) or default
        tokens[role] = value.get("content") if isinstance(value, dict) else value
        if not isinstance(tokens[role], str):
            raise StageError(f"{NAME_KEY}: {path}: {role} is no text")
    return tokens


def _read(path: Path) -> str:
    """Raises StageError, naming the line, for what is not UTF-8."""
    problem = problem_with_file(path)
    if not problem and path.stat().st_size > MAX_FILE_BYTES:
        problem = f"is larger than {MAX_FILE_BYTES >> 20} MiB, expected a vocabulary"
    content = b"" if problem else path.read_bytes()
    if problem := problem or problem_with_encoding(content):
        raise StageError(f"{NAME_KEY}: {path} {problem}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StageError(f"{NAME_KEY}: {path}:{line}: not UTF-8") from error


def _problem_with_model(model: Any) -> str:
    entries = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(entries, Mapping):
        if not all(map(_is_id, entries.values())):
            return f"an entry's id is no whole number from 0 to {MAX_ID}"
        return "two entries have the same id" if len({*entries.values()}) < len(entries) else ""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return "has no vocabulary"
    pairs = all(
        isinstance(entry, list) and entry and isinstance(entry[0], str) for entry in entries
    )
    return "" if pairs else "its vocabulary is no list of entries with their scores"


def _problem_with_parts(content: dict[str, Any]) -> str:
    added = content["added_tokens"]
    if not isinstance(added, list) or not all(map(_is_added_token, added)):
        return "added_tokens is no list of tokens with `content`, `id` and `special`"
    for name, steps in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        if not _is_step(content.get(name), steps):
            return f"its {name} is no object with steps"
    return ""


def _is_step(part: Any, steps: str) -> bool:
    """True for null, an object, or one with a list of such objects under the name `steps`."""
    if part is None:
        return True
    inner = part.get(steps, []) if isinstance(part, dict) else None
    return isinstance(inner, list) and all(
        isinstance(step, dict) and _is_step(step, steps) for step in inner
    )


def _is_added_token(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and _is_id(token.get("id"))
        and isinstance(token.get("special"), bool)
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID
