"""How often each word occurs in a large text, in a table of bounded size.

Most distinct words of a large text occur once or twice. When the table is full, the frequent words
stay, and of the rare ones a random sample, which from then on stands for all rare words: each
counts 2, 4, 8 ... fold. What is in the sample is decided by a hash of the word.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from zlib import crc32

BLOCK_BYTES = 512 << 10
# Runs of characters without white space (Chinese, Thai, addresses) that are longer are cut, as
# they hardly ever occur twice.
LONGEST_WORD, PIECE_LENGTH = 24, 8
CONTINUES = " "  # in front of a piece that does not begin its word


class BoundedCounts:
    """Counts of at most `capacity` words, but for what one call of `add` may bring."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.counts: dict[str, int] = {}
        self.frequent = 1  # the count from which a word stays for certain
        self.doublings = 0  # a rare word in the sample stands for 2^doublings

    def add(self, counts: Mapping[str, int]) -> None:
        own = self.counts
        for word, count in counts.items():
            own[word] = own.get(word, 0) + count
        if len(own) > self.capacity:
            self._make_room()

    def _make_room(self) -> None:
        """Keeps three quarters of the capacity: at most one half for frequent words."""
        room, num_frequent = self.capacity // 2, 0
        num_words = Counter(self.counts.values())
        for count in sorted(num_words, reverse=True):
            if num_frequent + num_words[count] > room:
                self.frequent = max(self.frequent, count + 1)
                break
            num_frequent += num_words[count]
        room = self.capacity * 3 // 4 - num_frequent
        while sum(map(self._is_sampled_and_rare, self.counts)) > room:
            self.doublings += 1
        self.counts = dict(self._kept())

    def _is_sampled_and_rare(self, word: str) -> bool:
        return self.counts[word] < self.frequent and self._is_sampled(word)

    def _is_sampled(self, word: str) -> bool:
        return not crc32(word.encode()) & (1 << self.doublings) - 1

    def _kept(self) -> Iterator[tuple[str, int]]:
        for word, count in self.counts.items():
            if count >= self.frequent or self._is_sampled(word):
                yield word, count

    def items(self) -> Iterator[tuple[str, int]]:
        """Yields (word, estimated count); exact if the table has never been full."""
        for word, count in self._kept():
            yield word, count if count >= self.frequent else count << self.doublings


def count_words(text: str) -> Counter:
    """Words between white space with their counts; long ones as pieces of 8 characters."""
    counts = Counter(text.split())
    for word in [word for word in counts if len(word) > LONGEST_WORD]:
        count = counts.pop(word)
        counts[word[:PIECE_LENGTH]] += count
        for start in range(PIECE_LENGTH, len(word), PIECE_LENGTH):
            counts[CONTINUES + word[start : start + PIECE_LENGTH]] += count
    return counts


def iter_blocks(paths: Iterable[Path], max_bytes: int) -> Iterator[str]:
    """Yields at most about `max_bytes` of text in blocks spread evenly over all files.

    A line belongs to the block that it begins in, so that of a smaller text each line comes once.
    """
    sizes = {path: path.stat().st_size for path in paths}
    share = min(1.0, max_bytes / max(1, sum(sizes.values())))
    least = 1 if share == 1.0 else min(BLOCK_BYTES, max_bytes) // 16
    due, taken = 0.0, 0  # bytes that should have been, and that have been, read by now
    for path, size in sizes.items():
        for start in range(0, size, BLOCK_BYTES):
            length = min(BLOCK_BYTES, size - start)
            due += share * length
            length = min(length, round(due) - taken)
            if length >= max(1, least):
                taken += length
                yield read_lines(path, start, length)


def read_lines(path: Path, start: int, length: int) -> str:
    """The lines that begin in bytes [start, start + length) of a file."""
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline(BLOCK_BYTES)
        left = start + length - file.tell()
        block = file.read(left) if left > 0 else b""
        if block and not block.endswith(b"\n"):
            block += file.readline(BLOCK_BYTES)
    return block.decode("utf-8", errors="ignore")
