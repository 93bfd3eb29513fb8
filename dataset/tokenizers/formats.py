"""Tokenizers in Hugging Face form: how text is normalised and split, and what is saved.

- WordPiece is BERT's: punctuation and Chinese characters stand alone, `##` continues a word. It
  gives up on words of more than 100 characters, so longer runs (Thai, DNA, identifiers) are cut
  first: without that they would be one [UNK].
- BPE works on the bytes of UTF-8, as in GPT-2 and RoBERTa, so that no text is unknown to it. White
  space only separates words: every word begins with `Ġ`, whatever stands before it.

Whatever a tokenizer was made from, one form of it is saved: tokenizer.json, which says all, under a
class that reads it as it is. The classes that are called after models rebuild a tokenizer from its
vocabulary, and drop what they do not know.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.tokenizers.library import habits_of
from dataset.tokenizers.source import behaviour
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS
from dataset.tokenizers.unknown_text import LONG_WORD

MAX_LENGTH = 512  # of BERT's position embeddings
STRIP_ACCENTS = {"auto": None, "strip": True, "keep": False}  # None: when the text is lower-cased
PLAIN_CLASS = "PreTrainedTokenizerFast"
PREFIX = "##"
# The first 64 characters of what is longer than LONG_WORD; no mark is cut off its letter.
LONG_RUN = r"\S{64}\p{M}*(?=\S{37})"


def bert_pipeline(
    vocabulary: dict[str, int],
    do_lower_case: bool,
    accents: str = "auto",
    chinese: bool = True,
    unknown: str = SPECIAL_TOKENS["unk_token"],
) -> "tokenizers.Tokenizer":  # noqa: F821
    """A tokenizer with BERT's normalisation, word splitting and WordPiece.

    chinese: Chinese characters stand alone.
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
) -> "tokenizers.Tokenizer":  # noqa: F821
    """A tokenizer with BPE on bytes. Characters are composed (NFC)."""
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


# --- saving ----------------------------------------------------------------------------------


def save_bert_tokenizer(
    vocabulary: Sequence[str],
    do_lower_case: bool,
    folder: Path,
    accents: str = "auto",
    special_tokens: Sequence[str] = (),
) -> None:
    """Writes a BERT tokenizer; entries have their place in `vocabulary` as id."""
    ids = {entry: number for number, entry in enumerate(vocabulary)}
    tokenizer = bert_pipeline(ids, do_lower_case, accents)
    tokenizer.add_special_tokens([*SPECIAL_TOKENS.values(), *special_tokens])
    save_tokenizer(tokenizer, SPECIAL_TOKENS, folder)


def save_byte_level_tokenizer(
    vocabulary: Sequence[str],
    merges: Sequence[tuple[str, str]],
    do_lower_case: bool,
    folder: Path,
    accents: str = "auto",
    special_tokens: Sequence[str] = (),
) -> None:
    """Writes a BPE tokenizer; entries have their place in `vocabulary` as id."""
    ids = {entry: number for number, entry in enumerate(vocabulary)}
    tokenizer = byte_level_pipeline(ids, merges, do_lower_case, accents)
    tokenizer.add_special_tokens([*SPECIAL_TOKENS.values(), *special_tokens])
    save_tokenizer(tokenizer, SPECIAL_TOKENS, folder)


def save_tokenizer(
    tokenizer: "tokenizers.Tokenizer",  # noqa: F821
    roles: Mapping[str, str],
    folder: Path,
    max_length: int = MAX_LENGTH,
) -> None:
    """Writes the folder aside, checks that it can be used, and moves it into place.

    roles: special token by role. max_length: tokens that the model takes. Raises StageError if it
    lacks a special token.
    """
    from dataset.tokenizers.build import load_tokenizer

    tokenizer.no_truncation()
    tokenizer.no_padding()
    frame_samples(tokenizer, roles)
    content = json.loads(tokenizer.to_str())
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tokenizer.save(str(aside / "tokenizer.json"))
    if entries := _lines_of(content["model"]):
        text = "".join(f"{entry}\n" for entry in entries)
        (aside / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    settings = settings_of(content, roles) | {"model_max_length": min(max_length, MAX_LENGTH)}
    settings["do_lower_case"], settings["strip_accents"] = habits_of(tokenizer.normalizer)
    text = json.dumps(settings, indent=2, sort_keys=True)
    (aside / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    load_tokenizer(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def frame_samples(
    tokenizer: "tokenizers.Tokenizer",  # noqa: F821
    roles: Mapping[str, str],
) -> None:
    """Sees to it that a text stands between the two tokens that stand around it in pretraining.

    A tokenizer.json without a post-processor would leave them away in finetuning.
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


def settings_of(content: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, Any]:
    """tokenizer_config.json, out of the content of a tokenizer.json.

    What it repeats is for versions of transformers that apply it once more.
    """
    special = [
        token["content"]
        for token in content["added_tokens"]
        if token["special"]
        and not (token["normalized"] or token["lstrip"] or token["rstrip"] or token["single_word"])
        and token["content"] not in roles.values()
    ]
    return {
        "tokenizer_class": PLAIN_CLASS,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **roles,
        **({"additional_special_tokens": special} if special else {}),
        **behaviour(content),
    }


def _lines_of(model: Mapping[str, Any]) -> list[str]:
    """The lines of a vocab.txt, for programs that know no tokenizer.json; none if it has none."""
    if model.get("type") != "WordPiece":
        return []
    entries = sorted(model["vocab"], key=model["vocab"].get)
    in_order = all(model["vocab"][entry] == number for number, entry in enumerate(entries))
    return entries if in_order and not any("\n" in entry for entry in entries) else []
