"""A WordPiece vocabulary trained on the corpus, the same in every run."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dataset.tokenizer import SPECIAL_TOKENS, bert_pipeline, save_bert_tokenizer

# Text that a vocabulary is trained on. Shards are random samples of the corpus, so the first ones
# will do; more changes the vocabulary little and takes memory.
MAX_TRAINING_BYTES = 256 << 20
MAX_ALPHABET = 1000  # rarer characters become [UNK], as in BERT's own vocabulary
CONTINUATION = "##"


def train_tokenizer(
    text_shards: Iterable[Path],
    vocab_size: int,
    do_lower_case: bool,
    folder: Path,
    max_bytes: int = MAX_TRAINING_BYTES,
) -> int:
    """Trains on text shards and saves the tokenizer in `folder`. Returns the vocabulary's size.

    [PAD] has id 0. A small corpus may give fewer entries than `vocab_size`.
    """
    from tokenizers.trainers import WordPieceTrainer

    shards = list(text_shards)
    counts = count_characters(iter_lines(shards, max_bytes))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    rare_to_space = {ord(character): " " for character in frequent[MAX_ALPHABET:]}
    tokenizer = bert_pipeline({}, do_lower_case)
    # The trainer numbers the continuing characters in the random order of a hash map, and breaks
    # ties between merges by number, so that two runs differ. Given as special tokens, in front of
    # the others, they have fixed numbers.
    continuing = continuing_characters(frequent[:MAX_ALPHABET], tokenizer)
    fixed = [*SPECIAL_TOKENS.values(), *(CONTINUATION + character for character in continuing)]
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=fixed, show_progress=False
    )
    lines = (line.translate(rare_to_space) for line in iter_lines(shards, max_bytes))
    tokenizer.train_from_iterator(lines, trainer)
    ids = tokenizer.get_vocab()
    vocabulary = sorted(ids, key=ids.__getitem__)
    save_bert_tokenizer(vocabulary, do_lower_case, folder)
    return len(vocabulary)


def count_characters(lines: Iterable[str]) -> Counter:
    counts: Counter = Counter()
    for line in lines:
        counts.update(line)
    return counts


def continuing_characters(characters: Iterable[str], tokenizer) -> list[str]:
    """Characters, as they are normalised, that can stand inside a word; sorted."""
    continuing = set()
    for character in characters:
        word = tokenizer.normalizer.normalize_str(f"a{character}")
        if len(tokenizer.pre_tokenizer.pre_tokenize_str(word)) == 1:
            continuing.update(word[1:].strip())
    return sorted(continuing)


def iter_lines(shards: Iterable[Path], max_bytes: int) -> Iterator[str]:
    """Yields the sentences of the first `max_bytes` of the shards."""
    left = max_bytes
    for shard in shards:
        with open(shard, encoding="utf-8", newline="\n") as file:
            for line in file:
                left -= len(line.encode())
                if left < 0:
                    return
                yield line
