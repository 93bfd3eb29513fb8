"""Makes samples of two segments, for next-sentence prediction (Devlin et al., 2018, section 3.1).

A sample is [CLS] A [SEP] B [SEP]. Half of the time B follows A in the article. Else B comes from an
earlier article of the shard, or from far back in a long one, and A's article continues in the next
sample, so no token of the corpus is lost. Segments are whole sentences, unless these do not fit.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dataset.samples.packing import (
    Encode,
    RowFormat,
    count_rows,
    encode_checked,
    iter_batches,
    iter_lengths,
)
from dataset.shards.passages import Passage

if TYPE_CHECKING:
    import numpy as np

RANDOM_PROB = 0.5
POOL_TOKENS = 1 << 18  # of the earlier samples from which random segments are drawn
SENTENCE_START = re.compile(rb"(?=\n)")
FAR_BACK = 32  # samples after which a part of the same article counts as another article

Ids: TypeAlias = "np.ndarray"


class Pair(NamedTuple):
    """A next-sentence sample: the token ids of both segments. is_random: B does not follow A."""

    first: Ids
    second: Ids
    is_random: bool


def iter_pairs(
    passages: Iterable[Passage],
    encode: Encode,
    row_format: RowFormat,
    rng: "np.random.Generator",
) -> Iterator[Pair]:
    """Yields the samples of passages, in the order of the text."""
    length = row_format.max_seq_length
    pool: deque[Ids] = deque(maxlen=max(1, POOL_TOKENS // length))
    recent: deque[Ids] = deque()  # samples of the current article, not in the pool yet
    lengths = (length - 1 for length in iter_lengths(row_format, rng))  # one more [SEP]
    sentences: deque[Ids] = deque()
    num_waiting = 0  # tokens
    for encoded, article_ends in _iter_sentences(passages, encode):
        sentences.extend(encoded)
        num_waiting += sum(map(len, encoded))
        while num_waiting and (article_ends or num_waiting > length):
            pair = _take_pair(sentences, max(2, next(lengths)), pool, rng)
            yield pair
            own = pair.first if pair.is_random else _joined([pair.first, pair.second])
            num_waiting -= len(own)
            recent.append(own.copy())
            if len(recent) > FAR_BACK:
                pool.append(recent.popleft())
        if article_ends:
            pool.extend(recent)
            recent.clear()


def _iter_sentences(
    passages: Iterable[Passage], encode: Encode
) -> Iterator[tuple[list[Ids], bool]]:
    """Yields (ids of each sentence, True at the end of an article).

    A sentence keeps its leading white space, which is part of the first word to some tokenizers.
    """
    for passage in passages:
        for batch in iter_batches(passage):
            lines = [SENTENCE_START.split(text) for text, _ in batch]
            found = encode_checked(passage.path, encode, list(chain.from_iterable(lines)))
            encoded = iter(found)
            for some, (_, article_ends) in zip(lines, batch, strict=True):
                yield [ids for ids in islice(encoded, len(some)) if len(ids)], article_ends


def _take_pair(
    sentences: deque[Ids], length: int, pool: deque[Ids], rng: "np.random.Generator"
) -> Pair:
    """Removes a sample of at most `length` tokens from the beginning of `sentences`."""
    chunk = _take_sentences(sentences, length)
    num_first = int(rng.integers(1, len(chunk))) if len(chunk) > 1 else 1
    first = _joined(chunk[:num_first])
    if pool and (len(chunk) == 1 or rng.random() < RANDOM_PROB):
        sentences.extendleft(reversed(chunk[num_first:]))
        first, rest = first[: length - 1], first[length - 1 :]
        if len(rest):
            sentences.appendleft(rest)
        earlier = pool[int(rng.integers(len(pool)))]
        return Pair(first, earlier[: length - len(first)], True)
    if len(chunk) == 1:  # no other article yet: cut the sentence in two
        half = (len(first) + 1) // 2
        return Pair(first[:half], first[half:], False)
    return Pair(first, _joined(chunk[num_first:]), False)


def _take_sentences(sentences: deque[Ids], length: int) -> list[Ids]:
    """Removes sentences of `length` tokens in total, or all; cuts the last one if it is longer."""
    chunk: list[Ids] = []
    while sentences and length > 0:
        sentence = sentences.popleft()
        if len(sentence) > length:
            sentences.appendleft(sentence[length:])
        chunk.append(sentence[:length])
        length -= len(chunk[-1])
    return chunk


def _joined(parts: list[Ids]) -> Ids:
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def iter_pair_blocks(
    pairs: Iterable[Pair], row_format: RowFormat, counts: Counter[str]
) -> Iterator[dict[str, Ids]]:
    """Yields blocks of rows: input_ids, input_mask, segment_ids [n, L], next_sentence_labels [n].

    Updates counts as `packing.iter_row_blocks` does, plus `random` second segments, whose tokens
    are counted too.
    """
    block: list[Pair] = []
    for pair in pairs:
        block.append(pair)
        if len(block) == row_format.block_rows:
            yield _as_rows(block, row_format, counts)
            block = []
    if block:
        yield _as_rows(block, row_format, counts)


def _as_rows(pairs: list[Pair], row_format: RowFormat, counts: Counter[str]) -> dict[str, Ids]:
    import numpy as np

    shape = (len(pairs), row_format.max_seq_length)
    first = np.array([len(pair.first) for pair in pairs])[:, None]
    second = np.array([len(pair.second) for pair in pairs])[:, None]
    columns = np.arange(row_format.max_seq_length)
    in_first = (columns > 0) & (columns <= first)
    in_second = (columns > first + 1) & (columns <= first + 1 + second)
    tokens = _joined([ids for pair in pairs for ids in (pair.first, pair.second)])
    input_ids = np.full(shape, row_format.pad_id, dtype=tokens.dtype)
    input_ids[in_first | in_second] = tokens
    input_ids[:, 0] = row_format.cls_id
    input_ids[(columns == first + 1) | (columns == first + second + 2)] = row_format.sep_id
    count_rows((first + second + 1)[:, 0], len(pairs), row_format, counts)
    counts["random"] += sum(pair.is_random for pair in pairs)
    counts["tokens"] -= len(pairs)  # the [SEP] in the middle
    counts["specials"] += len(pairs)
    return {
        "input_ids": input_ids,
        "input_mask": (columns < first + second + 3).astype(np.uint8),
        "segment_ids": ((columns > first + 1) & (columns < first + second + 3)).astype(np.uint8),
        "next_sentence_labels": np.array([pair.is_random for pair in pairs], dtype=np.uint8),
    }
