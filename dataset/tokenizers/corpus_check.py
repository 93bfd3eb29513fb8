"""Tries a tokenizer on a sample of its corpus, before any samples are made.

- transformers, and so finetuning, must give the same ids as pretraining's encoder.
- The share of unknown text is measured in tokens and in characters, as one [UNK] hides a long
  word, with its likely cause (unknown_text.py).
- Letters removed by the normalisation are counted.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.tokenizers.agreement import find_difference
from dataset.tokenizers.cached_encoder import WordEncoder
from dataset.tokenizers.load import CorpusTokenizer, load_tokenizer
from dataset.tokenizers.tokenizer_files import NAME_KEY, read_object
from dataset.tokenizers.unknown_text import (
    ERROR_SHARE,
    WARNING_SHARE,
    likely_cause,
    most_frequent,
    num_characters,
)
from dataset.workers import in_subprocess
from pipeline.console import WARNING_PREFIX
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown_list

SAMPLE_BYTES = 1 << 20  # of text
MAX_SHARDS = 64  # of the sample
ALTERED_WARNING = 0.01
NAMED = 5  # words in a message
JOINERS = "\u200c\u200d"
BYTES = "ByteLevel"  # a normalizer that spells all text in bytes
# Accents of Latin and Greek letters, which uncased models of BERT do without.
FIRST_ACCENT, LAST_ACCENT = "\u0300", "\u036f"
# Languages in which marks that BERT's uncased normalisation removes distinguish words.
MARKED_LANGUAGES = {
    *("as", "be", "bg", "bn", "bo", "dz", "gu", "hi", "ja", "km", "kn", "ko", "lo", "mk", "ml"),
    *("mr", "my", "ne", "or", "pa", "ru", "sa", "sd", "si", "ta", "te", "th", "uk", "vi"),
}


@dataclass(frozen=True)
class Findings:
    """Counts of characters (without white space) and tokens in a sample.

    unknown_words, altered: how often each occurs. cause: of most of the unknown text.
    """

    characters: int
    tokens: int
    unknown_characters: int
    unknown_tokens: int
    unknown_words: dict[str, int] = field(default_factory=dict)
    cause: str = ""
    altered: dict[str, int] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, float]:
        """Returns shares of the characters, for the manifest."""
        altered = sum(self.altered.values()) / max(1, self.characters)
        return {"unknown_character_share": self.unknown_share, "altered_character_share": altered}

    @property
    def unknown_share(self) -> float:
        """Returns a share of the characters; tokens for parts of a character may overlap."""
        return min(1.0, self.unknown_characters / max(1, self.characters))

    def lines(self, language: str) -> list[str]:
        """Returns warnings. Raises StageError if nearly all of the text is unknown.

        language: DATASET.LANGUAGE.
        """
        token_share = self.unknown_tokens / max(1, self.tokens)
        frequent = sorted(self.unknown_words, key=lambda word: (-self.unknown_words[word], word))
        line = (
            f"{token_share:.1%} of the tokens are unknown, which hide "
            f"{self.unknown_share:.1%} of the characters (as {shown_list(frequent[:NAMED])}); "
            f"likely cause: {self.cause}"
        )
        if max(self.unknown_share, token_share) > ERROR_SHARE:
            raise StageError(f"{NAME_KEY}: {line}")
        warned = [f"{WARNING_PREFIX}{line}"] if self.unknown_share > WARNING_SHARE else []
        return [*warned, *self._altered_lines(language)]

    def _altered_lines(self, language: str) -> Iterator[str]:
        """Yields a warning; accents of Latin and Greek letters count in marked languages only."""
        is_marked = language.split("-")[0] in MARKED_LANGUAGES
        lost = {
            letter: count
            for letter, count in self.altered.items()
            if is_marked or not _is_plain_accent(letter)
        }
        share = sum(lost.values()) / max(1, self.characters)
        if share <= ALTERED_WARNING:
            return
        remedy = "TOKENIZER.ACCENTS keep preserves them"
        if set(lost) <= set(JOINERS):
            remedy = "TOKENIZER.TRAIN with TOKENIZER.MODEL bpe preserves them"
        likely = f", which words of DATASET.LANGUAGE {language} need" if is_marked else ""
        yield (
            f"{WARNING_PREFIX}the tokenizer removes or alters {share:.1%} of the characters "
            f"({most_frequent(lost)}){likely}; {remedy}"
        )


def check_tokenizer(text_shards: Sequence[Path], folder: Path) -> Findings:
    """Examines a tokenizer in a subprocess, whose memory is freed afterwards.

    Raises StageError if transformers gives other ids than pretraining's encoder.
    """
    return in_subprocess(_check, tuple(text_shards), folder)


def _check(text_shards: Sequence[Path], folder: Path) -> Findings:
    tokenizer = load_tokenizer(folder)
    texts = sample_articles(text_shards)
    check_agreement(tokenizer, as_transformers_reads(folder), texts)
    return look_at(tokenizer, [line for text in texts for line in text.split("\n")])


def as_transformers_reads(folder: Path) -> Any:
    """Loads the tokenizer as AutoTokenizer does, without importing torch."""
    import transformers

    name = read_object(folder / "tokenizer_config.json")["tokenizer_class"]
    return getattr(transformers, name).from_pretrained(folder)


def sample_articles(text_shards: Sequence[Path]) -> list[str]:
    """Returns about SAMPLE_BYTES of articles, a sentence per line, spread over all shards."""
    step = -(-len(text_shards) // MAX_SHARDS)
    chosen = text_shards[::step]
    articles: list[str] = []
    for path in chosen:
        with open(path, "rb") as file:
            block = file.read(SAMPLE_BYTES // len(chosen))
            block += file.readline(SAMPLE_BYTES)
        articles += filter(None, block.decode(errors="ignore").strip("\n").split("\n\n"))
    return articles


def check_agreement(tokenizer: CorpusTokenizer, theirs: Any, texts: Sequence[str]) -> None:
    """Raises StageError if `theirs`, of transformers, gives other ids than pretraining's encoder.

    Skips texts that spell one of the five special tokens: only pretraining reads these as text,
    so no user's text can mask or end a sample.
    """
    encoder = WordEncoder(tokenizer)
    token_of = tokenizer.tokenizer.id_to_token
    roles = [token_of(number) or "" for number in tokenizer.special_ids.values()]
    cls, sep = (tokenizer.special_ids[role] for role in ("cls_token", "sep_token"))

    def ours(some: Sequence[str]) -> list[list[int]]:
        ids = encoder.encode([text.encode() for text in some])
        return [[cls, *found.tolist(), sep] for found in ids]

    def running(some: Sequence[str]) -> list[list[int]]:
        lines = [text.replace("\n", " ") for text in some]
        return theirs(lines, verbose=False)["input_ids"] if lines else []

    plain = [text for text in texts if not any(token in text for token in roles)]
    name = f"{type(theirs).__name__} of transformers"
    if found := find_difference(("pretraining", ours), (name, running), plain, token_of):
        raise StageError(f"{NAME_KEY}: {found}; expected the same ids")


def look_at(tokenizer: CorpusTokenizer, lines: Sequence[str]) -> Findings:
    """Counts unknown text, and letters removed by the normalisation."""
    letters = Counter("".join(lines))
    words: Counter[str] = Counter()
    num_tokens = unknown_tokens = 0
    unknown_id = tokenizer.special_ids["unk_token"]
    for line, ids in zip(lines, tokenizer.encode(lines), strict=True):
        num_tokens += len(ids)
        if unknown_id in ids:
            unknown_tokens += ids.count(unknown_id)
            encoding = tokenizer.tokenizer.encode(line, add_special_tokens=False)
            offsets = zip(encoding.ids, encoding.offsets, strict=True)
            words.update(line[start:end] for i, (start, end) in offsets if i == unknown_id)
    return Findings(
        characters=sum(count for letter, count in letters.items() if not letter.isspace()),
        tokens=num_tokens,
        unknown_characters=sum(num_characters(word) * count for word, count in words.items()),
        unknown_tokens=unknown_tokens,
        unknown_words=dict(words),
        cause=str(likely_cause(tokenizer.tokenizer, unknown_id, words)) if words else "",
        altered=_altered_letters(tokenizer.tokenizer.normalizer, letters),
    )


def _altered_letters(normalizer: Any, letters: Counter[str]) -> dict[str, int]:
    """Counts letters, vowel signs and joiners that a normalizer removes or alters."""
    if normalizer is None or BYTES in str(normalizer.__getstate__()):
        return {}
    return {letter: count for letter, count in letters.items() if _is_altered(normalizer, letter)}


def _is_altered(normalizer: Any, letter: str) -> bool:
    """Normalises a letter between two others, as some normalizers add to both ends of a text.

    Lower case does not count as altered.
    """
    kind = unicodedata.category(letter)[0]
    if kind not in "LM" and letter not in JOINERS:
        return False
    before = normalizer.normalize_str("aa").split("a", 1)[0]
    found = normalizer.normalize_str(f"a{letter}a").removeprefix(before)[1:]
    found = found.rpartition("a")[0].strip()
    if kind == "M" or letter in JOINERS:
        return not found
    if unicodedata.name(letter, "").startswith("HANGUL SYLLABLE"):
        return found != letter  # decomposed
    forms = (letter, letter.lower())
    composed = unicodedata.normalize("NFKC", found)
    return composed not in {*forms, *(unicodedata.normalize("NFKC", form) for form in forms)}


def _is_plain_accent(letter: str) -> bool:
    is_mark = FIRST_ACCENT <= letter <= LAST_ACCENT
    return is_mark or unicodedata.name(letter, "").startswith(("LATIN", "GREEK"))
