"""Trains a vocabulary on the corpus, the same in every run.

Memory does not grow with the corpus: words are counted in tables of a fixed size. The size does not
depend on SYSTEM.MAX_MEMORY_IN_GB either, so every machine gets the same vocabulary.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.shards.passages import Passage
from dataset.tokenizers.formats import PREFIX, bert_pipeline, byte_level_pipeline, save_tokenizer
from dataset.tokenizers.merges import learn_merges
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS
from dataset.tokenizers.word_counts import CONTINUES, BoundedCounts, count_words, iter_blocks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Distinct words, first with, then without case and punctuation; and symbols of their spellings,
# which take about 60 bytes each until they are merged.
MAX_WORDS, MAX_PIECES, MAX_SYMBOLS = 1_000_000, 300_000, 4_500_000
BATCH_PIECES = 30_000  # counted before they are added to the table
TRAINING_BYTES = 400_000_000  # peak memory of the training process
# Rarer characters become [UNK]: BERT's own vocabulary has 1000. Writing systems that need more to
# cover this share of the text keep more.
MAX_ALPHABET, COVERAGE = 1000, 0.9999


def problem_with_training(model: str, vocab_size: int, special_tokens: Sequence[str]) -> str:
    """Returns the problem with TOKENIZER.VOCAB_SIZE or SPECIAL_TOKENS, or ""."""
    least = len(SPECIAL_TOKENS) + len(special_tokens) + (256 if model == "bpe" else 2)
    if vocab_size < least:
        size = f"is {vocab_size}, too small for {model}, expected {least} or more"
        return f"TOKENIZER.VOCAB_SIZE: {size}"
    counts = Counter([*SPECIAL_TOKENS.values(), *special_tokens])
    for token in special_tokens:
        if counts[token] > 1 or token.split() != [token]:
            return f"TOKENIZER.SPECIAL_TOKENS: {token!r} appears twice or contains white space"
    return ""


@dataclass(frozen=True)
class Portion:
    """Text to train on: about `max_bytes` of the passages at most, counted `times` times."""

    passages: Sequence[Passage]
    max_bytes: int
    times: int = 1


def weighted_portions(
    sources: Sequence[Sequence[Passage]], shares: Sequence[float], max_bytes: int
) -> list[Portion]:
    """Returns portions with about this share of the text, in bytes, from each source.

    Together they have `max_bytes`, or the size of all sources if that is less.
    """
    sizes = [sum(passage.num_bytes for passage in passages) for passages in sources]
    total = min(max_bytes, sum(sizes))
    portions = []
    for passages, size, share in zip(sources, sizes, shares, strict=True):
        times, rest = divmod(round(total * share), max(1, size))
        portions += [Portion(passages, size, times), Portion(passages, rest)]
    return [portion for portion in portions if portion.max_bytes and portion.times]


def train_tokenizer(
    portions: Iterable[Portion],
    folder: Path,
    *,
    model: str,
    vocab_size: int,
    do_lower_case: bool,
    accents: str,
    special_tokens: Sequence[str],
) -> int:
    """Trains on text spread evenly over the passages, and saves the tokenizer in `folder`.

    model: wordpiece | bpe. accents: auto | strip | keep. Returns the size of the vocabulary, less
    than `vocab_size` for a small corpus. [PAD] has id 0, `special_tokens` begin at 5.
    """
    names = [*SPECIAL_TOKENS.values(), *special_tokens]
    is_bpe = model == "bpe"
    if is_bpe:
        pipeline = byte_level_pipeline({}, [], do_lower_case, accents)
    else:
        pipeline = bert_pipeline({}, do_lower_case, accents)
    words = BoundedCounts(MAX_WORDS)
    for portion in portions:
        for block in iter_blocks(portion.passages, portion.max_bytes):
            counts = count_words(block)
            words.add({word: number * portion.times for word, number in counts.items()})
    pieces = _count_pieces(words, pipeline, names)
    if is_bpe:
        entries, merges = _learn_byte_level(pieces, names, vocab_size)
        tokenizer = byte_level_pipeline(_numbered(entries), merges, do_lower_case, accents)
    else:
        entries = learn_wordpiece(pieces, names, vocab_size)
        tokenizer = bert_pipeline(_numbered(entries), do_lower_case, accents)
    tokenizer.add_special_tokens(names)
    save_tokenizer(tokenizer, SPECIAL_TOKENS, folder)
    return len(entries)


def learn_wordpiece(pieces: BoundedCounts, special: list[str], vocab_size: int) -> list[str]:
    """Returns the entries of a WordPiece vocabulary; the index is the id."""
    alphabet = _choose_alphabet(pieces, (vocab_size - len(special)) // 2)
    entries = [*special, *(PREFIX + letter for letter in _inner_characters(alphabet)), *alphabet]
    symbols = as_symbols(pieces, entries, PREFIX)
    learn_merges(symbols, entries, vocab_size, lambda a, b: a + b.removeprefix(PREFIX))
    return entries


def _learn_byte_level(
    pieces: BoundedCounts, special: list[str], vocab_size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    from tokenizers.pre_tokenizers import ByteLevel

    entries = [*special, *sorted(ByteLevel.alphabet())]
    symbols = as_symbols(pieces, entries, "")
    return entries, learn_merges(symbols, entries, vocab_size, str.__add__)


def _numbered(entries: list[str]) -> dict[str, int]:
    return {entry: number for number, entry in enumerate(entries)}


def _count_pieces(words: BoundedCounts, pipeline: "Tokenizer", special: list[str]) -> BoundedCounts:
    """Normalises and splits the words with `pipeline`; special tokens are left out.

    The continuation of a piece that was cut begins with CONTINUES.
    """
    pieces = BoundedCounts(MAX_PIECES)
    between = re.compile("|".join(map(re.escape, special)))
    batch: Counter[str] = Counter()
    for word, count in words.items():
        for part in between.split(word):
            for piece in _split_word(part, pipeline):
                batch[piece] += count
        if len(batch) >= BATCH_PIECES:
            pieces.add(batch)
            batch.clear()
    pieces.add(batch)
    return pieces


def _split_word(word: str, pipeline: "Tokenizer") -> Iterator[str]:
    """Yields the pieces of a word. A continuation is split with a letter before it."""
    is_continuation = word.startswith(CONTINUES)
    text = pipeline.normalizer.normalize_str(f"a{word[1:]}" if is_continuation else word)
    pieces = [piece for piece, _ in pipeline.pre_tokenizer.pre_tokenize_str(text)]
    if is_continuation:
        rest = pieces.pop(0).removeprefix("Ġ")[1:]
        yield from [CONTINUES + rest] if rest else []
    yield from pieces


def as_symbols(
    pieces: BoundedCounts, entries: list[str], prefix: str
) -> Iterator[tuple[list[int], int]]:
    """Yields (ids of single characters, count) of the pieces, most frequent first.

    Skips pieces with an unknown character, and stops at MAX_SYMBOLS. prefix: of entries that do
    not begin a piece.
    """
    ids = _numbered(entries)
    room = MAX_SYMBOLS
    for piece, count in sorted(pieces.items(), key=lambda item: (-item[1], item[0])):
        first = "" if piece.startswith(CONTINUES) else piece[0]
        symbols = [*first, *(prefix + character for character in piece[1:])]
        room -= len(symbols)
        if room < 0:
            return
        if all(symbol in ids for symbol in symbols):
            yield [ids[symbol] for symbol in symbols], count


def _choose_alphabet(pieces: BoundedCounts, most: int) -> list[str]:
    """Returns the most frequent characters of the pieces, at most `most`, sorted."""
    counts: Counter[str] = Counter()
    for piece, count in pieces.items():
        for character in piece.removeprefix(CONTINUES):
            counts[character] += count
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    number, covered = 0, 0
    while number < len(frequent) and (number < MAX_ALPHABET or covered < COVERAGE * counts.total()):
        covered += counts[frequent[number]]
        number += 1
    return sorted(frequent[: min(number, most)])


def _inner_characters(characters: Iterable[str]) -> list[str]:
    """Returns the characters that can continue a word; punctuation and Chinese ones cannot."""
    pipeline = bert_pipeline({}, False)
    split, normalize = pipeline.pre_tokenizer.pre_tokenize_str, pipeline.normalizer.normalize_str
    return [character for character in characters if len(split(normalize(f"a{character}"))) == 1]
