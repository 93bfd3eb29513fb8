"""The tokenizer of a dataset: a folder in Hugging Face form, made from what the user has.

That is a vocab.txt, a local folder, a name on the Hub, or the corpus itself (tokenizer_training).
What is built here is what pretraining and finetuning load; it needs no network and no remote code.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.tokenizer_forms import SPECIAL_TOKENS, copy_tokenizer, save_bert_tokenizer
from dataset.word_beginnings import continuing_ids
from pipeline.artifacts import read_json
from pipeline.errors import StageError

# All that decides how a tokenizer in Hugging Face form behaves.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
UNUSED_TOKEN = "[unused"  # how such entries of BERT's vocabularies begin
NAME_KEY, CASE_KEY = "TOKENIZER.NAME_OR_PATH", "TOKENIZER.DO_LOWER_CASE"
ACCENTS_KEY = "TOKENIZER.ACCENTS"


# --- what the user has -----------------------------------------------------------------------


def tokenizer_files(name_or_path: str) -> list[Path]:
    """Local files that a tokenizer consists of; none if the name is one of the Hub."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return [path]
    return [path / name for name in TOKENIZER_FILES if (path / name).is_file()]


def problem_with_tokenizer(name_or_path: str, do_lower_case: bool, accents: str = "auto") -> str:
    """What is wrong with TOKENIZER.NAME_OR_PATH, DO_LOWER_CASE or ACCENTS, or an empty string."""
    path = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.startswith((".", "/", "~")) or name_or_path.endswith(".txt")
    if not path.exists() and (looks_like_path or name_or_path.count("/") > 1 or not name_or_path):
        return (
            f"{NAME_KEY}: {name_or_path or 'an empty name'} does not exist, "
            "expected a folder, a vocab.txt or a Hub name"
        )
    if path.is_dir() and not {"tokenizer.json", "vocab.txt"} & set(os.listdir(path)):
        return f"{NAME_KEY}: {path} has neither tokenizer.json nor vocab.txt"
    return problem_with_habits(path, do_lower_case, accents) if path.is_dir() else ""


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
    """Whether a folder's tokenizer lower-cases, and strips accents; None if it does not say so."""
    if not (folder / "tokenizer.json").exists():
        settings = read_json(folder / "tokenizer_config.json") or {}
        lower, strip = settings.get("do_lower_case"), settings.get("strip_accents")
        return lower, lower if strip is None else strip
    normalizer = (read_json(folder / "tokenizer.json") or {}).get("normalizer") or {}
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
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return save_bert_tokenizer(read_vocabulary(path), do_lower_case, folder, accents)
    source = path if path.is_dir() else download_tokenizer(name_or_path)
    if problem := problem_with_habits(source, do_lower_case, accents):
        raise StageError(problem)
    if (source / "tokenizer.json").exists():
        return copy_tokenizer(tokenizer_files(str(source)), habits(source)[0], folder)
    strip = habits(source)[1]
    accents = accents if strip is None else "strip" if strip else "keep"
    return save_bert_tokenizer(
        read_vocabulary(source / "vocab.txt"), do_lower_case, folder, accents
    )


def download_tokenizer(name: str) -> Path:
    """The tokenizer files of a Hub model, from the local cache when they are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(TOKENIZER_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"{NAME_KEY}: {name} could not be loaded from the Hub: {reason}"
        ) from error
    if not tokenizer_files(str(folder)):
        raise StageError(f"{NAME_KEY}: {name} has neither tokenizer.json nor vocab.txt on the Hub")
    return folder


def read_vocabulary(path: Path) -> list[str]:
    """Entries of a vocab.txt, one per line. Raises StageError if it is not one of BERT's kind."""
    entries = path.read_text(encoding="utf-8").split("\n")
    entries = [entry.rstrip("\r") for entry in entries[: None if entries[-1] else -1]]
    missing = [token for token in SPECIAL_TOKENS.values() if token not in entries]
    if missing:
        raise StageError(f"{NAME_KEY}: {path} has no {', '.join(missing)}, expected one per line")
    if len(set(entries)) < len(entries):
        raise StageError(f"{NAME_KEY}: {path} has entries that occur twice")
    return entries


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
    it is in finetuning. Raises StageError if one of the five is missing.
    """
    from tokenizers import Tokenizer

    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    content = json.loads(text)
    roles = _special_tokens(read_json(folder / "tokenizer_config.json") or {})
    ids = _vocabulary(content)
    missing = [role for role, token in roles.items() if token not in ids]
    if missing:
        raise StageError(f"{NAME_KEY}: the tokenizer has no {', '.join(missing)}, expected BERT's")
    special_ids = {role: ids[token] for role, token in roles.items()}
    banned = banned_ids(ids, content["added_tokens"]) | set(special_ids.values())
    atomic = [token for token in content["added_tokens"] if token["content"] not in roles.values()]
    if any(token["special"] for token in atomic):
        for token in atomic:
            token["special"] = False
        text = json.dumps(content)
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as text
    names = tuple(token["content"] for token in atomic)
    return CorpusTokenizer(
        tokenizer, special_ids, tuple(sorted(banned)), max(ids.values()) + 1, names
    )


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


def _special_tokens(settings: dict) -> dict[str, str]:
    """Token by role. Older tokenizer_config.json files hold a dictionary for each."""
    tokens = {role: settings.get(role) or default for role, default in SPECIAL_TOKENS.items()}
    return {role: t["content"] if isinstance(t, dict) else t for role, t in tokens.items()}
