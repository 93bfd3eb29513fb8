"""Builds the tokenizer of a dataset from TOKENIZER.NAME_OR_PATH.

The source is a vocab.txt, a tokenizer.json, a SentencePiece model, a local folder with one of them,
or a name on the Hub. Pretraining and finetuning load the result, which needs no network and no
remote code. vocabulary_training.py makes a tokenizer from the corpus instead.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset.tokenizers.conversion import convert
from dataset.tokenizers.formats import MAX_LENGTH, bert_pipeline, save_tokenizer
from dataset.tokenizers.source import (
    VOCABULARY_FILES,
    TokenizerSource,
    find_source,
    kind_of,
    vocabulary_file,
)
from dataset.tokenizers.special_tokens import with_added_tokens
from dataset.tokenizers.tokenizer_files import (
    NAME_KEY,
    TOKENIZER_FILES,
    implied_settings,
    tokenizer_of,
)
from dataset.workers import in_subprocess
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

LARGE_TOKENIZER = 4_000_000  # bytes of tokenizer.json
GROWTH = 3  # size of a tokenizer.json, relative to its vocabulary file
CASE_KEY, ACCENTS_KEY = "TOKENIZER.DO_LOWER_CASE", "TOKENIZER.ACCENTS"


def problem_with_tokenizer(name_or_path: str, do_lower_case: bool, accents: str = "auto") -> str:
    """Returns the problem with TOKENIZER.NAME_OR_PATH, DO_LOWER_CASE or ACCENTS, or "".

    Reads local files, but does not convert them.
    """
    try:
        if path := _local_path(name_or_path):
            _read_source(path, do_lower_case, accents)
    except StageError as error:
        return error.cause
    return ""


def _local_path(name_or_path: str) -> Path | None:
    """Returns the path of a local tokenizer; None for a name on the Hub.

    Raises StageError for a name that can only be a path, but does not exist.
    """
    path = Path(os.path.expanduser(name_or_path))
    if path.exists():
        return path
    looks_like_path = name_or_path.startswith((".", "/", "~")) or path.name in VOCABULARY_FILES
    looks_like_path |= path.suffix in (".txt", ".json", ".model")
    if looks_like_path or name_or_path.count("/") > 1 or not name_or_path:
        raise StageError(
            f"{NAME_KEY}: {name_or_path or 'an empty name'} does not exist, "
            "expected a folder, a vocab.txt, a tokenizer.json or a Hub name"
        )
    return None


def _read_source(path: Path, do_lower_case: bool, accents: str) -> TokenizerSource:
    source = find_source(path)
    if not source.is_converted:
        _check_casing(source.settings, path, do_lower_case, accents)
    return source


def _check_casing(
    settings: Mapping[str, Any], path: Path, do_lower_case: bool, accents: str
) -> None:
    """Raises StageError if a tokenizer treats case or accents differently from the config."""
    lower, strip = settings.get("do_lower_case"), settings.get("strip_accents")
    if lower is not None and lower != do_lower_case:
        habit = "lower-cases" if lower else "keeps the case"
        raise StageError(f"{CASE_KEY}: is {do_lower_case}, but {path} {habit}, expected {lower}")
    strip = lower if strip is None else strip
    habit = "strip" if strip else "keep"
    if strip is not None and accents not in ("auto", habit):
        raise StageError(
            f"{ACCENTS_KEY}: is {accents}, but {path} {habit}s them, expected {habit} or auto"
        )


def lower_cases_text(path: Path) -> bool | None:
    """True if a local tokenizer lower-cases, None if TOKENIZER.DO_LOWER_CASE decides.

    Raises StageError if the tokenizer is missing, malformed or not supported.
    """
    source = find_source(path)
    settings = source.settings
    if source.is_converted:
        settings = implied_settings(convert(source)[0], path)
    return settings.get("do_lower_case")


def build_tokenizer(
    name_or_path: str, do_lower_case: bool, folder: Path, accents: str = "auto"
) -> None:
    """Builds `folder` from a local file or folder, or from a name on the Hub.

    accents: strip | keep | auto. Raises StageError if the tokenizer cannot be loaded, lacks a
    special token, or treats case or accents differently.
    """
    path = _local_path(name_or_path) or _download(name_or_path)
    source = _read_source(path, do_lower_case, accents)
    content, roles = source.content, source.named.roles
    if source.is_converted:
        content, roles = convert(source)
        _check_casing(implied_settings(content, path), path, do_lower_case, accents)
    content = content or _bert_content(source, do_lower_case, accents)
    content = with_added_tokens(content, source.named)
    tokenizer = tokenizer_of(content, source.file)
    for token in content["added_tokens"]:
        if (number := tokenizer.token_to_id(token["content"])) != token["id"]:
            raise StageError(
                f"{NAME_KEY}: {source.file}: added token {shown(token['content'])} has id "
                f"{token['id']}, expected {number}, by its position"
            )
    asked = source.settings.get("model_max_length")
    max_length = asked if isinstance(asked, int) and asked > 0 else MAX_LENGTH
    save_tokenizer(tokenizer, roles, folder, max_length)


def _bert_content(source: TokenizerSource, do_lower_case: bool, accents: str) -> dict[str, Any]:
    """Returns a tokenizer.json for a vocab.txt and its settings."""
    lower, strip = (source.settings.get(name) for name in ("do_lower_case", "strip_accents"))
    strip = lower if strip is None else strip
    accents = accents if strip is None else "strip" if strip else "keep"
    ids = {entry: number for number, entry in enumerate(source.entries)}
    chinese = source.settings.get("tokenize_chinese_chars", True) is not False
    unknown = source.named.roles["unk_token"]
    return json.loads(bert_pipeline(ids, do_lower_case, accents, chinese, unknown).to_str())


def _download(name: str) -> Path:
    """Downloads the tokenizer files of a Hub model, unless the local cache has them."""
    from pipeline.hub.repository import Repository, fetch_matching

    try:
        folder = fetch_matching(Repository(name, "model"), TOKENIZER_FILES)
    except StageError as error:
        raise StageError(f"{NAME_KEY}: {error.cause}") from error
    if not any((folder / file).exists() for file in VOCABULARY_FILES):
        raise StageError(f"{NAME_KEY}: {name} has neither tokenizer.json nor vocab.txt on the Hub")
    return folder


def check_building(name_or_path: str, do_lower_case: bool, accents: str) -> None:
    """Raises StageError if a tokenizer cannot be built; writes to a temporary folder only."""
    with TemporaryDirectory() as folder:
        build_and_forget(name_or_path, do_lower_case, Path(folder) / "tokenizer", accents)


def build_and_forget(name_or_path: str, do_lower_case: bool, folder: Path, accents: str) -> None:
    """Builds a tokenizer; a large one in a subprocess, whose memory is freed afterwards."""
    if 0 < tokenizer_bytes(name_or_path) < LARGE_TOKENIZER:
        build_tokenizer(name_or_path, do_lower_case, folder, accents)
    else:
        in_subprocess(build_tokenizer, name_or_path, do_lower_case, folder, accents)


def tokenizer_bytes(name_or_path: str) -> int:
    """Estimates the size of a local tokenizer as a tokenizer.json; 0 for a name on the Hub."""
    path = Path(os.path.expanduser(name_or_path))
    if not path.exists():
        return 0
    file = vocabulary_file(path)
    return file.stat().st_size * (1 if kind_of(file) == "tokenizer.json" else GROWTH)
