"""Small tokenizers with the entries that a test names."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from dataset.tokenizers.formats import bert_pipeline, byte_level_pipeline, save_tokenizer
from dataset.tokenizers.load import CorpusTokenizer, load_tokenizer
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS

BERT = [*SPECIAL_TOKENS.values()]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ROBERTA_ROLES = {
    **{"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"},
    "mask_token": "<mask>",
}


def wordpiece(folder: Path, *entries: str, lower: bool = False) -> CorpusTokenizer:
    tokenizer = bert_pipeline(_ids(*BERT, *entries), lower)
    return _loaded(folder, tokenizer, BERT, SPECIAL_TOKENS)


def byte_level(folder: Path, *merged: str) -> CorpusTokenizer:
    """merged: `Ġ h` becomes the entry `Ġh`; the letters are there."""
    merges = [tuple(pair.split(" ")) for pair in merged]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = _ids(*ROBERTA, *letters, *("".join(pair) for pair in merges))
    return _loaded(folder, byte_level_pipeline(ids, merges, False), ROBERTA, ROBERTA_ROLES)


def sentencepiece(folder: Path, *entries: str) -> CorpusTokenizer:
    pieces = [(entry, -float(number)) for number, entry in enumerate([*BERT, *entries])]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _loaded(folder, tokenizer, BERT, SPECIAL_TOKENS)


def _ids(*entries: str) -> dict[str, int]:
    return {entry: number for number, entry in enumerate(entries)}


def _loaded(folder, tokenizer, special, roles) -> CorpusTokenizer:
    tokenizer.add_special_tokens(special)
    save_tokenizer(tokenizer, roles, folder)
    return load_tokenizer(folder)
