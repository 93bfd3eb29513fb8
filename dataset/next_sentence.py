"""Samples of two segments, for next-sentence prediction (Devlin et al., 2018, section 3.1).

A sample is [CLS] A [SEP] B [SEP]. Half of the time B is what follows A in the article, else a
piece of an earlier article of the shard; then A's article goes on in the next sample, so that no
token of the corpus is lost. Segments are whole sentences, except where they do not fit.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dataset.packing import RowFormat, count_rows, iter_articles, iter_lengths

if TYPE_CHECKING:
    import numpy as np

RANDOM_PROB = 0.5
POOL_ARTICLES = 100  # earlier articles that random segments are taken from
POOL_SENTENCES = 50  # of the beginning of each

Ids = "np.ndarray"


class Pair(NamedTuple):
    """A next-sentence sample: token ids of both segments; is_random: B does not follow A."""

    first: Ids
    second: Ids
    is_random: bool


def iter_pairs(
    path: Path,
    encode: Callable[[bytes], Ids],
    row_format: RowFormat,
    rng: "np.random.Generator",
) -> Iterator[Pair]:
    """Yields the samples of a text shard, in the order of the text."""
    pool: deque[list[Ids]] = deque(maxlen=POOL_ARTICLES)
    lengths = (length - 1 for length in iter_lengths(row_format, rng))  # one more [SEP]
    sentences: deque[Ids] = deque()
    beginning: list[Ids] = []
    for text, article_ends in iter_articles(path):
        encoded = [ids for line in text.split(b"\n") if len(ids := encode(line))]
        beginning += encoded[: POOL_SENTENCES - len(beginning)]
        sentences.extend(encoded)
        while sentences and (article_ends or len(sentences) > row_format.max_seq_length):
            yield take_pair(sentences, max(2, next(lengths)), pool, rng)
        if article_ends:
            if beginning:
                pool.append(beginning)
            beginning = []


def take_pair(
    sentences: "deque[Ids]", length: int, pool: "deque[list[Ids]]", rng: "np.random.Generator"
) -> Pair:
    """Takes a sample of at most `length` tokens from the front of `sentences`."""
    chunk = take_sentences(sentences, length)
    num_first = int(rng.integers(1, len(chunk))) if len(chunk) > 1 else 1
    first = joined(chunk[:num_first])
    if pool and (len(chunk) == 1 or rng.random() < RANDOM_PROB):
        sentences.extendleft(reversed(chunk[num_first:]))
        first, rest = first[: length - 1], first[length - 1 :]
        if len(rest):
            sentences.appendleft(rest)
        return Pair(first, random_segment(pool, length - len(first), rng), True)
    if len(chunk) == 1:  # no other article yet: the sentence is cut in two
        half = (len(first) + 1) // 2
        return Pair(first[:half], first[half:], False)
    return Pair(first, joined(chunk[num_first:]), False)


def take_sentences(sentences: "deque[Ids]", length: int) -> list[Ids]:
    """Sentences of `length` tokens in all, the last one cut if need be, or fewer at the end."""
    chunk: list[Ids] = []
    while sentences and length > 0:
        sentence = sentences.popleft()
        if len(sentence) > length:
            sentences.appendleft(sentence[length:])
        chunk.append(sentence[:length])
        length -= len(chunk[-1])
    return chunk


def random_segment(pool: "deque[list[Ids]]", length: int, rng: "np.random.Generator") -> Ids:
    """Up to `length` tokens of an earlier article, from the beginning of a sentence on."""
    article = pool[int(rng.integers(len(pool)))]
    return joined(article[int(rng.integers(len(article))) :])[:length]


def joined(parts: list[Ids]) -> Ids:
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)


# --- rows ------------------------------------------------------------------------------------


def iter_pair_blocks(
    pairs: Iterable[Pair], row_format: RowFormat, counts: Counter
) -> Iterator[dict[str, Ids]]:
    """Yields blocks of rows: input_ids, input_mask, segment_ids [n, L], next_sentence_labels [n].

    counts: as `packing.iter_row_blocks`; the random segments' tokens are counted too.
    """
    block: list[Pair] = []
    for pair in pairs:
        block.append(pair)
        if len(block) == row_format.block_rows:
            yield as_rows(block, row_format, counts)
            block = []
    if block:
        yield as_rows(block, row_format, counts)


def as_rows(pairs: list[Pair], row_format: RowFormat, counts: Counter) -> dict[str, Ids]:
    import numpy as np

    shape = (len(pairs), row_format.max_seq_length)
    first = np.array([len(pair.first) for pair in pairs])[:, None]
    second = np.array([len(pair.second) for pair in pairs])[:, None]
    columns = np.arange(row_format.max_seq_length)
    in_first = (columns > 0) & (columns <= first)
    in_second = (columns > first + 1) & (columns <= first + 1 + second)
    tokens = joined([ids for pair in pairs for ids in (pair.first, pair.second)])
    input_ids = np.full(shape, row_format.pad_id, dtype=tokens.dtype)
    input_ids[in_first | in_second] = tokens
    input_ids[:, 0] = row_format.cls_id
    input_ids[(columns == first + 1) | (columns == first + second + 2)] = row_format.sep_id
    count_rows((first + second + 1)[:, 0], len(pairs), row_format, counts)
    counts["tokens"] -= len(pairs)  # the [SEP] in the middle
    counts["specials"] += len(pairs)
    return {
        "input_ids": input_ids,
        "input_mask": (columns < first + second + 3).astype(np.uint8),
        "segment_ids": ((columns > first + 1) & (columns < first + second + 3)).astype(np.uint8),
        "next_sentence_labels": np.array([pair.is_random for pair in pairs], dtype=np.uint8),
    }
