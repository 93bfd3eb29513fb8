"""The content of a tokenizer.json, run by the `tokenizers` library: what it does, measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset.tokenizers.tokenizer_files import NAME_KEY
from pipeline.errors import StageError, in_one_line

PROBE = "a \u2180"  # of which the second is hardly in any vocabulary
# Enough for the library to load the other parts.
SMALLEST_MODEL = {"type": "WordLevel", "vocab": {"u": 0}, "unk_token": "u"}


def tokenizer_of(content: Mapping[str, Any], path: Path) -> "tokenizers.Tokenizer":  # noqa: F821
    """Raises StageError, naming the file, for what the library cannot load or run."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.encode(PROBE)
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library's panics are no Exception
        raise StageError(f"{NAME_KEY}: {path}: {in_one_line(str(error))}") from error


def habits(content: Mapping[str, Any], path: Path) -> tuple[bool, bool]:
    """Returns whether a tokenizer.json lower-cases and strips accents, tried on two letters."""
    parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer")}
    small = {**parts, "model": SMALLEST_MODEL, "added_tokens": []}
    return habits_of(tokenizer_of(small, path).normalizer)


def habits_of(normalizer: Any) -> tuple[bool, bool]:
    """Returns the same for a normalizer, which may be None."""
    if normalizer is None:
        return False, False
    upper, accented = (normalizer.normalize_str(letter) for letter in ("A", "\u00e9"))
    return "A" not in upper, "e" in accented and "\u0301" not in accented
