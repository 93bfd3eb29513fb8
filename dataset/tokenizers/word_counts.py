"""Counts the words of a large text in a table of bounded size.

Most distinct words of a large text occur once or twice. A full table keeps the frequent words and a
random sample of the rare ones. The sample represents all rare words, so each of its counts is
multiplied by 2, 4, 8, ... A hash of the word decides about the sample.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zlib import crc32

from dataset.shards.passages import Passage

BLOCK_BYTES = 512 << 10
# Longer runs without white space (Chinese, Thai, URLs) are cut, as they hardly ever occur twice.
LONGEST_WORD, PIECE_LENGTH = 24, 8
CONTINUES = " "  # prefix of a piece that does not begin its word


class BoundedCounts:
    """Counts at most `capacity` words, and those of one more call of `add`."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.counts: dict[str, int] = {}
        self.frequent = 1  # words with this count or more are never dropped
        self.doublings = 0  # a rare word in the sample represents 2^doublings words

    def add(self, counts: Mapping[str, int]) -> None:
        own = self.counts
        for word, count in counts.items():
            own[word] = own.get(word, 0) + count
        if len(own) > self.capacity:
            self._make_room()

    def _make_room(self) -> None:
        """Reduces the table to 3/4 of its capacity, at most 1/2 for frequent words."""
        room, num_frequent = self.capacity // 2, 0
        num_words = Counter(self.counts.values())
        for count in sorted(num_words, reverse=True):
            if num_frequent + num_words[count] > room:
                self.frequent = max(self.frequent, count + 1)
                break
            num_frequent += num_words[count]
        room = self.capacity * 3 // 4 - num_frequent
        rare = [word for word, count in self.counts.items() if count < self.frequent]
        while sum(map(self._is_sampled, rare)) > room:
            self.doublings += 1
        self.counts = dict(self._kept())

    def _is_sampled(self, word: str) -> bool:
        return not crc32(word.encode()) & (1 << self.doublings) - 1

    def _kept(self) -> Iterator[tuple[str, int]]:
        for word, count in self.counts.items():
            if count >= self.frequent or self._is_sampled(word):
                yield word, count

    def items(self) -> Iterator[tuple[str, int]]:
        """Yields (word, estimated count); exact if the table was never full."""
        for word, count in self._kept():
            yield word, count if count >= self.frequent else count << self.doublings


def count_words(text: str) -> Counter[str]:
    """Counts words between white space; long ones in pieces of 8 characters."""
    counts = Counter(text.split())
    for word in [word for word in counts if len(word) > LONGEST_WORD]:
        count = counts.pop(word)
        counts[word[:PIECE_LENGTH]] += count
        for start in range(PIECE_LENGTH, len(word), PIECE_LENGTH):
            counts[CONTINUES + word[start : start + PIECE_LENGTH]] += count
    return counts


def iter_blocks(passages: Sequence[Passage], max_bytes: int) -> Iterator[str]:
    """Yields about `max_bytes` of text at most, in blocks spread evenly over all passages.

    A line belongs to the block with its first byte, so no line comes twice.
    """
    size = sum(passage.num_bytes for passage in passages)
    share = min(1.0, max_bytes / max(1, size))
    least = 1 if share == 1.0 else min(BLOCK_BYTES, max_bytes) // 16
    due, taken = 0.0, 0  # bytes to read until now, and bytes read
    for passage in passages:
        for start in range(passage.begin, passage.end, BLOCK_BYTES):
            length = min(BLOCK_BYTES, passage.end - start)
            due += share * length
            length = min(length, round(due) - taken)
            if length >= max(1, least):
                taken += length
                yield _read_lines(passage.path, start, length)


def _read_lines(path: Path, start: int, length: int) -> str:
    """Returns the lines that begin in bytes [start, start + length) of a file."""
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline(BLOCK_BYTES)
        left = start + length - file.tell()
        block = file.read(left) if left > 0 else b""
        if block and not block.endswith(b"\n"):
            block += file.readline(BLOCK_BYTES)
    return block.decode("utf-8", errors="ignore")
