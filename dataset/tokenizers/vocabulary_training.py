"""A vocabulary trained on the corpus, the same in every run.

Memory does not grow with the corpus: words are counted in tables of a fixed size, which does not
depend on SYSTEM.MAX_MEMORY_IN_GB either, so the vocabulary is the same on every machine.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dataset.tokenizers.formats import (
    SPECIAL_TOKENS,
    bert_pipeline,
    byte_level_pipeline,
    save_bert_tokenizer,
    save_byte_level_tokenizer,
)
from dataset.tokenizers.merges import learn_merges
from dataset.tokenizers.word_counts import CONTINUES, BoundedCounts, count_words, iter_blocks

# Distinct words, first as they stand in the text, then without case and punctuation; symbols that
# these are spelled with at the beginning, which take about 60 bytes each until all is merged.
MAX_WORDS, MAX_PIECES, MAX_SYMBOLS = 1_000_000, 300_000, 4_500_000
BATCH_PIECES = 30_000  # counted before they go into the table
TRAINING_BYTES = 400_000_000  # what training takes at most, with the process it runs in
# Rarer characters become [UNK]: BERT's own vocabulary has 1000. More are kept in writing systems
# that need them for this share of the text.
MAX_ALPHABET, COVERAGE = 1000, 0.9999
CONTINUATION = "##"


def problem_with_training(model: str, vocab_size: int, special_tokens: Sequence[str]) -> str:
    """What is wrong with TOKENIZER.VOCAB_SIZE or SPECIAL_TOKENS, or an empty string."""
    least = len(SPECIAL_TOKENS) + len(special_tokens) + (256 if model == "bpe" else 2)
    if vocab_size < least:
        size = f"is {vocab_size}, too small for {model}, expected {least} or more"
        return f"TOKENIZER.VOCAB_SIZE: {size}"
    counts = Counter([*SPECIAL_TOKENS.values(), *special_tokens])
    for token in special_tokens:
        if counts[token] > 1 or token.split() != [token]:
            return f"TOKENIZER.SPECIAL_TOKENS: {token!r} is there twice or has white space"
    return ""


def train_tokenizer(
    text_shards: Iterable[Path],
    folder: Path,
    *,
    model: str,
    vocab_size: int,
    do_lower_case: bool,
    accents: str,
    special_tokens: Sequence[str],
    max_training_bytes: int,
) -> int:
    """Trains on text spread evenly over the shards, and saves the tokenizer in `folder`.

    model: wordpiece | bpe. accents: auto | strip | keep. Returns the vocabulary's size: a small
    corpus may give fewer entries than `vocab_size`. [PAD] has id 0, `special_tokens` begin at 5.
    """
    names = [*SPECIAL_TOKENS.values(), *special_tokens]
    if model == "bpe":
        pipeline = byte_level_pipeline({}, [], do_lower_case, accents)
    else:
        pipeline = bert_pipeline({}, do_lower_case, accents)
    words = count_corpus(text_shards, max_training_bytes)
    pieces = count_pieces(words, pipeline, names)
    del words  # makes room
    if model == "bpe":
        entries, merges = learn_byte_level(pieces, names, vocab_size)
        save_byte_level_tokenizer(entries, merges, do_lower_case, folder, accents, special_tokens)
    else:
        entries = learn_wordpiece(pieces, names, vocab_size)
        save_bert_tokenizer(entries, do_lower_case, folder, accents, special_tokens)
    return len(entries)


def learn_wordpiece(pieces: BoundedCounts, special: list[str], vocab_size: int) -> list[str]:
    alphabet = choose_alphabet(pieces, (vocab_size - len(special)) // 2)
    continuing = [CONTINUATION + character for character in continuing_characters(alphabet)]
    entries = [*special, *continuing, *alphabet]
    symbols = as_symbols(pieces, entries, CONTINUATION)
    learn_merges(symbols, entries, vocab_size, lambda a, b: a + b.removeprefix(CONTINUATION))
    return entries


def learn_byte_level(
    pieces: BoundedCounts, special: list[str], vocab_size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    from tokenizers.pre_tokenizers import ByteLevel

    entries = [*special, *sorted(ByteLevel.alphabet())]
    symbols = as_symbols(pieces, entries, "")
    return entries, learn_merges(symbols, entries, vocab_size, str.__add__)


# --- text to pieces --------------------------------------------------------------------------


def count_corpus(text_shards: Iterable[Path], max_training_bytes: int) -> BoundedCounts:
    words = BoundedCounts(MAX_WORDS)
    for block in iter_blocks(text_shards, max_training_bytes):
        words.add(count_words(block))
    return words


def count_pieces(words: BoundedCounts, pipeline, special: list[str]) -> BoundedCounts:
    """What `pipeline` normalises and splits words into, with counts; special tokens left out.

    A piece that goes on where something was cut begins with CONTINUES.
    """
    pieces = BoundedCounts(MAX_PIECES)
    between = re.compile("|".join(map(re.escape, special)))
    batch: Counter = Counter()
    for word, count in words.items():
        for part in between.split(word):
            for piece in split_word(part, pipeline):
                batch[piece] += count
        if len(batch) >= BATCH_PIECES:
            pieces.add(batch)
            batch.clear()
    pieces.add(batch)
    return pieces


def split_word(word: str, pipeline) -> Iterator[str]:
    """Pieces of a word. One that begins with CONTINUES is split with a letter in its front."""
    goes_on = word.startswith(CONTINUES)
    text = pipeline.normalizer.normalize_str(f"a{word[1:]}" if goes_on else word)
    pieces = [piece for piece, _ in pipeline.pre_tokenizer.pre_tokenize_str(text)]
    if goes_on:
        rest = pieces.pop(0).removeprefix("Ġ")[1:]
        yield from [CONTINUES + rest] if rest else []
    yield from pieces


def as_symbols(
    pieces: BoundedCounts, entries: list[str], prefix: str
) -> Iterator[tuple[list[int], int]]:
    """Pieces as lists of ids of single characters, the most frequent ones first.

    Left out are those with an unknown character, and the rarest beyond MAX_SYMBOLS. prefix: what
    an entry has in front that does not begin a piece.
    """
    ids = {entry: number for number, entry in enumerate(entries)}
    room = MAX_SYMBOLS
    for piece, count in sorted(pieces.items(), key=lambda item: (-item[1], item[0])):
        first = "" if piece.startswith(CONTINUES) else piece[0]
        symbols = [*first, *(prefix + character for character in piece[1:])]
        room -= len(symbols)
        if room < 0:
            return
        if all(symbol in ids for symbol in symbols):
            yield [ids[symbol] for symbol in symbols], count


# --- characters ------------------------------------------------------------------------------


def choose_alphabet(pieces: BoundedCounts, most: int) -> list[str]:
    """The most frequent characters of the pieces, at most `most`, sorted."""
    counts: Counter = Counter()
    for piece, count in pieces.items():
        for character in piece.removeprefix(CONTINUES):
            counts[character] += count
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    number, covered = 0, 0
    while number < len(frequent) and (number < MAX_ALPHABET or covered < COVERAGE * counts.total()):
        covered += counts[frequent[number]]
        number += 1
    return sorted(frequent[: min(number, most)])


def continuing_characters(characters: Iterable[str]) -> list[str]:
    """Characters that can stand inside a word of BERT's; punctuation and Chinese ones cannot."""
    pipeline = bert_pipeline({}, False)
    split, normalize = pipeline.pre_tokenizer.pre_tokenize_str, pipeline.normalizer.normalize_str
    return [character for character in characters if len(split(normalize(f"a{character}"))) == 1]
