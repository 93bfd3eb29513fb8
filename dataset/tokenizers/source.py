"""Reads a user's tokenizer: the file with its vocabulary, and the settings beside it.

Everything that decides ids is either honoured or refused; nothing is ignored:

- tokenizer.json holds the whole tokenizer. Files beside it name the special tokens and may add
  tokens; their settings for casing, accents and spaces must not contradict it.
- vocab.txt is BERT's WordPiece, with the settings of tokenizer_config.json. Classes that split
  text in another way are refused.
- A SentencePiece model, or vocab.json with merges.txt, is converted by its class of transformers
  (conversion.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os.path import lexists
from pathlib import Path
from typing import Any

from dataset.tokenizers.special_tokens import NamedTokens, find_tokens, iter_named
from dataset.tokenizers.tokenizer_files import (
    MERGES,
    NAME_KEY,
    entries_of,
    implied_settings,
    iter_steps,
    read_object,
    read_tokenizer_json,
    read_vocabulary,
    unknown_token,
)
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

# Files that transformers converts, and the class for a folder that names none.
CONVERTED_CLASSES = {
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "spm.model": "DebertaV2Tokenizer",
    "spiece.model": "AlbertTokenizer",
    "sentencepiece.model": "RemBertTokenizer",
    "tokenizer.model": "TokenizersBackend",
    "vocab.json": "RobertaTokenizer",
}
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", *CONVERTED_CLASSES)
# Classes that read tokenizer.json as it is.
PLAIN_CLASSES = {"", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"}
# Classes that split text like BERT's.
BERT_CLASSES = {
    *("BertTokenizer", "ConvBertTokenizer", "DistilBertTokenizer", "DPRContextEncoderTokenizer"),
    *("DPRQuestionEncoderTokenizer", "DPRReaderTokenizer", "ElectraTokenizer", "LayoutLMTokenizer"),
    *("LayoutLMv2Tokenizer", "LxmertTokenizer", "MobileBertTokenizer", "MPNetTokenizer"),
    *("RetriBertTokenizer", "SplinterTokenizer", "SqueezeBertTokenizer"),
}
# Classes that split text in Python: no tokenizer.json can do the same.
PYTHON_CLASSES = {
    *("BartphoTokenizer", "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertweetTokenizer"),
    *("BioGptTokenizer", "BlenderbotSmallTokenizer", "ByT5Tokenizer", "CanineTokenizer"),
    *("CpmAntTokenizer", "CpmTokenizer", "CTRLTokenizer", "EsmTokenizer", "FlaubertTokenizer"),
    *("FSMTTokenizer", "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer", "M2M100Tokenizer"),
    *("MarianTokenizer", "MyT5Tokenizer", "PerceiverTokenizer", "PhobertTokenizer"),
    *("PLBartTokenizer", "ProphetNetTokenizer", "RoCBertTokenizer", "SiglipTokenizer"),
    *("TapasTokenizer", "XLMTokenizer"),
}
# The class by `model_type` in config.json, unless BERT's or the file's default is right.
MODEL_CLASSES = {
    "camembert": "CamembertTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "albert": "AlbertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "fnet": "FNetTokenizer",
    "rembert": "RemBertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "XLMRobertaTokenizer",
    "mbart": "MBartTokenizer",
    "xlnet": "XLNetTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "roberta": "RobertaTokenizer",
    "longformer": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "esm": "EsmTokenizer",
    "roformer": "RoFormerTokenizer",
    "roc_bert": "RoCBertTokenizer",
}


@dataclass(frozen=True)
class TokenizerSource:
    """A user's tokenizer, read but not built.

    file: holds the vocabulary. is_folder: files beside it count. settings: tokenizer_config.json
    and special_tokens_map.json. class_name: of transformers, without `Fast`. content: of a
    tokenizer.json. entries: of a vocab.txt.
    """

    file: Path
    is_folder: bool
    settings: dict[str, Any]
    class_name: str
    content: dict[str, Any] | None = None
    entries: list[str] = field(default_factory=list)
    named: NamedTokens = field(default_factory=NamedTokens)

    @property
    def is_converted(self) -> bool:
        return self.content is None and not self.entries


def find_source(path: Path) -> TokenizerSource:
    """Reads a tokenizer's folder, or the file with its vocabulary.

    Raises StageError, naming the file and the setting, if the tokenizer is missing, malformed or
    not supported.
    """
    file = vocabulary_file(path)
    folder = path if path.is_dir() else path.parent if path.name in VOCABULARY_FILES else None
    settings = _read_settings(folder) if folder else {}
    class_name = _class_of(folder, settings)
    _check_class(file, class_name, settings)
    found = TokenizerSource(file, folder is not None, settings, class_name)
    if kind_of(file) == "tokenizer.json":
        content = read_tokenizer_json(file)
        implied = implied_settings(content, file)
        _check_model(file, content)
        named = find_tokens(entries_of(content), unknown_token(content), settings, file, folder)
        _check_agreement(file, implied, settings)
        return replace(found, settings=settings | implied, content=content, named=named)
    if kind_of(file) == "vocab.txt":
        entries = read_vocabulary(file)
        ids = {entry: number for number, entry in enumerate(entries)}
        named = find_tokens(ids, None, settings, file, folder)
        _check_bert_settings(file, settings, named)
        return replace(found, entries=entries, named=named)
    if file.name == "vocab.json" and not (file.parent / MERGES).is_file():
        raise StageError(f"{NAME_KEY}: {file} has no {MERGES} beside it, expected both")
    return found


def vocabulary_file(path: Path) -> Path:
    """Returns the vocabulary file of a folder; a path to a file is returned as it is."""
    if not path.is_dir():
        return path
    found = next((path / name for name in VOCABULARY_FILES if lexists(path / name)), None)
    if found is None:
        names = f"{', '.join(VOCABULARY_FILES[2:-1])} or vocab.json with merges.txt"
        raise StageError(
            f"{NAME_KEY}: {path} has neither tokenizer.json nor vocab.txt (nor {names})"
        )
    return found


def kind_of(file: Path) -> str:
    """Returns tokenizer.json | vocab.txt | vocab.json | sentencepiece, by the file's name."""
    if file.name == "vocab.json":
        return file.name
    if file.suffix == ".json":
        return "tokenizer.json"
    return "sentencepiece" if file.suffix == ".model" else "vocab.txt"


def _read_settings(folder: Path) -> dict[str, Any]:
    """Merges tokenizer_config.json over the older special_tokens_map.json.

    Raises StageError if a token is not a text.
    """
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        found = read_object(folder / name)
        for key, token in iter_named(found):
            if token is None:
                raise StageError(f"{NAME_KEY}: {folder / name}: a token of {key} is not text")
        settings |= found
    return settings


def _class_of(folder: Path | None, settings: Mapping[str, Any]) -> str:
    """Returns the class of transformers for a folder, or an empty string."""
    model = read_object(folder / "config.json") if folder else {}
    name = settings.get("tokenizer_class") or model.get("tokenizer_class")
    name = name or MODEL_CLASSES.get(str(model.get("model_type")), "")
    return str(name).removesuffix("Fast")


def _check_class(file: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Raises StageError for a class with rules for splitting text that are not in its files."""
    is_refused = name in PYTHON_CLASSES
    if kind_of(file) == "vocab.txt":
        is_refused = name not in BERT_CLASSES | PLAIN_CLASSES
    if (words := settings.get("word_tokenizer_type", "basic")) != "basic":
        is_refused, name = True, f"a tokenizer with word_tokenizer_type {shown(str(words))}"
    if is_refused:
        raise StageError(
            f"{NAME_KEY}: {file.parent} is for {name}, which splits text by rules that are not "
            f"in {file.name}; expected a tokenizer.json, from AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(folder) if the class has one"
        )


def _check_bert_settings(file: Path, settings: Mapping[str, Any], named: NamedTokens) -> None:
    """Raises StageError for settings beside a vocab.txt that BERT's pipeline cannot follow."""
    place = file.parent / "tokenizer_config.json"
    never_split = settings.get("never_split") or []
    if not isinstance(never_split, list):
        raise StageError(f"{NAME_KEY}: {place}: never_split is not a list")
    kept_whole = {*map(str, never_split)} - {*named.special}
    if kept_whole:
        raise StageError(
            f"{NAME_KEY}: {place}: never_split lists {shown(min(kept_whole))}, which is not "
            "supported; list words to keep whole in added_tokens.json"
        )
    for name, only in (("do_basic_tokenize", True), ("wordpieces_prefix", "##")):
        if (value := settings.get(name)) not in (None, only):
            raise StageError(
                f"{NAME_KEY}: {place}: {name} is {json.dumps(value)}, which is not supported"
            )
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(settings.get(name), bool | None):
            raise StageError(f"{NAME_KEY}: {place}: {name} is not true or false")


def _check_model(file: Path, content: Mapping[str, Any]) -> None:
    """Raises StageError for BPE with dropout, and for BPE that drops unknown text."""
    model = content["model"]
    if model.get("dropout"):
        raise StageError(
            f"{NAME_KEY}: {file}: model.dropout is {model['dropout']}, which gives different ids "
            "each time, expected null"
        )
    steps = [*iter_steps(content, "normalizer"), *iter_steps(content, "pre_tokenizer")]
    knows_bytes = model.get("byte_fallback") or any(s.get("type") == "ByteLevel" for s in steps)
    if model.get("type") == "BPE" and not (model.get("unk_token") or knows_bytes):
        raise StageError(
            f"{NAME_KEY}: {file}: model.unk_token is not set, so text outside the vocabulary "
            "would be dropped; expected a token, or a byte-level model"
        )


def _check_agreement(file: Path, implied: Mapping[str, bool], settings: Mapping[str, Any]) -> None:
    """Raises StageError if tokenizer_config.json contradicts tokenizer.json.

    Classes of transformers rebuild the tokenizer from the one or the other, by their version.
    """
    for name, found in implied.items():
        asked = settings.get(name)
        if isinstance(asked, bool) and asked != found:
            raise StageError(
                f"{NAME_KEY}: {file.parent / 'tokenizer_config.json'} has {name} "
                f"{str(asked).lower()}, but {file.name} behaves as with {str(found).lower()}; "
                "expected the same in both"
            )
