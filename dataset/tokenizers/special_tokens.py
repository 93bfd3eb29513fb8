"""Special and added tokens of a user's tokenizer, named in the files beside its vocabulary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.tokenizers.tokenizer_files import NAME_KEY, SPECIAL_TOKENS, entries_of, read_object
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown

# Special tokens by role, as families of models name them.
CONVENTIONS = (
    SPECIAL_TOKENS,
    dict(zip(SPECIAL_TOKENS, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True)),
    dict(zip(SPECIAL_TOKENS, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), strict=True)),
    dict(zip(SPECIAL_TOKENS, ("<pad>", "[UNK]", "<s>", "</s>", "<mask>"), strict=True)),
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MORE_TOKENS = ("extra_special_tokens", "additional_special_tokens")
DECODER = "added_tokens_decoder"


@dataclass(frozen=True)
class NamedTokens:
    """Tokens by the files beside a vocabulary.

    roles: special token by role. special: all special tokens. added: id by token.
    flags: by token, from added_tokens_decoder.
    """

    roles: dict[str, str] = field(default_factory=dict)
    special: tuple[str, ...] = ()
    added: dict[str, int] = field(default_factory=dict)
    flags: dict[str, dict[str, bool]] = field(default_factory=dict)


def iter_named(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (key, token) for each token in the settings; the token is None if it has no text."""
    for role in SPECIAL_TOKENS:
        if settings.get(role):
            yield role, text_of(settings[role])
    for key in (*MORE_TOKENS, DECODER):
        tokens = settings.get(key) or []
        if isinstance(tokens, dict) and "content" not in tokens:
            tokens = list(tokens.values())
        for token in tokens if isinstance(tokens, list) else [tokens]:
            yield key, text_of(token)


def text_of(token: Any) -> Any:
    """Returns the text of a token, a string or an object with `content`; None if it has none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def find_tokens(
    ids: Mapping[str, int],
    unknown: str | None,
    settings: Mapping[str, Any],
    file: Path,
    folder: Path | None,
) -> NamedTokens:
    """Collects the special tokens, and assigns ids to those that the vocabulary lacks.

    ids: id by entry of the vocabulary in `file`. unknown: the model's own unknown token. folder:
    of the settings. Raises StageError for a missing special token, and for an added token whose
    id is not the next one.
    """
    named = list(iter_named(settings))
    roles = {key: token for key, token in named if key in SPECIAL_TOKENS}
    if unknown is not None:
        roles["unk_token"] = unknown
    more = [token for key, token in named if key in MORE_TOKENS]
    added = dict(_iter_added(settings, folder))
    roles = _with_convention(roles, {**ids, **added}, file)
    size = max(ids.values(), default=-1) + 1
    for token in more:
        if token not in ids and token not in added and token not in roles.values():
            added[token] = size + sum(token not in ids for token in added)
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        expected = ids.get(token, size)
        if number != expected:
            raise StageError(
                f"{NAME_KEY}: {file.parent}: added token {shown(token)} has id {number}, "
                f"expected {expected}, {'its' if token in ids else 'the next'} id in {file.name}"
            )
        size += token not in ids
    flags = {
        token["content"]: {key: value for key, value in token.items() if key in FLAGS}
        for token in (settings.get(DECODER) or {}).values()
        if isinstance(token, dict)
    }
    of_decoder = [token for token, own in flags.items() if own.get("special")]
    return NamedTokens(roles, (*roles.values(), *more, *of_decoder), added, flags)


def _iter_added(settings: Mapping[str, Any], folder: Path | None) -> Iterator[tuple[str, int]]:
    """Yields (token, id) of added_tokens.json and of the newer added_tokens_decoder."""
    for number, token in (settings.get(DECODER) or {}).items():
        if not number.isdecimal():
            raise StageError(f"{NAME_KEY}: {folder}: {DECODER} has the id {number}")
        yield text_of(token), int(number)
    path = folder / "added_tokens.json" if folder else None
    for token, number in (read_object(path) if path else {}).items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise StageError(f"{NAME_KEY}: {path}: the id of {shown(token)} is not an integer")
        yield token, number


def _with_convention(
    roles: Mapping[str, str], ids: Mapping[str, int], file: Path
) -> dict[str, str]:
    """Completes the roles with the first convention that the vocabulary has whole."""
    for convention in CONVENTIONS:
        complete = {**convention, **roles}
        if all(token in ids for token in complete.values()):
            return check_distinct(complete, file)
    missing = [token for token in {**SPECIAL_TOKENS, **roles}.values() if token not in ids]
    raise StageError(
        f"{NAME_KEY}: {file} has no {', '.join(missing)}, expected BERT's special tokens, "
        "RoBERTa's, or others by name in special_tokens_map.json"
    )


def check_distinct(roles: dict[str, str], file: Path) -> dict[str, str]:
    """Returns the roles. Raises StageError if a token has two of them."""
    for role, token in roles.items():
        others = [other for other, same in roles.items() if same == token and other != role]
        if others:
            raise StageError(
                f"{NAME_KEY}: {file}: {shown(token)} is {role} and {', '.join(others)}, expected "
                "different tokens"
            )
    return roles


def with_added_tokens(content: Mapping[str, Any], named: NamedTokens) -> dict[str, Any]:
    """Returns the content of a tokenizer.json with every named token among `added_tokens`."""
    ids, tokens = entries_of(content), list(content["added_tokens"])
    listed = {token["content"] for token in tokens}
    wanted = {**named.added, **{token: ids[token] for token in named.special if token in ids}}
    for token, number in wanted.items():
        if token not in listed:
            is_special = token in named.special
            flags = {"single_word": False, "lstrip": False, "rstrip": False}
            flags |= {"normalized": not is_special, "special": is_special}
            flags |= named.flags.get(token, {})
            tokens.append({"id": number, "content": token, **flags})
    return {**content, "added_tokens": sorted(tokens, key=lambda token: token["id"])}
