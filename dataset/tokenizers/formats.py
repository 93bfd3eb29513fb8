"""Tokenizers in Hugging Face form: normalisation, word splitting, and the files of a folder.

- WordPiece is BERT's: punctuation and Chinese characters are separate words, `##` continues a
  word. It gives up on words of more than 100 characters, so longer runs (Thai, DNA, identifiers)
  are cut first; else each would be one [UNK].
- BPE works on the bytes of UTF-8, as in GPT-2 and RoBERTa, so no text is unknown to it. White
  space only separates words: every word begins with `Ġ`, at the beginning of a text too.

Every tokenizer is saved as a complete tokenizer.json, under a class that reads it as it is. Classes
named after models rebuild a tokenizer from its vocabulary, and drop the rest.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS, implied_settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_LENGTH = 512  # BERT's position embeddings
STRIP_ACCENTS = {"auto": None, "strip": True, "keep": False}  # None: if the text is lower-cased
PLAIN_CLASS = "PreTrainedTokenizerFast"
PREFIX = "##"
LONG_WORD = 100  # characters; WordPiece makes longer words [UNK]
# The first 64 characters of a run longer than LONG_WORD, with all marks of the last letter.
LONG_RUN = r"\S{64}\p{M}*(?=\S{37})"


def bert_pipeline(
    vocabulary: dict[str, int],
    do_lower_case: bool,
    accents: str = "auto",
    chinese: bool = True,
    unknown: str = SPECIAL_TOKENS["unk_token"],
) -> "Tokenizer":
    """Returns a tokenizer with BERT's normalisation, word splitting and WordPiece.

    accents: auto | strip | keep. chinese: each Chinese character is a word.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=LONG_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=chinese, lowercase=do_lower_case, strip_accents=STRIP_ACCENTS[accents]
    )
    cut = pre_tokenizers.Split(Regex(LONG_RUN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), cut])
    tokenizer.decoder = decoders.WordPiece(PREFIX)
    return tokenizer


def byte_level_pipeline(
    vocabulary: dict[str, int],
    merges: Sequence[tuple[str, str]],
    do_lower_case: bool,
    accents: str = "auto",
) -> "Tokenizer":
    """Returns a tokenizer with BPE on bytes; characters are composed (NFC)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    casing = normalizers.BertNormalizer(
        clean_text=False,
        handle_chinese_chars=False,
        lowercase=do_lower_case,
        strip_accents=STRIP_ACCENTS[accents],
    )
    tokenizer.normalizer = normalizers.Sequence([casing, normalizers.NFC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def save_tokenizer(
    tokenizer: "Tokenizer",
    roles: Mapping[str, str],
    folder: Path,
    max_length: int = MAX_LENGTH,
) -> None:
    """Writes a temporary folder, loads it as a check, and moves it into place.

    roles: special token by role. max_length: in tokens. Raises StageError if a special token is
    missing.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _add_frame(tokenizer, roles)
    content = json.loads(tokenizer.to_str())
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    path = aside / "tokenizer.json"
    tokenizer.save(str(path))
    if entries := _lines_of(content["model"]):
        text = "".join(f"{entry}\n" for entry in entries)
        (aside / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    settings = {
        "tokenizer_class": PLAIN_CLASS,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": min(max_length, MAX_LENGTH),
        **roles,
        **implied_settings(content, path),  # for versions of transformers that apply them again
    }
    if special := _more_special_tokens(content, roles):
        settings["additional_special_tokens"] = special
    text = json.dumps(settings, indent=2, sort_keys=True)
    (aside / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    load_tokenizer(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def _add_frame(tokenizer: "Tokenizer", roles: Mapping[str, str]) -> None:
    """Makes the tokenizer put a text between [CLS] and [SEP], as in pretraining.

    Without a post-processor, finetuning would leave them out.
    """
    from tokenizers import processors

    cls, sep = roles["cls_token"], roles["sep_token"]
    inside = tokenizer.encode("a", add_special_tokens=False).ids
    frame = [tokenizer.token_to_id(token) for token in (cls, sep)]
    if tokenizer.encode("a").ids == [frame[0], *inside, frame[1]]:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {cls, sep}],
    )


def _more_special_tokens(content: Mapping[str, Any], roles: Mapping[str, str]) -> list[str]:
    """Returns the special tokens besides the five roles, except those with flags of their own."""
    flags = ("normalized", "lstrip", "rstrip", "single_word")
    return [
        token["content"]
        for token in content["added_tokens"]
        if token["special"]
        and not any(token[flag] for flag in flags)
        and token["content"] not in roles.values()
    ]


def _lines_of(model: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a vocab.txt, for programs that cannot read tokenizer.json.

    Empty for other models than WordPiece, and if line numbers cannot give the ids.
    """
    if model.get("type") != "WordPiece":
        return []
    entries = sorted(model["vocab"], key=model["vocab"].get)
    in_order = all(model["vocab"][entry] == number for number, entry in enumerate(entries))
    return entries if in_order and not any("\n" in entry for entry in entries) else []
