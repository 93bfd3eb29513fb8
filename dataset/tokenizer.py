"""The tokenizer of a dataset: a folder in Hugging Face form, made from what the user has.

That is a vocab.txt, a local folder, a name on the Hub, or the corpus itself (tokenizer_training).
What is built here is what pretraining and finetuning load; it needs no network and no remote code.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.tokenizer_files import (
    NAME_KEY,
    TOKENIZER_FILES,
    read_object,
    read_special_tokens,
    read_tokenizer_json,
    read_vocabulary,
    tokenizer_files,
)
from dataset.tokenizer_forms import copy_tokenizer, save_bert_tokenizer
from dataset.word_beginnings import continuing_ids
from pipeline.errors import StageError

UNUSED_TOKEN = "[unused"  # how such entries of BERT's vocabularies begin
PROBE = "a \u2180"  # of which the second is hardly in any vocabulary
CASE_KEY, ACCENTS_KEY = "TOKENIZER.DO_LOWER_CASE", "TOKENIZER.ACCENTS"


# --- what the user has -----------------------------------------------------------------------


def problem_with_tokenizer(name_or_path: str, do_lower_case: bool, accents: str = "auto") -> str:
    """What is wrong with TOKENIZER.NAME_OR_PATH, DO_LOWER_CASE or ACCENTS, or an empty string.

    Local files are read as far as can be done without a tokenizer library.
    """
    path = Path(os.path.expanduser(name_or_path))
    looks_like_path = name_or_path.startswith((".", "/", "~")) or name_or_path.endswith(".txt")
    if not path.exists() and (looks_like_path or name_or_path.count("/") > 1 or not name_or_path):
        return (
            f"{NAME_KEY}: {name_or_path or 'an empty name'} does not exist, "
            "expected a folder, a vocab.txt or a Hub name"
        )
    if path.is_dir() and not {"tokenizer.json", "vocab.txt"} & set(os.listdir(path)):
        return f"{NAME_KEY}: {path} has neither tokenizer.json nor vocab.txt"
    try:
        return _problem_with_files(path, do_lower_case, accents) if path.exists() else ""
    except StageError as error:
        return error.cause


def _problem_with_files(path: Path, do_lower_case: bool, accents: str) -> str:
    """Raises StageError for files that hold something else than they should."""
    if not path.is_dir():
        read_vocabulary(path)
        return ""
    for name in TOKENIZER_FILES:
        if name.endswith(".json"):
            read_object(path / name)
    if not os.path.lexists(path / "tokenizer.json"):
        read_vocabulary(path / "vocab.txt")
    return problem_with_habits(path, do_lower_case, accents)


def problem_with_habits(folder: Path, do_lower_case: bool, accents: str) -> str:
    """Whether a ready-made tokenizer treats case and accents in another way than asked for."""
    lower, strip = habits(folder)
    if lower is not None and lower != do_lower_case:
        habit = "lower-cases" if lower else "keeps the case"
        return f"{CASE_KEY}: is {do_lower_case}, but {folder} {habit}, expected {lower}"
    habit = "strip" if strip else "keep"
    if strip is not None and accents not in ("auto", habit):
        return f"{ACCENTS_KEY}: is {accents}, but {folder} {habit}s them, expected {habit} or auto"
    return ""


def habits(folder: Path) -> tuple[bool | None, bool | None]:
    """Whether a folder's tokenizer lower-cases, and strips accents; None if it does not say so.

    Raises StageError for files that hold something else than they should.
    """
    if not os.path.lexists(folder / "tokenizer.json"):
        settings = read_object(folder / "tokenizer_config.json")
        lower, strip = settings.get("do_lower_case"), settings.get("strip_accents")
        return lower, lower if strip is None else strip
    normalizer = read_tokenizer_json(folder).get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    lower = any(step.get("lowercase") or step.get("type") == "Lowercase" for step in steps)
    return lower, any(_strips_accents(step) for step in steps)


def _strips_accents(step: dict) -> bool:
    if step.get("type") != "BertNormalizer":
        return step.get("type") == "StripAccents"
    strip = step.get("strip_accents")
    return step.get("lowercase", True) if strip is None else strip


# --- building --------------------------------------------------------------------------------


def build_tokenizer(
    name_or_path: str, do_lower_case: bool, folder: Path, accents: str = "auto"
) -> None:
    """Makes `folder` from a vocab.txt, a local folder or a Hub name.

    accents: strip | keep | auto. Raises StageError if that cannot be loaded, lacks a special
    token, or treats case or accents in another way.
    """
    if problem := problem_with_tokenizer(name_or_path, do_lower_case, accents):
        raise StageError(problem)
    path = Path(os.path.expanduser(name_or_path))
    if path.is_file():
        return save_bert_tokenizer(read_vocabulary(path), do_lower_case, folder, accents)
    source = path
    if not path.is_dir():
        source = download_tokenizer(name_or_path)
        if problem := _problem_with_files(source, do_lower_case, accents):
            raise StageError(problem)
    if (source / "tokenizer.json").exists():
        load_tokenizer(source)  # while errors name the user's files
        return copy_tokenizer(tokenizer_files(str(source)), habits(source)[0], folder)
    strip = habits(source)[1]
    accents = accents if strip is None else "strip" if strip else "keep"
    return save_bert_tokenizer(
        read_vocabulary(source / "vocab.txt"), do_lower_case, folder, accents
    )


def download_tokenizer(name: str) -> Path:
    """The tokenizer files of a Hub model, from the local cache when they are there."""
    from pipeline.hub import Repository, fetch_matching

    try:
        folder = fetch_matching(Repository(name, "model"), TOKENIZER_FILES)
    except StageError as error:
        raise StageError(f"{NAME_KEY}: {error.cause}") from error
    if not tokenizer_files(str(folder)):
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
    content, roles = read_tokenizer_json(folder), read_special_tokens(folder)
    ids = _vocabulary(content)
    missing = [role for role, token in roles.items() if token not in ids]
    if missing:
        raise StageError(f"{NAME_KEY}: {folder} has no {', '.join(missing)}, expected BERT's")
    special_ids = {role: ids[token] for role, token in roles.items()}
    banned = banned_ids(ids, content["added_tokens"]) | set(special_ids.values())
    atomic = [token for token in content["added_tokens"] if token["content"] not in roles.values()]
    for token in atomic:
        token["special"] = False
    tokenizer = _tokenizer_of(content, folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text
    names = tuple(token["content"] for token in atomic)
    return CorpusTokenizer(
        tokenizer, special_ids, tuple(sorted(banned)), max(ids.values()) + 1, names
    )


def _tokenizer_of(content: dict, folder: Path) -> "tokenizers.Tokenizer":  # noqa: F821
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.encode(PROBE)
        return tokenizer
    except Exception as error:  # the library raises no other
        raise StageError(f"{NAME_KEY}: {folder / 'tokenizer.json'}: {error}") from error


def _vocabulary(content: dict) -> dict[str, int]:
    """Id by entry, of the content of a tokenizer.json."""
    entries = content["model"]["vocab"]
    if isinstance(entries, list):  # of a unigram model: [entry, score]
        entries = {entry[0]: number for number, entry in enumerate(entries)}
    return {**entries, **{token["content"]: token["id"] for token in content["added_tokens"]}}


def banned_ids(ids: dict[str, int], added_tokens: list[dict]) -> set[int]:
    """Special tokens, unused entries, and numbers below the vocabulary's size without an entry."""
    special = {token["id"] for token in added_tokens if token["special"]}
    unused = {ids[entry] for entry in ids if entry.startswith(UNUSED_TOKEN) and entry[-1] == "]"}
    return special | unused | set(range(max(ids.values()) + 1)) - set(ids.values())
