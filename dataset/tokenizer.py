"""The tokenizer of a dataset: a folder in Hugging Face form, made from what the user has.

That is a vocab.txt, a local folder, a name on the Hub, or the corpus itself (tokenizer_training).
What is built here is what pretraining and finetuning load; it needs no network and no remote code.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StageError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# All that decides how a tokenizer in Hugging Face form behaves.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
MAX_LENGTH = 512  # of BERT's position embeddings
UNUSED_TOKEN = re.compile(r"\[unused\d+\]")
NAME_KEY, CASE_KEY = "TOKENIZER.NAME_OR_PATH", "TOKENIZER.DO_LOWER_CASE"


# --- what the user has -----------------------------------------------------------------------


def tokenizer_files(name_or_path: str) -> list[Path]:
    """Local files that a tokenizer consists of; none if the name is one of the Hub."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return [path]
    return [path / name for name in TOKENIZER_FILES if (path / name).is_file()]


def problem_with_tokenizer(name_or_path: str, do_lower_case: bool) -> str:
    """What is wrong with TOKENIZER.NAME_OR_PATH or DO_LOWER_CASE, or an empty string."""
    path = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.startswith((".", "/", "~")) or name_or_path.endswith(".txt")
    if not path.exists() and (looks_like_path or name_or_path.count("/") > 1 or not name_or_path):
        return (
            f"{NAME_KEY}: {name_or_path or 'an empty name'} does not exist, "
            "expected a folder, a vocab.txt or a Hub name"
        )
    if path.is_dir() and not {"tokenizer.json", "vocab.txt"} & set(os.listdir(path)):
        return f"{NAME_KEY}: {path} has neither tokenizer.json nor vocab.txt"
    return problem_with_casing(path, do_lower_case) if path.is_dir() else ""


def problem_with_casing(folder: Path, do_lower_case: bool) -> str:
    made_for = lower_cases(folder)
    if made_for is None or made_for == do_lower_case:
        return ""
    habit = "lower-cases" if made_for else "keeps the case"
    return f"{CASE_KEY}: is {do_lower_case}, but {folder} {habit}, expected {made_for}"


def lower_cases(folder: Path) -> bool | None:
    """Whether a folder's tokenizer lower-cases; None if it does not say so."""
    if (folder / "tokenizer.json").exists():
        normalizer = _read_json(folder / "tokenizer.json").get("normalizer") or {}
        steps = normalizer.get("normalizers", [normalizer])
        return any(step.get("lowercase") or step.get("type") == "Lowercase" for step in steps)
    return _read_json(folder / "tokenizer_config.json").get("do_lower_case")


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# --- building --------------------------------------------------------------------------------


def build_tokenizer(name_or_path: str, do_lower_case: bool, folder: Path) -> None:
    """Makes `folder` from a vocab.txt, a local folder or a Hub name.

    Raises StageError if that cannot be loaded, lacks a special token, or has another casing.
    """
    problem = problem_with_tokenizer(name_or_path, do_lower_case)
    if problem:
        raise StageError(problem)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return save_bert_tokenizer(read_vocabulary(path), do_lower_case, folder)
    source = path if path.is_dir() else download_tokenizer(name_or_path)
    problem = problem_with_casing(source, do_lower_case)
    if problem:
        raise StageError(problem)
    if (source / "tokenizer.json").exists():
        return copy_tokenizer(source, folder)
    return save_bert_tokenizer(read_vocabulary(source / "vocab.txt"), do_lower_case, folder)


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


def bert_pipeline(vocabulary: dict[str, int], do_lower_case: bool):
    """A `tokenizers.Tokenizer` with BERT's normalisation, word splitting and WordPiece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=do_lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def save_bert_tokenizer(vocabulary: Sequence[str], do_lower_case: bool, folder: Path) -> None:
    """Writes a BERT tokenizer; entries have their place in `vocabulary` as id."""
    from tokenizers import processors

    tokenizer = bert_pipeline({entry: i for i, entry in enumerate(vocabulary)}, do_lower_case)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    cls, sep = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    aside = _empty_folder_beside(folder)
    tokenizer.save(str(aside / "tokenizer.json"))
    (aside / "vocab.txt").write_text(
        "".join(f"{entry}\n" for entry in vocabulary), encoding="utf-8"
    )
    _finish(aside, folder, {"do_lower_case": do_lower_case, **SPECIAL_TOKENS})


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the files of a tokenizer in Hugging Face form."""
    aside = _empty_folder_beside(folder)
    for file in tokenizer_files(str(source)):
        shutil.copyfile(file, aside / file.name)
    settings = _read_json(source / "tokenizer_config.json")
    settings.pop("auto_map", None)  # names code to load from the Hub
    _finish(aside, folder, {"do_lower_case": lower_cases(source), **SPECIAL_TOKENS, **settings})


def _empty_folder_beside(folder: Path) -> Path:
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _finish(aside: Path, folder: Path, settings: dict) -> None:
    """Adds the settings, checks that the folder can be used, and moves it into place."""
    model = _read_json(aside / "tokenizer.json")["model"]
    own_class = "BertTokenizer" if model["type"] == "WordPiece" else "PreTrainedTokenizerFast"
    settings = {"tokenizer_class": own_class, "tokenize_chinese_chars": True, **settings}
    settings["model_max_length"] = min(settings.get("model_max_length", MAX_LENGTH), MAX_LENGTH)
    text = json.dumps(settings, indent=2, sort_keys=True)
    (aside / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    load_tokenizer(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


# --- using -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CorpusTokenizer:
    """What making samples needs of a tokenizer.

    special_ids: id by role (pad_token, unk_token, cls_token, sep_token, mask_token).
    banned_ids: special and unused tokens, which are neither predicted nor random replacements.
    """

    tokenizer: "tokenizers.Tokenizer"  # noqa: F821 (imported where it is used)
    special_ids: dict[str, int]
    banned_ids: tuple[int, ...]
    vocab_size: int

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Ids of each sentence, without special tokens and without truncation."""
        encodings = self.tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def load_tokenizer(folder: Path) -> CorpusTokenizer:
    """Loads what build_tokenizer or train_tokenizer made.

    A text that spells a special token, like `[MASK]`, is ordinary text to it.
    Raises StageError if a special token is missing.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    special_ids = {
        role: tokenizer.token_to_id(token)
        for role, token in _special_tokens(_read_json(folder / "tokenizer_config.json")).items()
    }
    missing = [role for role, token_id in special_ids.items() if token_id is None]
    if missing:
        raise StageError(f"{NAME_KEY}: the tokenizer has no {', '.join(missing)}, expected BERT's")
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.get_added_tokens_decoder()
    banned = {token_id for token_id, token in added.items() if token.special}
    banned |= {token_id for token, token_id in vocabulary.items() if UNUSED_TOKEN.fullmatch(token)}
    banned |= set(special_ids.values())
    vocab_size = max(vocabulary.values()) + 1
    banned |= set(range(vocab_size)) - set(vocabulary.values())
    return CorpusTokenizer(tokenizer, special_ids, tuple(sorted(banned)), vocab_size)


def _special_tokens(settings: dict) -> dict[str, str]:
    """Token by role. Older tokenizer_config.json files hold a dictionary for each."""
    tokens = {role: settings.get(role) or default for role, default in SPECIAL_TOKENS.items()}
    return {role: t["content"] if isinstance(t, dict) else t for role, t in tokens.items()}
