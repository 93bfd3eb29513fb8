"""Reads the files of a tokenizer. Malformed content is a StageError that names the file."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StageError, in_one_line
from pipeline.user_files.file_checks import problem_with_encoding, problem_with_file, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME_KEY = "TOKENIZER.NAME_OR_PATH"
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MERGES = "merges.txt"  # the second half of a vocab.json
# Settings: read beside any vocabulary file. config.json names the class.
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
BESIDE = (*SETTINGS_FILES, "config.json", MERGES)
# Every file that decides how a tokenizer in Hugging Face form behaves, in the order of the digest.
TOKENIZER_FILES = (
    *("tokenizer.json", *SETTINGS_FILES, "vocab.txt", "vocab.json", MERGES, "spm.model"),
    *("spiece.model", "sentencepiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    "config.json",
)
MAX_FILE_BYTES = 256 << 20  # the largest known files have 35 MB
MAX_ID = 1 << 22  # the largest vocabularies have a million entries
PROBE = "a \u2180"  # the second character is in hardly any vocabulary
# The smallest model with which the library loads a normalizer.
SMALLEST_MODEL = {"type": "WordLevel", "vocab": {"u": 0}, "unk_token": "u"}


def tokenizer_files(name_or_path: str) -> list[Path]:
    """Lists the local files of a tokenizer; empty for a name on the Hub."""
    path = Path(os.path.expanduser(name_or_path))
    if path.is_file() and path.name not in TOKENIZER_FILES:
        return [path]
    folder = path if path.is_dir() else path.parent
    names = [name for name in TOKENIZER_FILES if path.is_dir() or name in (path.name, *BESIDE)]
    return [folder / name for name in names if (folder / name).is_file()]


def read_vocabulary(path: Path) -> list[str]:
    """Returns the entries of a vocab.txt, one per line.

    Raises StageError for NUL bytes and duplicate entries.
    """
    lines = _read(path).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    entries = lines.removesuffix("\n").split("\n")
    places: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        if "\0" in entry:
            raise StageError(f"{NAME_KEY}: {path}:{number}: NUL byte")
        if first := places.get(entry):
            raise StageError(
                f"{NAME_KEY}: {path} has duplicate entries, like `{shown(entry)}` in lines {first} "
                f"and {number}"
            )
        places[entry] = number
    return entries


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; empty if the file does not exist.

    Raises StageError if the content is not a JSON object.
    """
    if not os.path.lexists(path):
        return {}
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{NAME_KEY}: {path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise StageError(f"{NAME_KEY}: {path}: not a JSON object")
    return content


def _read(path: Path) -> str:
    """Returns the text of a file. Raises StageError, naming the line, if it is not UTF-8."""
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


# --- tokenizer.json --------------------------------------------------------------------------


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Returns the content of a tokenizer.json, with a list as `added_tokens`.

    Raises StageError for malformed entries and tokens. The library checks the other parts
    (`tokenizer_of`).
    """
    content = read_object(path)
    added = content["added_tokens"] = content.get("added_tokens") or []
    problem = _problem_with_model(content.get("model"))
    if not isinstance(added, list) or not all(map(_is_added_token, added)):
        problem = "added_tokens is not a list of tokens with `content`, `id` and `special`"
    if problem:
        raise StageError(f"{NAME_KEY}: {path}: {problem}")
    return content


def _problem_with_model(model: Any) -> str:
    entries = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(entries, Mapping):
        if not all(map(_is_id, entries.values())):
            return f"an entry's id is not an integer from 0 to {MAX_ID}"
        return "two entries have the same id" if len({*entries.values()}) < len(entries) else ""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return "has no vocabulary"
    pairs = all(
        isinstance(entry, list) and entry and isinstance(entry[0], str) for entry in entries
    )
    return "" if pairs else "its vocabulary is not a list of [entry, score]"


def _is_added_token(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and _is_id(token.get("id"))
        and isinstance(token.get("special"), bool)
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def entries_of(content: Mapping[str, Any]) -> dict[str, int]:
    """Returns the id of each entry and added token of a tokenizer.json."""
    entries = content["model"]["vocab"]
    if isinstance(entries, list):  # a unigram model: [entry, score]
        entries = {entry[0]: number for number, entry in enumerate(entries)}
    return {**entries, **{token["content"]: token["id"] for token in content["added_tokens"]}}


def unknown_token(content: Mapping[str, Any]) -> str | None:
    """Returns the unknown token of a model; None if it has none."""
    model = content["model"]
    number, entries, token = model.get("unk_id"), model["vocab"], model.get("unk_token")
    if isinstance(entries, list) and isinstance(number, int) and 0 <= number < len(entries):
        return entries[number][0]
    return token if isinstance(token, str) and token else None


def iter_steps(content: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yields the steps of a checked `normalizer` or `pre_tokenizer`, nested ones too."""
    waiting = [content.get(name) or {}]
    while waiting:
        step = waiting.pop(0)
        if step.get("type") == "Sequence":
            waiting = [*(step.get("normalizers") or step.get("pretokenizers") or ()), *waiting]
        else:
            yield step


def implied_settings(content: Mapping[str, Any], path: Path) -> dict[str, bool]:
    """Returns the settings of tokenizer_config.json that a tokenizer.json implies.

    Casing and accents are measured on two letters. Raises StageError, naming the file, if the
    library cannot load the normalizer or the pre_tokenizer.
    """
    parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer")}
    small: dict[str, Any] = {**parts, "model": SMALLEST_MODEL, "added_tokens": []}
    normalizer = tokenizer_of(small, path).normalizer
    accented = normalizer.normalize_str("\u00e9") if normalizer else "\u00e9"
    strips = "e" in accented and "\u0301" not in accented
    found = {"do_lower_case": lower_cases(normalizer), "strip_accents": strips}
    for step in iter_steps(content, "normalizer"):
        if step.get("type") == "BertNormalizer":
            found["tokenize_chinese_chars"] = step.get("handle_chinese_chars", True)
    for step in iter_steps(content, "pre_tokenizer"):
        if step.get("type") == "ByteLevel":
            found["add_prefix_space"] = step.get("add_prefix_space", True)
    return found


def lower_cases(normalizer: Any) -> bool:
    """True if a normalizer, which may be None, lower-cases."""
    return normalizer is not None and "A" not in normalizer.normalize_str("A")


def tokenizer_of(content: Mapping[str, Any], path: Path) -> "Tokenizer":
    """Loads the content of a tokenizer.json.

    Raises StageError, naming the file, if the library cannot load or run it.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.encode(PROBE)
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of the library derive from BaseException
        raise StageError(f"{NAME_KEY}: {path}: {in_one_line(str(error))}") from error
