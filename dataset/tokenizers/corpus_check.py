"""Tries a tokenizer on a sample of the text that it is for, before anything is made with it.

- What pretraining reads must be what transformers, and so finetuning, makes of the folder.
- How much of the text is unknown to it, in tokens and in characters, as one [UNK] hides a long
  word; and by what that would change: casing, accents, how accents are composed, long words.
- Which letters its normalisation takes away.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.tokenizers.agreement import find_difference
from dataset.tokenizers.build import NAME_KEY, load_tokenizer
from dataset.tokenizers.cached_encoder import WordEncoder
from dataset.tokenizers.tokenizer_files import read_object
from dataset.tokenizers.unknown_text import (
    ERROR_SHARE,
    WARNING_SHARE,
    likely_cause,
    name_of,
    num_characters,
)
from pipeline.console import WARNING_PREFIX
from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool, run_unordered
from pipeline.user_files.file_checks import shown_list

if TYPE_CHECKING:
    from dataset.tokenizers.build import CorpusTokenizer

SAMPLE_BYTES = 1 << 20  # of text
MAX_SHARDS = 64  # that the sample is taken from
ALTERED_WARNING = 0.01
NAMED = 5  # characters or words in a message
JOINERS = "\u200c\u200d"
BYTES = "ByteLevel"  # a normalizer that spells all text in bytes
# Accents of Latin and Greek letters, which uncased models of BERT do without.
PLAIN_ACCENTS = ("\u0300", "\u036f")
# Languages whose words differ by marks that BERT's uncased normalisation takes away.
MARKED_LANGUAGES = {
    *("as", "be", "bg", "bn", "bo", "dz", "gu", "hi", "ja", "km", "kn", "ko", "lo", "mk", "ml"),
    *("mr", "my", "ne", "or", "pa", "ru", "sa", "sd", "si", "ta", "te", "th", "uk", "vi"),
}


@dataclass(frozen=True)
class Findings:
    """Of a sample: numbers of characters (without white space) and tokens.

    unknown_words, altered: how often each occurs. cause: what most of the unknown text is due to.
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
        """Returns the manifest's part: shares of the characters."""
        altered = sum(self.altered.values()) / max(1, self.characters)
        return {"unknown_character_share": self.unknown_share, "altered_character_share": altered}

    @property
    def unknown_share(self) -> float:
        """Of the characters; tokens of parts of a character may overlap."""
        return min(1.0, self.unknown_characters / max(1, self.characters))

    def lines(self, language: str) -> list[str]:
        """Returns warnings. Raises StageError if nearly all of the text is unknown.

        language: of the text, as DATASET.LANGUAGE.
        """
        token_share = self.unknown_tokens / max(1, self.tokens)
        line = (
            f"{token_share:.1%} of the tokens are unknown, which stand for "
            f"{self.unknown_share:.1%} of the characters ({self._examples()}); "
            f"likely cause: {self.cause}"
        )
        if max(self.unknown_share, token_share) > ERROR_SHARE:
            raise StageError(f"{NAME_KEY}: {line}")
        warned = [f"{WARNING_PREFIX}{line}"] if self.unknown_share > WARNING_SHARE else []
        return [*warned, *self._altered_lines(language)]

    def _examples(self) -> str:
        frequent = sorted(self.unknown_words, key=lambda word: (-self.unknown_words[word], word))
        return "as " + shown_list(frequent[:NAMED])

    def _altered_lines(self, language: str) -> Iterator[str]:
        """Accents of Latin and Greek letters count in languages that need them."""
        is_marked = language.split("-")[0] in MARKED_LANGUAGES
        lost = {
            letter: count
            for letter, count in self.altered.items()
            if is_marked or not _is_plain_accent(letter)
        }
        share = sum(lost.values()) / max(1, self.characters)
        if share <= ALTERED_WARNING:
            return
        frequent = sorted(lost, key=lambda letter: (-lost[letter], letter))
        names = ", ".join(map(name_of, frequent[:NAMED]))
        way_out = "TOKENIZER.ACCENTS keep leaves them"
        if set(frequent) <= set(JOINERS):
            way_out = "TOKENIZER.TRAIN with TOKENIZER.MODEL bpe keeps them"
        likely = f", which words of DATASET.LANGUAGE {language} need" if is_marked else ""
        yield (
            f"{WARNING_PREFIX}the tokenizer takes away or alters {share:.1%} of the characters "
            f"({names}){likely}; {way_out}"
        )


def check_tokenizer(text_shards: Sequence[Path], folder: Path) -> Findings:
    """Looks at a tokenizer in a process of its own, whose memory is free again afterwards.

    Raises StageError if transformers gives other ids than the samples will have.
    """
    with local_pool(1) as pool:
        [(_, findings)] = run_unordered(pool, _check, [(tuple(text_shards), folder)])
    return findings


def _check(job: tuple[Sequence[Path], Path]) -> Findings:
    text_shards, folder = job
    tokenizer = load_tokenizer(folder)
    texts = sample_articles(text_shards)
    check_agreement(tokenizer, as_transformers_reads(folder), texts)
    return look_at(tokenizer, [line for text in texts for line in text.split("\n")])


def as_transformers_reads(folder: Path) -> Any:
    """Loads the tokenizer as AutoTokenizer does, without its import of torch."""
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


# --- agreement -------------------------------------------------------------------------------


def check_agreement(tokenizer: "CorpusTokenizer", theirs: Any, texts: Sequence[str]) -> None:
    """Raises StageError if samples of `texts` are not what `theirs`, of transformers, gives.

    Texts that spell one of the five special tokens are left out: they are text to pretraining
    alone, so that no user's text can mask or end a sample.
    """
    encoder = WordEncoder(tokenizer)
    roles = [tokenizer.tokenizer.id_to_token(number) for number in tokenizer.special_ids.values()]
    cls, sep = (tokenizer.special_ids[role] for role in ("cls_token", "sep_token"))

    def ours(some: Sequence[str]) -> list[list[int]]:
        ids = encoder.encode([text.encode() for text in some])
        return [[cls, *found.tolist(), sep] for found in ids]

    def running(some: Sequence[str]) -> list[list[int]]:
        lines = [text.replace("\n", " ") for text in some]
        return theirs(lines, verbose=False)["input_ids"] if lines else []

    plain = [text for text in texts if not any(token in text for token in roles)]
    if found := find_difference(ours, running, plain):
        names = ("pretraining", f"{type(theirs).__name__} of transformers")
        raise StageError(
            f"{NAME_KEY}: {found.described(names, tokenizer.tokenizer.id_to_token)}; expected the "
            "same of both"
        )


# --- coverage --------------------------------------------------------------------------------


def look_at(tokenizer: "CorpusTokenizer", lines: Sequence[str]) -> Findings:
    """Counts what of some text is unknown, and what normalisation takes away."""
    letters = Counter("".join(lines))
    words: Counter = Counter()
    num_tokens = unknown_tokens = 0
    unknown_id = tokenizer.special_ids["unk_token"]
    for line, ids in zip(lines, tokenizer.encode(lines), strict=True):
        num_tokens += len(ids)
        if unknown_id in ids:
            unknown_tokens += ids.count(unknown_id)
            words.update(unknown_parts(tokenizer, line, unknown_id))
    return Findings(
        characters=sum(count for letter, count in letters.items() if not letter.isspace()),
        tokens=num_tokens,
        unknown_characters=sum(num_characters(word) * count for word, count in words.items()),
        unknown_tokens=unknown_tokens,
        unknown_words=dict(words),
        cause=str(likely_cause(tokenizer.tokenizer, unknown_id, words)) if words else "",
        altered=altered_letters(tokenizer.tokenizer.normalizer, letters),
    )


def unknown_parts(tokenizer: "CorpusTokenizer", line: str, unknown_id: int) -> Iterable[str]:
    """Yields the parts of a line that unknown tokens stand for."""
    encoding = tokenizer.tokenizer.encode(line, add_special_tokens=False)
    for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if number == unknown_id:
            yield line[start:end]


# --- normalisation ---------------------------------------------------------------------------


def altered_letters(normalizer: Any, letters: Counter) -> dict[str, int]:
    """Counts letters, vowel signs and joiners that a normalizer takes away or alters."""
    if normalizer is None or BYTES in str(normalizer.__getstate__()):
        return {}
    return {letter: count for letter, count in letters.items() if _is_altered(normalizer, letter)}


def _is_altered(normalizer: Any, letter: str) -> bool:
    """Looks at a letter between two others, as some normalizers add to a text's ends.

    Lower case does not count.
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
        return found != letter  # into its parts
    forms = (letter, letter.lower())
    composed = unicodedata.normalize("NFKC", found)
    return composed not in {*forms, *(unicodedata.normalize("NFKC", form) for form in forms)}


def _is_plain_accent(letter: str) -> bool:
    first, last = PLAIN_ACCENTS
    is_mark = first <= letter <= last
    return is_mark or unicodedata.name(letter, "").startswith(("LATIN", "GREEK"))
