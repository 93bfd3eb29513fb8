"""Sentences to token rows: every article is cut into samples, and no token is lost.

A sample holds [CLS], up to max_seq_length - 2 tokens of one article, and [SEP]. A sentence that
does not fit is split; the rest of it starts the next sample.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BATCH_CHARACTERS = 1 << 19  # of text that is tokenized at once
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class RowFormat:
    """How a row of token ids looks."""

    max_seq_length: int
    short_seq_prob: float
    cls_id: int
    sep_id: int
    pad_id: int


def iter_articles(path: Path) -> Iterator[list[str]]:
    """Yields the sentences of each article of a text shard."""
    sentences: list[str] = []
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if line != "\n":
                sentences.append(line.rstrip("\n"))
            elif sentences:
                yield sentences
                sentences = []
    if sentences:
        yield sentences


def iter_article_tokens(
    path: Path, encode: Callable[[Sequence[str]], list[list[int]]]
) -> Iterator[tuple[list[int], bool]]:
    """Yields (ids, whether the article ends with them), in the order of the text.

    encode: sentences to ids. A long article comes in several pieces, so that memory is bounded.
    """
    batch, ends, size = [], [], 0
    for sentences in iter_articles(path):
        for number, sentence in enumerate(sentences, start=1):
            batch.append(sentence)
            ends.append(number == len(sentences))
            size += len(sentence)
            if size >= BATCH_CHARACTERS:
                yield from zip(encode(batch), ends, strict=True)
                batch, ends, size = [], [], 0
    yield from zip(encode(batch), ends, strict=True)


def iter_samples(
    pieces: Iterable[tuple[list[int], bool]],
    row_format: RowFormat,
    rng: "np.random.Generator",
) -> Iterator[list[int]]:
    """Yields the tokens of each sample, without [CLS] and [SEP].

    With probability short_seq_prob a sample is cut to a random length from 2 tokens on.
    """
    lengths = iter_lengths(row_format, rng)
    length, waiting = next(lengths), []
    for ids, article_ends in pieces:
        waiting += ids
        begin = 0
        while len(waiting) - begin >= length:
            yield waiting[begin : begin + length]
            begin, length = begin + length, next(lengths)
        waiting = waiting[begin:]
        if article_ends and waiting:
            yield waiting
            length, waiting = next(lengths), []


def iter_lengths(row_format: RowFormat, rng: "np.random.Generator") -> Iterator[int]:
    """Yields target lengths without end."""
    import numpy as np

    longest = row_format.max_seq_length - 2
    while True:
        short = rng.random(BLOCK_ROWS) < row_format.short_seq_prob
        lengths = rng.integers(min(2, longest), longest, BLOCK_ROWS, endpoint=True)
        yield from np.where(short, lengths, longest).tolist()


def iter_row_blocks(
    samples: Iterable[list[int]], row_format: RowFormat, counts: Counter
) -> Iterator["np.ndarray"]:
    """Yields blocks of up to 4096 rows [n, max_seq_length] (int32) with special tokens."""
    block: list[list[int]] = []
    for sample in samples:
        block.append(sample)
        if len(block) == BLOCK_ROWS:
            yield as_rows(block, row_format, counts)
            block = []
    if block:
        yield as_rows(block, row_format, counts)


def as_rows(samples: list[list[int]], row_format: RowFormat, counts: Counter) -> "np.ndarray":
    import numpy as np

    lengths = np.array([len(sample) for sample in samples])
    columns = np.arange(row_format.max_seq_length)
    rows = np.full((len(samples), len(columns)), row_format.pad_id, dtype=np.int32)
    inside = (columns > 0) & (columns <= lengths[:, None])
    rows[inside] = np.fromiter(
        (token for sample in samples for token in sample), dtype=np.int32, count=lengths.sum()
    )
    rows[:, 0] = row_format.cls_id
    rows[np.arange(len(samples)), lengths + 1] = row_format.sep_id
    counts.update(samples=len(samples), tokens=int(lengths.sum()))
    counts["padding"] += int(rows.size - lengths.sum() - 2 * len(samples))
    return rows
