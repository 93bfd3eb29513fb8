"""Tokenizers as people have them, each made by a small function."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

# An article as text shards have them, a sentence per line and single spaces, in many scripts.
TEXT = (
    "Die Größe läuft schön, Müller.\n"
    "A covid19 patient has pneumothorax; E-mail: a_b@c.org, 1,000.50€!\n"
    "boat Boat's über çiçek şehir İstanbul naïve caf\u00e9 cafe\u0301.\n"
    "東京大学の学生が 가방을 हिन्दी में ක්\u200dරියාව ภาษาไทย נָעַר русский йод.\n"
    "🙂👩\u200d🔬 don't ... (x) [ab] ##ing ▁x Ġx ﬁne Ⅷ."
)
WORDS = [
    *("the", "a", "Die", "Größe", "größe", "grosse", "läuft", "schön", "Müller", "muller"),
    *("patient", "has", "über", "haus"),
]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT_NAMES = dict(
    zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT, strict=True)
)
ROBERTA_NAMES = {
    **{"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"},
    "mask_token": {"content": "<mask>", "lstrip": True, "__type": "AddedToken"},
}


def characters(text: str = TEXT) -> list[str]:
    return sorted({letter for letter in text + text.lower() if not letter.isspace()})


def wordpiece_entries(special: list[str] = BERT) -> list[str]:
    """Words, and characters to begin and to go on with, so that little is unknown."""
    letters = characters()
    entries = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    return list(dict.fromkeys(entries))


def write(folder: Path, **files: object) -> Path:
    """Writes files; `__` in a name stands for a dot. Text as it is, anything else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def vocab_txt(special: list[str] = BERT) -> str:
    return "".join(f"{entry}\n" for entry in wordpiece_entries(special))


def wordpiece(
    normalizer=None, pre_tokenizer=None, frame: bool = True, special: list[str] = BERT
) -> Tokenizer:
    ids = {entry: number for number, entry in enumerate(wordpiece_entries(special))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=special[1]))
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    if frame:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


KEEPS_ACCENTS = normalizers.BertNormalizer(
    lowercase=True, strip_accents=False, handle_chinese_chars=False
)


def byte_level(prefix: bool, special: list[str] = ROBERTA) -> Tokenizer:
    entries = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "bo", "at", "boat", "Ġboat"]
    ids = {entry: number for number, entry in enumerate(entries)}
    merges = [("b", "o"), ("a", "t"), ("bo", "at"), ("Ġ", "boat")]
    tokenizer = Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special[:-1])
    tokenizer.add_special_tokens([AddedToken(special[-1], lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram(pre_tokenizer, normalizer=None) -> Tokenizer:
    letters = characters()
    entries = [(token, 0.0) for token in BERT] + [("▁", -3.0)]
    entries += [(f"▁{word}", -4.0) for word in WORDS]
    entries += [(letter, -5.0) for letter in letters if letter != "▁"]
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(BERT)
    return tokenizer


def metaspace_bpe() -> Tokenizer:
    """As of Llama: spaces are letters of words, and what is unknown is spelled in bytes."""
    letters = ["▁", *(letter for letter in characters() if letter.isascii()), "▁b", "▁bo"]
    entries = [*ROBERTA, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    ids = {entry: number for number, entry in enumerate(entries)}
    merges = [("▁", "b"), ("▁b", "o")]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.add_special_tokens(ROBERTA)
    return tokenizer


def word_level() -> Tokenizer:
    words = sorted(set(TEXT.lower().split()))
    ids = {entry: number for number, entry in enumerate([*BERT, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def saved(tokenizer: Tokenizer) -> str:
    return tokenizer.to_str()


@functools.cache
def sentencepiece_model(kind: str, masked: bool = False) -> bytes:
    """kind: unigram | bpe. masked: with ALBERT's special tokens among the pieces."""
    import sentencepiece

    tokens = {
        **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
        **{"control_symbols": "[CLS],[SEP]", "user_defined_symbols": "[MASK]"},
    }
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text("\n".join([TEXT] * 3 + WORDS * 3), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=str(Path(folder, "m")),
            model_type=kind,
            vocab_size=220,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=3,
            **(tokens if masked else {}),
        )
        return Path(folder, "m.model").read_bytes()


def model_file(folder: Path, name: str, kind: str = "unigram", masked: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(sentencepiece_model(kind, masked))
    return folder


def vocab_and_merges(folder: Path) -> Path:
    content = json.loads(byte_level(False).to_str())["model"]
    merges = "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in content["merges"])
    return write(folder, vocab__json=content["vocab"], merges__txt=merges)


def with_limits(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16, pad_token="[PAD]")
    return tokenizer


def normalized(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def framed(template: str) -> Tokenizer:
    tokenizer = wordpiece(frame=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def renumbered(tokenizer: Tokenizer) -> dict:
    """With a token in the list of added ones that has the id of no place."""
    content = json.loads(tokenizer.to_str())
    token = content["added_tokens"][0] | {"content": "<late>", "id": NEXT + 50}
    content["added_tokens"].append(token)
    return content


def changed(tokenizer: Tokenizer, **model: object) -> str:
    content = json.loads(tokenizer.to_str())
    content["model"] |= model
    return json.dumps(content)


NEXT = len(wordpiece_entries())
CASED = normalizers.BertNormalizer(lowercase=False)
SPLIT = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])

# name: (writes it into a folder and returns the path to name, whether it lower-cases)
HONOURED: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "vocab.txt": (lambda f: write(f, vocab__txt=vocab_txt()) / "vocab.txt", True),
    "vocab.txt, cased": (lambda f: write(f, vocab__txt=vocab_txt()) / "vocab.txt", False),
    "folder of vocab.txt": (lambda f: write(f, vocab__txt=vocab_txt()), True),
    "do_lower_case false": (
        lambda f: write(f, vocab__txt=vocab_txt(), tokenizer_config__json={"do_lower_case": False}),
        False,
    ),
    "strip_accents false": (
        lambda f: write(f, vocab__txt=vocab_txt(), tokenizer_config__json={"strip_accents": False}),
        True,
    ),
    "tokenize_chinese_chars false": (
        lambda f: write(
            f, vocab__txt=vocab_txt(), tokenizer_config__json={"tokenize_chinese_chars": False}
        ),
        True,
    ),
    "added_tokens.json": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(),
            added_tokens__json={"pneumothorax": NEXT, "covid19": NEXT + 1, "patient": 15},
        ),
        True,
    ),
    "added_tokens_decoder": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(),
            tokenizer_config__json={
                "added_tokens_decoder": {
                    "4": {"content": "[MASK]", "special": True},
                    str(NEXT): {"content": "covid19", "special": False},
                }
            },
        ),
        True,
    ),
    "additional_special_tokens": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(),
            special_tokens_map__json={**BERT_NAMES, "additional_special_tokens": ["[ab]"]},
        ),
        True,
    ),
    "special_tokens_map.json of other names": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(["<p>", "<u>", "<c>", "<e>", "<m>"]),
            special_tokens_map__json=dict(
                zip(BERT_NAMES, ["<p>", "<u>", "<c>", "<e>", "<m>"], strict=True)
            ),
        ),
        True,
    ),
    "vocab.txt of MPNet": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(["<s>", "<pad>", "</s>", "<mask>", "[UNK]"]),
            tokenizer_config__json={"tokenizer_class": "MPNetTokenizer"},
        ),
        True,
    ),
    "never_split of special tokens": (
        lambda f: write(
            f, vocab__txt=vocab_txt(), tokenizer_config__json={"never_split": ["[MASK]"]}
        ),
        True,
    ),
    "tokenizer.json alone": (
        lambda f: write(f, tokenizer__json=saved(wordpiece(KEEPS_ACCENTS))),
        True,
    ),
    "tokenizer.json as a path": (
        lambda f: write(f, tokenizer__json=saved(wordpiece(CASED))) / "tokenizer.json",
        False,
    ),
    "tokenizer.json, BertTokenizer": (
        lambda f: write(
            f,
            tokenizer__json=saved(wordpiece(KEEPS_ACCENTS)),
            tokenizer_config__json={"tokenizer_class": "BertTokenizer"},
            config__json={"model_type": "bert"},
        ),
        True,
    ),
    "tokenizer.json, PreTrainedTokenizerFast": (
        lambda f: write(
            f,
            tokenizer__json=saved(wordpiece(KEEPS_ACCENTS)),
            tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast", **BERT_NAMES},
        ),
        True,
    ),
    "tokenizer.json that splits in a way of its own": (
        lambda f: write(f, tokenizer__json=saved(wordpiece(normalizers.NFC(), SPLIT))),
        False,
    ),
    "tokenizer.json without a frame": (
        lambda f: write(f, tokenizer__json=saved(wordpiece(frame=False))),
        True,
    ),
    "tokenizer.json that truncates and pads": (
        lambda f: write(f, tokenizer__json=saved(with_limits(wordpiece()))),
        True,
    ),
    "tokenizer.json and added_tokens.json": (
        lambda f: write(
            f, tokenizer__json=saved(wordpiece()), added_tokens__json={"pneumothorax": NEXT}
        ),
        True,
    ),
    "byte-level without a prefix space": (
        lambda f: write(
            f,
            tokenizer__json=saved(byte_level(False)),
            tokenizer_config__json={"model_max_length": 512},
            config__json={"model_type": "roberta"},
        ),
        False,
    ),
    "byte-level, RobertaTokenizer": (
        lambda f: write(
            f,
            tokenizer__json=saved(byte_level(False)),
            tokenizer_config__json={"tokenizer_class": "RobertaTokenizer"},
            special_tokens_map__json=ROBERTA_NAMES,
        ),
        False,
    ),
    "byte-level with a prefix space": (
        lambda f: write(f, tokenizer__json=saved(byte_level(True))),
        False,
    ),
    "vocab.json and merges.txt": (vocab_and_merges, False),
    "sentencepiece.bpe.model": (lambda f: model_file(f, "sentencepiece.bpe.model"), False),
    "sentencepiece.bpe.model of CamemBERT": (
        lambda f: write(
            model_file(f, "sentencepiece.bpe.model"), config__json={"model_type": "camembert"}
        ),
        False,
    ),
    "spm.model": (lambda f: model_file(f, "spm.model", masked=True), False),
    "spm.model as a path": (
        lambda f: model_file(f, "spm.model", masked=True) / "spm.model",
        False,
    ),
    "spiece.model": (lambda f: model_file(f, "spiece.model", masked=True), True),
    "unigram, Metaspace": (
        lambda f: write(f, tokenizer__json=saved(unigram(pre_tokenizers.Metaspace()))),
        False,
    ),
    "unigram, Metaspace at the first word, DebertaV2Tokenizer": (
        lambda f: write(
            f,
            tokenizer__json=saved(
                unigram(pre_tokenizers.Metaspace(prepend_scheme="first"), normalizers.NFKC())
            ),
            tokenizer_config__json={"tokenizer_class": "DebertaV2Tokenizer", **BERT_NAMES},
        ),
        False,
    ),
    "BPE of spaces and bytes": (lambda f: write(f, tokenizer__json=saved(metaspace_bpe())), False),
    "byte-level with a prefix space and an added token": (
        lambda f: write(
            f,
            tokenizer__json=saved(byte_level(True)),
            added_tokens__json={"covid19": 5 + 256 + 4},
        ),
        False,
    ),
    "byte-level with a prefix space and NFKC": (
        lambda f: write(f, tokenizer__json=saved(normalized(byte_level(True)))),
        False,
    ),
    "spm.model without special tokens": (lambda f: model_file(f, "spm.model"), False),
    "tokenizer.model, PreTrainedTokenizerFast": (
        lambda f: write(
            model_file(f, "tokenizer.model", masked=True),
            tokenizer_config__json={
                **{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"},
                **{"pad_token": "<pad>", "cls_token": "[CLS]", "sep_token": "[SEP]"},
                "mask_token": "[MASK]",
            },
        ),
        False,
    ),
    "a frame of another shape": (
        lambda f: write(f, tokenizer__json=saved(framed("[CLS] [CLS] $A [SEP]"))),
        True,
    ),
    "vocab.txt as a path, with files beside it": (
        lambda f: (
            write(f, vocab__txt=vocab_txt(), added_tokens__json={"covid19": NEXT}) / "vocab.txt"
        ),
        True,
    ),
    "an added token that stands alone": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(),
            tokenizer_config__json={
                "added_tokens_decoder": {
                    str(NEXT): {"content": "covid", "single_word": True, "special": False}
                }
            },
        ),
        True,
    ),
    "word level": (lambda f: write(f, tokenizer__json=saved(word_level())), True),
}

# name: (writes it, whether it lower-cases, what the message has)
REFUSED: dict[str, tuple[Callable[[Path], Path], bool, str]] = {
    "never_split": (
        lambda f: write(f, vocab__txt=vocab_txt(), tokenizer_config__json={"never_split": ["C++"]}),
        True,
        r"never_split lists C\+\+",
    ),
    "BertJapaneseTokenizer": (
        lambda f: write(
            f,
            vocab__txt=vocab_txt(),
            tokenizer_config__json={"tokenizer_class": "BertJapaneseTokenizer"},
        ),
        True,
        "is for BertJapaneseTokenizer, which splits text by rules that are not in vocab.txt",
    ),
    "BertJapaneseTokenizer beside a tokenizer.json": (
        lambda f: write(
            f,
            tokenizer__json=saved(wordpiece()),
            tokenizer_config__json={"tokenizer_class": "BertJapaneseTokenizer"},
        ),
        True,
        "is for BertJapaneseTokenizer",
    ),
    "the class of config.json": (
        lambda f: write(f, vocab__txt=vocab_txt(), config__json={"model_type": "esm"}),
        True,
        "is for EsmTokenizer",
    ),
    "do_lower_case against tokenizer.json": (
        lambda f: write(
            f,
            tokenizer__json=saved(wordpiece()),
            tokenizer_config__json={"do_lower_case": False},
        ),
        True,
        "has do_lower_case false, but tokenizer.json behaves as with true",
    ),
    "strip_accents against tokenizer.json": (
        lambda f: write(
            f,
            tokenizer__json=saved(wordpiece(KEEPS_ACCENTS)),
            tokenizer_config__json={"strip_accents": True},
        ),
        True,
        "has strip_accents true, but tokenizer.json behaves as with false",
    ),
    "add_prefix_space against tokenizer.json": (
        lambda f: write(
            f,
            tokenizer__json=saved(byte_level(False)),
            tokenizer_config__json={"add_prefix_space": True},
        ),
        False,
        "has add_prefix_space true",
    ),
    "an id that is not the next": (
        lambda f: write(f, vocab__txt=vocab_txt(), added_tokens__json={"covid19": NEXT + 7}),
        True,
        rf"added token covid19 has id {NEXT + 7}, expected {NEXT}, the next id in vocab.txt",
    ),
    "another id than in the vocabulary": (
        lambda f: write(f, vocab__txt=vocab_txt(), added_tokens__json={"the": NEXT}),
        True,
        rf"added token the has id {NEXT}, expected 5, its id in vocab.txt",
    ),
    "no mask token": (
        lambda f: write(f, vocab__txt="[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n"),
        True,
        r"has no \[MASK\]",
    ),
    "a name that is not in the vocabulary": (
        lambda f: write(
            f, vocab__txt=vocab_txt(), special_tokens_map__json={"mask_token": "<mask>"}
        ),
        True,
        "has no <mask>",
    ),
    "dropout": (
        lambda f: write(f, tokenizer__json=changed(byte_level(False), dropout=0.1)),
        False,
        "model.dropout is 0.1",
    ),
    "BPE to which unknown text is nothing": (
        lambda f: write(
            f, tokenizer__json=changed(metaspace_bpe(), unk_token=None, byte_fallback=False)
        ),
        False,
        "model.unk_token is not set, so text outside the vocabulary would be dropped",
    ),
    "BPE that the library cannot load": (
        lambda f: write(
            f, tokenizer__json=changed(byte_level(False), continuing_subword_prefix="##")
        ),
        False,
        "tokenizer.json",
    ),
    "a token of two roles": (
        lambda f: write(
            f, vocab__txt=vocab_txt(), special_tokens_map__json={"mask_token": "[UNK]"}
        ),
        True,
        r"\[UNK\] is unk_token and mask_token, expected different tokens",
    ),
    "never_split that is no list": (
        lambda f: write(f, vocab__txt=vocab_txt(), tokenizer_config__json={"never_split": 5}),
        True,
        "never_split is not a list",
    ),
    "word_tokenizer_type": (
        lambda f: write(
            f, vocab__txt=vocab_txt(), tokenizer_config__json={"word_tokenizer_type": "mecab"}
        ),
        True,
        "is for a tokenizer with word_tokenizer_type mecab",
    ),
    "another id in the list of added tokens": (
        lambda f: write(f, tokenizer__json=renumbered(wordpiece())),
        True,
        rf"added token <late> has id {NEXT + 50}, expected {NEXT}, by its position",
    ),
    "a SentencePiece model whose class has another unknown piece": (
        lambda f: write(
            model_file(f, "sentencepiece.model", masked=True),
            config__json={"model_type": "rembert"},
        ),
        False,
        r"\[CLS\] is unk_token and cls_token",
    ),
    "do_lower_case against steps of another kind": (
        lambda f: write(
            f, tokenizer__json=saved(word_level()), tokenizer_config__json={"do_lower_case": False}
        ),
        True,
        "has do_lower_case false, but tokenizer.json behaves as with true",
    ),
    "vocab.json without merges.txt": (
        lambda f: write(f, vocab__json={"a": 0}),
        False,
        "has no merges.txt beside it",
    ),
    "a BPE model in XLM-R's place": (
        lambda f: model_file(f, "sentencepiece.bpe.model", "bpe"),
        False,
        "is not a unigram model, but XLMRobertaTokenizer reads it as one",
    ),
    "a SentencePiece model without a mask": (
        lambda f: write(model_file(f, "spiece.model"), config__json={"model_type": "t5"}),
        False,
        "read as T5Tokenizer, has no cls_token, sep_token, mask_token",
    ),
    "no SentencePiece model": (
        lambda f: write(f, spm__model="something else"),
        False,
        "not a SentencePiece model",
    ),
}
