"""The tokenizer of a dataset: a folder in Hugging Face form, made from what the user has.

That is a vocab.txt, a tokenizer.json, a SentencePiece model, a local folder with one of them, a
name on the Hub, or the corpus itself (tokenizer_training). What is built here is what pretraining
and finetuning load; it needs no network and no remote code.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset.tokenizers.conversion import convert
from dataset.tokenizers.formats import bert_pipeline, save_tokenizer
from dataset.tokenizers.library import habits, tokenizer_of
from dataset.tokenizers.source import (
    VOCABULARY_FILES,
    TokenizerSource,
    entries_of,
    find_source,
    kind_of,
    vocabulary_file,
    with_added_tokens,
)
from dataset.tokenizers.tokenizer_files import (
    NAME_KEY,
    TOKENIZER_FILES,
    read_special_tokens,
    read_tokenizer_json,
)
from dataset.tokenizers.word_beginnings import continuing_ids
from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool, run_unordered
from pipeline.user_files.file_checks import shown

LARGE_TOKENIZER = 4_000_000  # bytes of tokenizer.json
GROWTH = 3  # from a vocabulary alone to a tokenizer.json
UNUSED_TOKEN = "[unused"  # how such entries of BERT's vocabularies begin
CASE_KEY, ACCENTS_KEY = "TOKENIZER.DO_LOWER_CASE", "TOKENIZER.ACCENTS"


# --- what the user has -----------------------------------------------------------------------


def problem_with_tokenizer(name_or_path: str, do_lower_case: bool, accents: str = "auto") -> str:
    """Returns a problem with TOKENIZER.NAME_OR_PATH, DO_LOWER_CASE or ACCENTS, or "".

    Local files are read as far as can be done without converting them.
    """
    path = Path(os.path.expanduser(name_or_path))
    looks_like_path = name_or_path.startswith((".", "/", "~")) or path.name in VOCABULARY_FILES
    looks_like_path |= path.suffix in (".txt", ".json", ".model")
    if not path.exists() and (looks_like_path or name_or_path.count("/") > 1 or not name_or_path):
        return (
            f"{NAME_KEY}: {name_or_path or 'an empty name'} does not exist, "
            "expected a folder, a vocab.txt, a tokenizer.json or a Hub name"
        )
    try:
        return _problem_with_source(path, do_lower_case, accents) if path.exists() else ""
    except StageError as error:
        return error.cause


def _problem_with_source(path: Path, do_lower_case: bool, accents: str) -> str:
    """Raises StageError for files that hold something else than they should."""
    source = find_source(path)
    if source.is_converted:
        return ""
    if source.content is None:
        found = _habits_of_settings(source)
    else:
        found = habits(source.content, source.file)
    return problem_with_habits(found, path, do_lower_case, accents)


def problem_with_habits(
    found: tuple[bool | None, bool | None], path: Path, do_lower_case: bool, accents: str
) -> str:
    """Returns how a tokenizer treats case or accents in another way than asked for, or "".

    found: whether it lower-cases, and strips accents; None if that is left to the config.
    """
    lower, strip = found
    if lower is not None and lower != do_lower_case:
        habit = "lower-cases" if lower else "keeps the case"
        return f"{CASE_KEY}: is {do_lower_case}, but {path} {habit}, expected {lower}"
    habit = "strip" if strip else "keep"
    if strip is not None and accents not in ("auto", habit):
        return f"{ACCENTS_KEY}: is {accents}, but {path} {habit}s them, expected {habit} or auto"
    return ""


def _habits_of_settings(source: TokenizerSource) -> tuple[bool | None, bool | None]:
    """Returns do_lower_case and strip_accents of the settings beside a vocab.txt; None if unset."""
    lower, strip = (source.settings.get(name) for name in ("do_lower_case", "strip_accents"))
    return lower, lower if strip is None else strip


# --- building --------------------------------------------------------------------------------


def build_tokenizer(
    name_or_path: str, do_lower_case: bool, folder: Path, accents: str = "auto"
) -> None:
    """Makes `folder` from a local file or folder, or a Hub name.

    accents: strip | keep | auto. Raises StageError if that cannot be loaded, lacks a special
    token, or treats case or accents in another way.
    """
    if problem := problem_with_tokenizer(name_or_path, do_lower_case, accents):
        raise StageError(problem)
    path = Path(os.path.expanduser(name_or_path))
    if not path.exists():
        path = download_tokenizer(name_or_path)
        if problem := _problem_with_source(path, do_lower_case, accents):
            raise StageError(problem)
    source = find_source(path)
    if source.is_converted:
        content, roles = convert(source)
        if problem := problem_with_habits(habits(content, path), path, do_lower_case, accents):
            raise StageError(problem)
    elif source.content is None:
        content, roles = _bert_content(source, do_lower_case, accents), source.roles
    else:
        content, roles = source.content, source.roles
    content = with_added_tokens(content, source)
    tokenizer = tokenizer_of(content, source.file)
    for token in content["added_tokens"]:
        if (number := tokenizer.token_to_id(token["content"])) != token["id"]:
            raise StageError(
                f"{NAME_KEY}: {source.file}: added token {shown(token['content'])} has id "
                f"{token['id']}, expected {number}, by its place"
            )
    save_tokenizer(tokenizer, roles, folder, _max_length(source))


def _bert_content(source: TokenizerSource, do_lower_case: bool, accents: str) -> dict[str, Any]:
    """Returns the tokenizer.json that a vocab.txt and its settings amount to."""
    strip = _habits_of_settings(source)[1]
    accents = accents if strip is None else "strip" if strip else "keep"
    ids = {entry: number for number, entry in enumerate(source.entries)}
    chinese = source.settings.get("tokenize_chinese_chars", True) is not False
    unknown = source.roles["unk_token"]
    return json.loads(bert_pipeline(ids, do_lower_case, accents, chinese, unknown).to_str())


def _max_length(source: TokenizerSource) -> int:
    asked = source.settings.get("model_max_length")
    return asked if isinstance(asked, int) and asked > 0 else sys.maxsize


def check_building(name_or_path: str, do_lower_case: bool, accents: str) -> None:
    """Raises StageError if a tokenizer cannot be built, and leaves nothing behind."""
    with TemporaryDirectory() as folder:
        build_and_forget(name_or_path, do_lower_case, Path(folder) / "tokenizer", accents)


def build_and_forget(name_or_path: str, do_lower_case: bool, folder: Path, accents: str) -> None:
    """Builds a large tokenizer in a process of its own, whose memory is free again afterwards."""
    job = (name_or_path, do_lower_case, folder, accents)
    if 0 < tokenizer_bytes(name_or_path) < LARGE_TOKENIZER:
        build_tokenizer(*job)
        return
    with local_pool(1) as pool:
        for _ in run_unordered(pool, _build, [job]):
            pass


def _build(job: tuple[str, bool, Path, str]) -> None:
    build_tokenizer(*job)


def tokenizer_bytes(name_or_path: str) -> int:
    """Estimates the size of a local tokenizer as a tokenizer.json; 0 for one of the Hub."""
    path = Path(os.path.expanduser(name_or_path))
    if not path.exists():
        return 0
    file = vocabulary_file(path)
    is_whole = kind_of(file) == "tokenizer.json"
    return file.stat().st_size * (1 if is_whole else GROWTH)


def download_tokenizer(name: str) -> Path:
    """The tokenizer files of a Hub model, from the local cache when they are there."""
    from pipeline.hub.repository import Repository, fetch_matching

    try:
        folder = fetch_matching(Repository(name, "model"), TOKENIZER_FILES)
    except StageError as error:
        raise StageError(f"{NAME_KEY}: {error.cause}") from error
    if not any((folder / file).exists() for file in VOCABULARY_FILES):
        raise StageError(f"{NAME_KEY}: {name} has neither tokenizer.json nor vocab.txt on the Hub")
    return folder


# --- using -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CorpusTokenizer:
    """What making samples needs of a tokenizer.

    special_ids: id by role (pad_token, unk_token, cls_token, sep_token, mask_token).
    banned_ids: special and unused tokens, which are neither predicted nor random replacements.
    atomic_tokens: what is one token wherever a text spells it, like a special token of the user's.
    """

    tokenizer: "tokenizers.Tokenizer"  # noqa: F821 (imported where it is used)
    special_ids: dict[str, int]
    banned_ids: tuple[int, ...]
    vocab_size: int
    atomic_tokens: tuple[str, ...] = ()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Ids of each sentence, without special tokens and without truncation."""
        encodings = self.tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def continuing_ids(self) -> tuple[int, ...]:
        """Tokens that belong to the same word as the token before them, for whole-word masking."""
        return continuing_ids(self.tokenizer)


def load_tokenizer(folder: Path) -> CorpusTokenizer:
    """Loads what build_tokenizer or train_tokenizer made.

    A text that spells one of the five special tokens, like `[MASK]`, is ordinary text to it; every
    other added token, as those of TOKENIZER.SPECIAL_TOKENS, is one token wherever it occurs, as
    it is in finetuning. Raises StageError if one of the five is missing, or a file is damaged.
    """
    path, roles = folder / "tokenizer.json", read_special_tokens(folder)
    content = read_tokenizer_json(path)
    ids = entries_of(content)
    missing = [role for role, token in roles.items() if token not in ids]
    if missing:
        raise StageError(f"{NAME_KEY}: {folder} has no {', '.join(missing)}, expected BERT's")
    special_ids = {role: ids[token] for role, token in roles.items()}
    banned = banned_ids(ids, content["added_tokens"]) | set(special_ids.values())
    atomic = [token for token in content["added_tokens"] if token["content"] not in roles.values()]
    for token in atomic:
        token["special"] = False
    tokenizer = tokenizer_of(content, path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text
    names = tuple(token["content"] for token in atomic)
    return CorpusTokenizer(
        tokenizer, special_ids, tuple(sorted(banned)), max(ids.values()) + 1, names
    )


def banned_ids(ids: dict[str, int], added_tokens: list[dict]) -> set[int]:
    """Special tokens, unused entries, and numbers below the vocabulary's size without an entry."""
    special = {token["id"] for token in added_tokens if token["special"]}
    unused = {ids[entry] for entry in ids if entry.startswith(UNUSED_TOKEN) and entry[-1] == "]"}
    return special | unused | set(range(max(ids.values()) + 1)) - set(ids.values())
