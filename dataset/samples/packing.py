"""Cuts the articles of text shards into samples, and puts these into rows; no token is lost.

A sample is [CLS], up to max_seq_length - 2 tokens of one article, and [SEP]. The rest of the
article begins the next sample. A row holds one sample, or, packed, as many as fill it: the last
sample is cut to the rest of the row.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.shards.passages import Passage, iter_passage
from pipeline.errors import StageError

if TYPE_CHECKING:
    import numpy as np

BATCH_BYTES = 2 << 20  # of text tokenized at once; takes about 30 MB
BLOCK_TOKENS = 1 << 18  # positions in a block of rows
HISTOGRAM_BINS = 16

Encode = Callable[[Sequence[bytes]], "list[np.ndarray]"]  # texts to the ids of each


@dataclass(frozen=True)
class RowFormat:
    """The layout of a row of token ids."""

    max_seq_length: int
    short_seq_prob: float
    packed: bool
    cls_id: int
    sep_id: int
    pad_id: int

    @property
    def block_rows(self) -> int:
        return max(1, BLOCK_TOKENS // self.max_seq_length)


def iter_article_tokens(passage: Passage, encode: Encode) -> Iterator[tuple["np.ndarray", bool]]:
    """Yields (ids [n], True at the end of an article), in the order of the text."""
    for batch in iter_batches(passage):
        encoded = encode_checked(passage.path, encode, [text for text, _ in batch])
        for ids, (_, article_ends) in zip(encoded, batch, strict=True):
            yield ids, article_ends


def encode_checked(path: Path, encode: Encode, texts: Sequence[bytes]) -> "list[np.ndarray]":
    """Encodes texts of a shard. Raises StageError, naming the shard, for text that is not UTF-8."""
    try:
        return encode(texts)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{path}: cannot be tokenized ({reason})") from error


def iter_batches(passage: Passage) -> Iterator[list[tuple[bytes, bool]]]:
    """Yields lists of about BATCH_BYTES from `iter_passage`, to tokenize at once."""
    batch: list[tuple[bytes, bool]] = []
    size = 0
    for text, article_ends in iter_passage(passage):
        batch.append((text, article_ends))
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def iter_samples(
    articles: Iterable[tuple["np.ndarray", bool]],
    row_format: RowFormat,
    rng: "np.random.Generator",
) -> Iterator[tuple["np.ndarray", bool]]:
    """Yields (ids of a sample without [CLS] and [SEP], True at the beginning of a row).

    With probability short_seq_prob a sample is cut to a random length of 2 tokens or more.
    """
    import numpy as np

    lengths = iter_lengths(row_format, rng)
    length, room = next(lengths), row_format.max_seq_length
    least_room = 3 if row_format.packed else room  # [CLS], a token, [SEP]
    waiting = None  # the rest of an unfinished article
    for ids, article_ends in articles:
        if waiting is not None:
            ids = np.concatenate([waiting, ids])
        begin = 0
        while left := len(ids) - begin:
            size = min(length, room - 2)
            if left < size and not article_ends:
                break
            sample = ids[begin : begin + size]
            yield sample, room == row_format.max_seq_length
            begin += len(sample)
            room -= len(sample) + 2
            if room < least_room:
                room = row_format.max_seq_length
            length = next(lengths)
        waiting = None if article_ends else ids[begin:]


def iter_lengths(row_format: RowFormat, rng: "np.random.Generator") -> Iterator[int]:
    """Yields target lengths, endlessly."""
    import numpy as np

    longest = row_format.max_seq_length - 2
    while True:
        short = rng.random(4096) < row_format.short_seq_prob
        lengths = rng.integers(min(2, longest), longest, 4096, endpoint=True)
        yield from np.where(short, lengths, longest).tolist()


def iter_row_blocks(
    samples: Iterable[tuple["np.ndarray", bool]], row_format: RowFormat, counts: Counter[str]
) -> Iterator[dict[str, "np.ndarray"]]:
    """Yields blocks of rows: input_ids [n, L], input_mask [n, L] and segment_ids [n, L].

    Adds samples, rows, tokens, specials, padding, and samples by length (`length_<bin>`) to counts.
    """
    block: list[tuple[np.ndarray, bool]] = []
    num_rows, block_rows = 0, row_format.block_rows
    for ids, begins_row in samples:
        if begins_row and num_rows == block_rows:
            yield _as_rows(block, row_format, counts)
            block, num_rows = [], 0
        block.append((ids, begins_row))
        num_rows += begins_row
    if block:
        yield _as_rows(block, row_format, counts)


def _as_rows(
    samples: list[tuple["np.ndarray", bool]], row_format: RowFormat, counts: Counter[str]
) -> dict[str, "np.ndarray"]:
    """Returns rows of samples; the first sample begins a row.

    input_mask is 0 for padding, else the number of the sample in its row, from 1.
    """
    import numpy as np

    length = row_format.max_seq_length
    ids = np.concatenate([sample for sample, _ in samples])
    sizes = np.array([len(sample) for sample, _ in samples])
    first_of_row = np.flatnonzero([begins_row for _, begins_row in samples])
    samples_in_row = np.diff(first_of_row, append=len(samples))
    row = np.repeat(np.arange(len(first_of_row)), samples_in_row)
    begin = np.cumsum(sizes + 2) - sizes - 2  # in one row without padding
    begin += row * length - begin[first_of_row][row]
    number = np.arange(len(samples)) - first_of_row[row] + 1

    input_ids = np.full(len(first_of_row) * length, row_format.pad_id, dtype=ids.dtype)
    input_ids[begin] = row_format.cls_id
    input_ids[begin + sizes + 1] = row_format.sep_id
    input_ids[np.arange(len(ids)) + np.repeat(begin + 1 - np.cumsum(sizes) + sizes, sizes)] = ids
    steps = np.zeros(len(input_ids) + 1, dtype=np.int32)  # where input_mask changes
    np.add.at(steps, begin, number)
    np.add.at(steps, begin + sizes + 2, -number)
    mask_type = np.uint16 if row_format.packed and length > 255 else np.uint8
    input_mask = np.cumsum(steps[:-1]).astype(mask_type)
    count_rows(sizes, len(first_of_row), row_format, counts)
    shape = (len(first_of_row), length)
    return {
        "input_ids": input_ids.reshape(shape),
        "input_mask": input_mask.reshape(shape),
        "segment_ids": np.zeros(shape, dtype=np.uint8),
    }


def count_rows(
    sizes: "np.ndarray", num_rows: int, row_format: RowFormat, counts: Counter[str]
) -> None:
    """Adds samples of these sizes [n], in `num_rows` rows, to the counts."""
    import numpy as np

    tokens, length = int(sizes.sum()), row_format.max_seq_length
    counts.update(samples=len(sizes), rows=num_rows, tokens=tokens, specials=2 * len(sizes))
    counts["padding"] += num_rows * length - tokens - 2 * len(sizes)
    bins = np.bincount((sizes + 1) * HISTOGRAM_BINS // length, minlength=HISTOGRAM_BINS)
    counts.update({f"length_{number:02d}": int(count) for number, count in enumerate(bins)})
