"""Which tokens begin a word and which continue one, as the vocabulary marks it."""

import json

BYTE_LEVEL_MARKER = "Ġ"  # of a space
# Characters of East Asian scripts that are written without spaces: each begins a word.
WORD_CHARACTERS = ("\u2e80", "\u9fff")


def continuing_ids(tokenizer: "tokenizers.Tokenizer") -> tuple[int, ...]:  # noqa: F821
    """Tokens that belong to the same word as the token before them, in ascending order.

    WordPiece marks these (`##`). Other models mark the beginning of words (`Ġ`, `▁`); what has no
    mark continues, unless it begins with punctuation or with a Chinese character. Without any
    marks there are none.
    """
    content = json.loads(tokenizer.to_str())
    prefix = content["model"].get("continuing_subword_prefix")
    marker = word_marker(content.get("pre_tokenizer") or {})
    if not prefix and not marker:
        return ()
    added = {token["id"] for token in content["added_tokens"]}
    ids = {token: i for token, i in tokenizer.get_vocab().items() if i not in added}
    if prefix:
        return tuple(sorted(i for token, i in ids.items() if token.startswith(prefix)))
    return tuple(sorted(i for token, i in ids.items() if goes_on(token, marker)))


def word_marker(pre_tokenizer: dict) -> str:
    """What the words of a byte-level or a SentencePiece model begin with; empty if nothing."""
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if step.get("type") in ("ByteLevel", "Metaspace"):
            return step.get("replacement", BYTE_LEVEL_MARKER)
    return ""


def goes_on(token: str, marker: str) -> bool:
    """Whether a token of a model that marks the beginning of words continues one."""
    from tokenizers.decoders import ByteLevel

    if token.startswith(marker):
        return False
    text = ByteLevel().decode([token]) if marker == BYTE_LEVEL_MARKER else token
    first, last = WORD_CHARACTERS
    # Half a character, as byte-level models have them, is part of a word.
    return text.startswith("\ufffd") or (text[:1].isalnum() and not first <= text[0] <= last)
