"""Learns the entries of a vocabulary by merging pairs of symbols in counted words.

The most frequent pair of neighbouring symbols in all words becomes one symbol, again and again
(byte-pair encoding, Sennrich et al., 2016). The `tokenizers` library has the same in Rust, but it
takes 4.1 KB for each distinct word, wants each word repeated as often as it occurs, and breaks ties
in the order of a hash map. This implementation takes a tenth of the memory and counts as numbers,
and ties go to the smaller ids, so every process gets the same result.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import pairwise

MIN_FREQUENCY = 2  # of a merged pair
SHIFT = 24  # a pair of ids as one number: left << SHIFT | right


class PairMerger:
    """Merges pairs in words, which are lists of symbol ids.

    Keeps the count and the words of each pair of neighbours.
    """

    def __init__(self, words: Iterable[tuple[list[int], int]]):
        """words: (ids, count). Modifies the lists of ids."""
        self.words: list[list[int]] = []
        self.word_counts: list[int] = []
        self.counts: dict[int, int] = defaultdict(int)
        self.places: dict[int, array[int]] = defaultdict(lambda: array("i"))
        for ids, count in words:
            if len(ids) > 1:
                for left, right in pairwise(ids):
                    pair = left << SHIFT | right
                    self.counts[pair] += count
                    self.places[pair].append(len(self.words))
                self.words.append(ids)
                self.word_counts.append(count)
        frequent = (item for item in self.counts.items() if item[1] >= MIN_FREQUENCY)
        self.heap = [(-count, pair) for pair, count in frequent]
        heapify(self.heap)

    def most_frequent(self) -> tuple[int, int] | None:
        """Returns the pair to merge next; None if no pair is frequent enough.

        Counts in the heap may be outdated: they are corrected at the top.
        """
        while self.heap:
            negative, pair = heappop(self.heap)
            count = self.counts.get(pair, 0)
            if count == -negative:
                return pair >> SHIFT, pair & (1 << SHIFT) - 1
            if MIN_FREQUENCY <= count < -negative:
                heappush(self.heap, (-count, pair))
        return None

    def merge(self, left: int, right: int, new: int) -> None:
        """Replaces the pair with symbol `new` in all words."""
        pair = left << SHIFT | right
        places = self.places.pop(pair)
        changes: dict[int, int] = defaultdict(int)
        for place in places:
            self._merge_in_word(place, left, right, new, changes)
        changes.pop(pair, None)  # overlaps, as in `aaa`
        del self.counts[pair]
        for changed, change in changes.items():
            count = self.counts.get(changed, 0) + change
            if count >= MIN_FREQUENCY:
                self.counts[changed] = count
                if change > 0:
                    heappush(self.heap, (-count, changed))
            else:
                self.counts.pop(changed, None)
                self.places.pop(changed, None)

    def _merge_in_word(
        self, place: int, left: int, right: int, new: int, changes: dict[int, int]
    ) -> None:
        word, count, start = self.words[place], self.word_counts[place], 0
        while left in word[start:-1]:
            at = word.index(left, start)
            start = at + 1
            if word[start] != right:
                continue
            if at:
                changes[word[at - 1] << SHIFT | left] -= count
                self._gain(word[at - 1] << SHIFT | new, place, count, changes)
            if at + 2 < len(word):
                changes[right << SHIFT | word[at + 2]] -= count
                self._gain(new << SHIFT | word[at + 2], place, count, changes)
            word[at : at + 2] = [new]

    def _gain(self, pair: int, place: int, count: int, changes: dict[int, int]) -> None:
        changes[pair] += count
        places = self.places[pair]
        if not places or places[-1] != place:
            places.append(place)


def learn_merges(
    words: Iterable[tuple[list[int], int]],
    entries: list[str],
    vocab_size: int,
    join: Callable[[str, str], str],
) -> list[tuple[str, str]]:
    """Extends `entries` to `vocab_size`, or until no pair occurs twice. Returns the merges.

    words: (ids, count), with indices of `entries` as ids. join: concatenates two entries.
    """
    merger = PairMerger(words)
    ids = {entry: number for number, entry in enumerate(entries)}
    merges: dict[tuple[str, str], None] = {}
    while len(entries) < vocab_size and (pair := merger.most_frequent()):
        left, right = pair
        entry = join(entries[left], entries[right])
        if entry not in ids:  # two pairs can give the same entry
            ids[entry] = len(entries)
            entries.append(entry)
        merger.merge(left, right, ids[entry])
        merges[entries[left], entries[right]] = None
    return list(merges)
