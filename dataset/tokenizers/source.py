"""The files of a user's tokenizer: the one with its vocabulary, and what lies beside it.

Everything that decides ids is either honoured or refused here; nothing is passed over:

- tokenizer.json holds the whole tokenizer. Files beside it name the special tokens and may add
  tokens; what they say of casing, accents or spaces must not contradict it.
- vocab.txt is BERT's WordPiece, with the settings of tokenizer_config.json. Classes that split
  text in another way are refused.
- A SentencePiece model, or vocab.json with merges.txt, is converted by the class of transformers
  that reads it (tokenizer_conversion).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os.path import lexists
from pathlib import Path
from typing import Any

from dataset.tokenizers.classes import (
    BERT_CLASSES,
    CONVERTED_CLASSES,
    MODEL_CLASSES,
    PLAIN_CLASSES,
    PYTHON_CLASSES,
)
from dataset.tokenizers.library import habits
from dataset.tokenizers.tokenizer_files import (
    MERGES,
    NAME_KEY,
    SPECIAL_TOKENS,
    read_object,
    read_tokenizer_json,
    read_vocabulary,
)
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", *CONVERTED_CLASSES)
# Special tokens by role, as families of models name them. The first that a vocabulary has whole.
CONVENTIONS = (
    SPECIAL_TOKENS,
    dict(zip(SPECIAL_TOKENS, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True)),
    dict(zip(SPECIAL_TOKENS, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), strict=True)),
    dict(zip(SPECIAL_TOKENS, ("<pad>", "[UNK]", "<s>", "</s>", "<mask>"), strict=True)),
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MORE_TOKENS = ("extra_special_tokens", "additional_special_tokens")
AS_A_FILE = (
    "expected a tokenizer.json, which AutoTokenizer.from_pretrained(...).save_pretrained(folder) "
    "writes where there is one"
)


@dataclass(frozen=True)
class TokenizerSource:
    """A user's tokenizer, read but not built.

    file: holds the vocabulary. is_folder: whether what lies beside it counts. content: of a
    tokenizer.json. entries: of a vocab.txt. settings: tokenizer_config.json and
    special_tokens_map.json. class_name: of transformers, without `Fast`.
    added: id by token that the files beside the vocabulary add; special: those that are special.
    roles: special token by role; of a converted one, those that are named.
    """

    file: Path
    is_folder: bool
    settings: dict[str, Any]
    class_name: str
    content: dict[str, Any] | None = None
    entries: list[str] = field(default_factory=list)
    added: dict[str, int] = field(default_factory=dict)
    special: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)

    @property
    def is_converted(self) -> bool:
        return self.content is None and not self.entries


def find_source(path: Path) -> TokenizerSource:
    """Reads a tokenizer's folder, or the one file that holds its vocabulary.

    Raises StageError, naming the file and the setting, if there is none, or for what can be neither
    honoured nor read.
    """
    file = vocabulary_file(path)
    beside = folder_of(path)
    settings = read_settings(beside) if beside else {}
    source = TokenizerSource(file, beside is not None, settings, class_of(beside, settings))
    check_class(source)
    if kind_of(file) == "tokenizer.json":
        source = _with_tokens(_of_tokenizer_json(source), beside)
        check_agrees(source)
    elif kind_of(file) == "vocab.txt":
        entries = read_vocabulary(file)
        source = _with_tokens(_replaced(source, entries=entries), beside)
        check_bert_settings(source)
    elif file.name == "vocab.json" and not (file.parent / MERGES).is_file():
        raise StageError(f"{NAME_KEY}: {file} has no {MERGES} beside it, expected both")
    return source


def folder_of(path: Path) -> Path | None:
    """Returns the folder whose files count; None beside a file with an unusual name."""
    if path.is_dir():
        return path
    return path.parent if path.name in VOCABULARY_FILES else None


def vocabulary_file(path: Path) -> Path:
    """Finds the file of a folder that holds the vocabulary, or returns the file that was named."""
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
    """tokenizer.json | vocab.txt | vocab.json | sentencepiece, by the file's name."""
    if file.name == "vocab.json":
        return file.name
    if file.suffix == ".json":
        return "tokenizer.json"
    return "sentencepiece" if file.suffix == ".model" else "vocab.txt"


def _of_tokenizer_json(source: TokenizerSource) -> TokenizerSource:
    content = read_tokenizer_json(source.file)
    model = content["model"]
    if model.get("dropout"):
        raise StageError(
            f"{NAME_KEY}: {source.file}: model.dropout is {model['dropout']}, which gives other "
            "ids each time, expected null"
        )
    knows_bytes = model.get("byte_fallback") or any(
        step.get("type") == "ByteLevel"
        for part in ("normalizer", "pre_tokenizer")
        for step in steps_of(content, part)
    )
    if model.get("type") == "BPE" and not (model.get("unk_token") or knows_bytes):
        raise StageError(
            f"{NAME_KEY}: {source.file}: model.unk_token is not set, so that text outside of the "
            "vocabulary would vanish; expected a token, or a model of bytes"
        )
    return _replaced(source, content=content)


def _replaced(source: TokenizerSource, **changes) -> TokenizerSource:
    return TokenizerSource(**{**vars(source), **changes})


# --- settings --------------------------------------------------------------------------------


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; what it lacks from special_tokens_map.json, which is older.

    Raises StageError if a special token there is no text.
    """
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        found = read_object(folder / name)
        for key, token in _iter_tokens(found):
            if not isinstance(_text_of(token), str):
                raise StageError(f"{NAME_KEY}: {folder / name}: a token of {key} is no text")
        settings |= found
    return settings


def _iter_tokens(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (key, token) for all tokens that are named, each a text or an object."""
    for role in SPECIAL_TOKENS:
        if settings.get(role):
            yield role, settings[role]
    for key in (*MORE_TOKENS, "added_tokens_decoder"):
        yield from ((key, token) for token in _listed(settings.get(key)))


def class_of(folder: Path | None, settings: Mapping[str, Any]) -> str:
    """Returns the class of transformers that a folder is meant for, or an empty string."""
    model = read_object(folder / "config.json") if folder else {}
    name = settings.get("tokenizer_class") or model.get("tokenizer_class")
    name = name or MODEL_CLASSES.get(str(model.get("model_type")), "")
    return str(name).removesuffix("Fast")


def check_class(source: TokenizerSource) -> None:
    """Raises StageError for a class that splits text in ways that its files do not hold."""
    name, kind = source.class_name, kind_of(source.file)
    readers = BERT_CLASSES | PLAIN_CLASSES
    words = source.settings.get("word_tokenizer_type", "basic")
    if words != "basic":
        name = f"a tokenizer with word_tokenizer_type {shown(str(words))}"
    if words != "basic" or name in PYTHON_CLASSES or (kind == "vocab.txt" and name not in readers):
        raise StageError(
            f"{NAME_KEY}: {source.file.parent} is for {name}, whose way to split text is not in "
            f"{source.file.name}; {AS_A_FILE}"
        )


def check_bert_settings(source: TokenizerSource) -> None:
    """Raises StageError for settings beside a vocab.txt that BERT's pipeline cannot follow."""
    place, settings = source.file.parent / "tokenizer_config.json", source.settings
    never_split = settings.get("never_split") or []
    if not isinstance(never_split, list):
        raise StageError(f"{NAME_KEY}: {place}: never_split is no list")
    kept_whole = {*map(str, never_split)} - {*source.roles.values(), *source.special}
    refused = {
        "never_split": f"lists {shown(min(kept_whole))}" if kept_whole else "",
        "do_basic_tokenize": "is false" if settings.get("do_basic_tokenize") is False else "",
        "wordpieces_prefix": (
            "is not ##" if settings.get("wordpieces_prefix", "##") != "##" else ""
        ),
    }
    for name, problem in refused.items():
        if problem:
            hint = "; words to keep whole belong into added_tokens.json" if kept_whole else ""
            raise StageError(f"{NAME_KEY}: {place}: {name} {problem}, which is not supported{hint}")
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(settings.get(name), bool | None):
            raise StageError(f"{NAME_KEY}: {place}: {name} is neither true nor false")


def check_agrees(source: TokenizerSource) -> None:
    """Raises StageError if tokenizer_config.json contradicts tokenizer.json.

    Classes of transformers rebuild the tokenizer from the one or the other, by their version.
    """
    place = source.file.parent / "tokenizer_config.json"
    lower, strip = habits(source.content, source.file)
    measured = {"do_lower_case": lower, "strip_accents": strip}
    for name, found in {**behaviour(source.content), **measured}.items():
        asked = source.settings.get(name)
        if isinstance(asked, bool) and asked != found:
            raise StageError(
                f"{NAME_KEY}: {place} has {name} {str(asked).lower()}, but {source.file.name} does "
                f"as with {str(found).lower()}; expected the same in both"
            )


def behaviour(content: Mapping[str, Any]) -> dict[str, bool]:
    """Returns settings that a tokenizer.json implies, besides those of casing and accents."""
    found = {}
    for step in steps_of(content, "normalizer"):
        if step.get("type") == "BertNormalizer":
            found["tokenize_chinese_chars"] = step.get("handle_chinese_chars", True)
    for step in steps_of(content, "pre_tokenizer"):
        if step.get("type") == "ByteLevel":
            found["add_prefix_space"] = step.get("add_prefix_space", True)
    return found


def steps_of(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The steps of the normalizer or pre_tokenizer of a tokenizer.json, nested ones too."""
    return list(_iter_steps(content.get(name) or {}))


def _iter_steps(step: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    inner = step.get("normalizers", step.get("pretokenizers"))
    if inner is None:
        yield dict(step)
    for part in inner or ():
        yield from _iter_steps(part)


# --- tokens ----------------------------------------------------------------------------------


def _with_tokens(source: TokenizerSource, folder: Path | None) -> TokenizerSource:
    """With the tokens that the files beside the vocabulary add, and the special ones by role."""
    ids = vocabulary_of(source)
    named = list(_named_special_tokens(source.settings))
    added = dict(_iter_added(source.settings, folder))
    roles = resolve_roles(source, {**ids, **added})
    size = max(ids.values(), default=-1) + 1
    for token in named:
        if token not in ids and token not in added and token not in roles.values():
            added[token] = size + sum(token not in ids for token in added)
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        expected = ids.get(token, size)
        if number != expected:
            raise StageError(
                f"{NAME_KEY}: {source.file.parent}: added token {shown(token)} has id {number}, "
                f"expected {expected}, {'its' if token in ids else 'the next'} id in "
                f"{source.file.name}"
            )
        size += token not in ids
    special = (*roles.values(), *named, *_special_of_decoder(source.settings))
    return _replaced(source, added=added, special=special, roles=roles)


def vocabulary_of(source: TokenizerSource) -> dict[str, int]:
    """Id by entry of a vocab.txt or tokenizer.json, without what other files add."""
    if source.content is None:
        return {entry: number for number, entry in enumerate(source.entries)}
    return entries_of(source.content)


def entries_of(content: Mapping[str, Any]) -> dict[str, int]:
    """Id by entry, of the content of a tokenizer.json."""
    entries = content["model"]["vocab"]
    if isinstance(entries, list):  # of a unigram model: [entry, score]
        entries = {entry[0]: number for number, entry in enumerate(entries)}
    return {**entries, **{token["content"]: token["id"] for token in content["added_tokens"]}}


def _iter_added(settings: Mapping[str, Any], folder: Path | None) -> Iterator[tuple[str, int]]:
    """Yields (token, id) of added_tokens.json and of the newer added_tokens_decoder."""
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        if not number.isdecimal():
            raise StageError(f"{NAME_KEY}: {folder}: added_tokens_decoder has the id {number}")
        yield _text_of(token), int(number)
    path = folder / "added_tokens.json" if folder else None
    for token, number in (read_object(path) if path else {}).items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise StageError(f"{NAME_KEY}: {path}: {shown(token)} has no whole number as its id")
        yield token, number


def _special_of_decoder(settings: Mapping[str, Any]) -> Iterator[str]:
    for token in (settings.get("added_tokens_decoder") or {}).values():
        if isinstance(token, dict) and token.get("special"):
            yield _text_of(token)


def _named_special_tokens(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields special tokens besides those of BERT's five roles."""
    for key in MORE_TOKENS:
        yield from map(_text_of, _listed(settings.get(key)))


def _listed(tokens: Any) -> list[Any]:
    """Tokens that stand there as a list, by name, or as one alone."""
    if isinstance(tokens, dict) and "content" not in tokens:
        return list(tokens.values())
    return list(tokens) if isinstance(tokens, list) else [tokens] if tokens else []


def _text_of(token: Any) -> Any:
    """Returns a token's text; newer files hold an object with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def named_roles(settings: Mapping[str, Any]) -> dict[str, str]:
    return {role: _text_of(settings[role]) for role in SPECIAL_TOKENS if settings.get(role)}


def resolve_roles(source: TokenizerSource, ids: Mapping[str, int]) -> dict[str, str]:
    """Special token by role: as the files name it, else by the convention that the vocabulary has.

    Raises StageError if one is not in the vocabulary.
    """
    roles = named_roles(source.settings)
    if (unknown := unknown_token(source.content)) is not None:
        roles["unk_token"] = unknown
    missing = _missing({**SPECIAL_TOKENS, **roles}, ids)
    for convention in CONVENTIONS:
        if not _missing({**convention, **roles}, ids):
            return check_distinct({**convention, **roles}, source.file)
    places = ", ".join(missing)
    raise StageError(
        f"{NAME_KEY}: {source.file} has no {places}, expected BERT's special tokens, RoBERTa's, or "
        "others by name in special_tokens_map.json"
    )


def check_distinct(roles: dict[str, str], file: Path) -> dict[str, str]:
    """Returns the roles. Raises StageError if a token has two of them."""
    for role, token in roles.items():
        others = [other for other, same in roles.items() if same == token and other != role]
        if others:
            raise StageError(
                f"{NAME_KEY}: {file}: {shown(token)} is {role} and {', '.join(others)}, expected a "
                "token for each"
            )
    return roles


def _missing(roles: Mapping[str, str], ids: Mapping[str, int]) -> list[str]:
    return [token for token in roles.values() if token not in ids]


def unknown_token(content: Mapping[str, Any] | None) -> str | None:
    """Returns the token that a model makes of unknown text; None if it names none."""
    model = content["model"] if content else {}
    number, entries, token = model.get("unk_id"), model.get("vocab"), model.get("unk_token")
    if isinstance(entries, list) and isinstance(number, int) and 0 <= number < len(entries):
        return entries[number][0]
    return token if isinstance(token, str) and token else None


def with_added_tokens(content: dict[str, Any], source: TokenizerSource) -> dict[str, Any]:
    """Adds the added and special tokens that the list of a tokenizer.json lacks."""
    ids, listed = entries_of(content), {token["content"] for token in content["added_tokens"]}
    wanted = {**source.added, **{token: ids[token] for token in source.special if token in ids}}
    added = _as_added(wanted, listed, source.special, _flags(source.settings))
    tokens = [*content["added_tokens"], *added]
    return content | {"added_tokens": sorted(tokens, key=lambda token: token["id"])}


def _flags(settings: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """Returns the flags by token of added_tokens_decoder."""
    return {
        token["content"]: {key: value for key, value in token.items() if key in FLAGS}
        for token in (settings.get("added_tokens_decoder") or {}).values()
        if isinstance(token, dict)
    }


def _as_added(
    wanted: Mapping[str, int],
    listed: set[str],
    special: Iterable[str],
    flags: Mapping[str, Mapping[str, bool]],
) -> Iterator[dict[str, Any]]:
    for token, number in wanted.items():
        if token not in listed:
            is_special = token in special
            yield {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": not is_special,
                "special": is_special,
                **flags.get(token, {}),
            }
