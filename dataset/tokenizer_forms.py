"""Tokenizers in Hugging Face form: how text is normalised and split, and what is saved.

- WordPiece is BERT's: punctuation and Chinese characters stand alone, `##` continues a word.
- BPE works on the bytes of UTF-8, as in GPT-2 and RoBERTa, so that no text is unknown to it. White
  space only separates words: every word begins with `Ġ`, whatever stands before it.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset.tokenizer_files import SPECIAL_TOKENS, read_object, read_tokenizer_json

MAX_LENGTH = 512  # of BERT's position embeddings
STRIP_ACCENTS = {"auto": None, "strip": True, "keep": False}  # None: when the text is lower-cased


def bert_pipeline(vocabulary: dict[str, int], do_lower_case: bool, accents: str = "auto"):
    """A `tokenizers.Tokenizer` with BERT's normalisation, word splitting and WordPiece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=do_lower_case, strip_accents=STRIP_ACCENTS[accents]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_level_pipeline(
    vocabulary: dict[str, int],
    merges: Sequence[tuple[str, str]],
    do_lower_case: bool,
    accents: str = "auto",
):
    """A `tokenizers.Tokenizer` with BPE on bytes. Characters are composed (NFC)."""
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

    def write_vocabulary(aside: Path) -> None:
        lines = "".join(f"{entry}\n" for entry in vocabulary)
        (aside / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")

    settings = {
        "tokenizer_class": "BertTokenizer",
        "tokenize_chinese_chars": True,
        "do_lower_case": do_lower_case,
        "strip_accents": STRIP_ACCENTS[accents],
    }
    _save(tokenizer, settings, special_tokens, folder, write_vocabulary)


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
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "do_lower_case": do_lower_case,
    }
    _save(tokenizer, settings, special_tokens, folder)


def _save(
    tokenizer,
    settings: dict,
    special_tokens: Sequence[str],
    folder: Path,
    write_more: Callable[[Path], None] = lambda aside: None,
) -> None:
    from tokenizers import processors

    tokenizer.add_special_tokens([*SPECIAL_TOKENS.values(), *special_tokens])
    cls, sep = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    if special_tokens:
        settings = settings | {"additional_special_tokens": list(special_tokens)}
    aside = empty_folder_beside(folder)
    tokenizer.save(str(aside / "tokenizer.json"))
    write_more(aside)
    finish_folder(aside, folder, {**SPECIAL_TOKENS, **settings})


def copy_tokenizer(files: Sequence[Path], do_lower_case: bool | None, folder: Path) -> None:
    """Copies the files of a tokenizer in Hugging Face form, tokenizer.json among them."""
    aside = empty_folder_beside(folder)
    for file in files:
        shutil.copyfile(file, aside / file.name)
    settings = read_object(aside / "tokenizer_config.json")
    settings.pop("auto_map", None)  # names code to load from the Hub
    is_wordpiece = read_tokenizer_json(aside)["model"].get("type") == "WordPiece"
    own_class = "BertTokenizer" if is_wordpiece else "PreTrainedTokenizerFast"
    defaults = {"tokenizer_class": own_class, "do_lower_case": do_lower_case, **SPECIAL_TOKENS}
    finish_folder(aside, folder, defaults | settings)


def empty_folder_beside(folder: Path) -> Path:
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def finish_folder(aside: Path, folder: Path, settings: dict) -> None:
    """Adds the settings, checks that the folder can be used, and moves it into place."""
    from dataset.tokenizer import load_tokenizer

    asked = settings.get("model_max_length")
    is_shorter = isinstance(asked, int) and 0 < asked < MAX_LENGTH
    settings["model_max_length"] = asked if is_shorter else MAX_LENGTH
    text = json.dumps(settings, indent=2, sort_keys=True)
    (aside / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    load_tokenizer(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
