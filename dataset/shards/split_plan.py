"""Assigns articles to splits and shards, and plans the number of shards."""

import hashlib
import struct
from dataclasses import dataclass, replace

from dataset.sources.article_stream import PIECE_BYTES
from pipeline.errors import StageError

SHARD_BYTES = 32 << 20  # of text in a shard of a large corpus
MAX_SHARDS = 4096  # of a very large corpus, with larger shards
MIN_SHARD_BYTES = 256 << 10  # smaller shards do not pay
MIN_SHARDS = 16  # of at least that size: work for all cores
MIN_SECTION_BYTES = 16 << 10  # shorter articles stay whole for any number of shards
NUM_LARGEST = 10  # sizes of articles in a census
HASH_RANGE = 1 << 64
TWO_NUMBERS = struct.Struct(">2Q")


@dataclass(frozen=True)
class ShardSettings:
    """Keys of DATASET, in lower case; 0 shards: as many as fit the corpus."""

    num_train_shards: int
    num_test_shards: int
    frac_test: float
    seed: int
    language: str = "en"


@dataclass(frozen=True)
class Layout:
    """Split and shards of articles. An article with a draw below test_draws is held out.

    section_bytes: longer articles are spread over shards in sections of this size. test_bytes:
    wanted size of the held-out text. held_out_draw: draw of another held-out article.
    first_test_sentence: for a corpus of one article, its sentences from this one on are held out;
    0: whole articles are held out.
    """

    seed: int
    test_draws: int
    num_train_shards: int
    num_test_shards: int
    section_bytes: int = SHARD_BYTES
    test_bytes: int = 0
    held_out_draw: int = -1
    first_test_sentence: int = 0

    @property
    def num_shards(self) -> int:
        return self.num_train_shards + self.num_test_shards

    @property
    def piece_bytes(self) -> int:
        """Largest part of an article read at once."""
        return min(PIECE_BYTES, self.section_bytes)

    def draw(self, name: str, position: int) -> tuple[int, int]:
        """Returns two independent uniform integers below 2^64, for the split and the shard."""
        identity = f"{self.seed}\0{name}\0{position}".encode("utf-8", "surrogateescape")
        for_split, for_shard = TWO_NUMBERS.unpack(
            hashlib.blake2b(identity, digest_size=16).digest()
        )
        return for_split, for_shard

    def holds_out(self, draw: tuple[int, int]) -> bool:
        """True if an article (or the beginning of the only one) is held out."""
        if self.first_test_sentence:
            return False
        return draw[0] < self.test_draws or draw[0] == self.held_out_draw

    def place(self, draw: tuple[int, int], held_out: bool, section: int = 0) -> int:
        """Returns the shard of an article's section; training shards have the first numbers."""
        if held_out:
            return self.num_train_shards + (draw[1] + section) % self.num_test_shards
        return (draw[1] + section) % self.num_train_shards

    def shard_names(self) -> list[str]:
        """Returns the file names by number."""
        return [
            *(shard_name("train", shard) for shard in range(self.num_train_shards)),
            *(shard_name("test", shard) for shard in range(self.num_test_shards)),
        ]


def shard_name(split: str, shard: int) -> str:
    return f"{split}_{shard:05d}.txt"


def num_shards(num_bytes: float, shard_bytes: float = SHARD_BYTES) -> int:
    """Returns the default number of shards: of 32 MiB, or up to 16 smaller ones."""
    for_cores = min(MIN_SHARDS, int(num_bytes // MIN_SHARD_BYTES))
    return max(1, for_cores, round(num_bytes / shard_bytes))


def plan_layout(num_bytes: int, settings: ShardSettings) -> Layout:
    """Returns the layout for a corpus of `num_bytes`."""
    shard_bytes = max(SHARD_BYTES, num_bytes / MAX_SHARDS)
    test_bytes = num_bytes * settings.frac_test
    train_bytes = num_bytes * (1 - settings.frac_test)
    num_train_shards = settings.num_train_shards or num_shards(train_bytes, shard_bytes)
    return Layout(
        seed=settings.seed,
        test_draws=int(settings.frac_test * HASH_RANGE),
        num_train_shards=num_train_shards,
        num_test_shards=settings.num_test_shards or num_shards(test_bytes, shard_bytes),
        section_bytes=max(MIN_SECTION_BYTES, int(train_bytes / num_train_shards)),
        test_bytes=int(test_bytes),
    )


@dataclass(frozen=True)
class Census:
    """Statistics of the articles of a run or corpus, needed to fill both splits.

    lowest, highest: of the draws for the split. nearest: (distance to the wanted held-out size,
    draw) of the article closest to it. largest: sizes of the largest articles held out whole.
    """

    lowest: int = HASH_RANGE
    highest: int = -1
    nearest: tuple[int, int] = (HASH_RANGE, HASH_RANGE)
    num_sentences: int = 0
    largest: tuple[int, ...] = ()

    def __add__(self, other: "Census") -> "Census":
        return Census(
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            min(self.nearest, other.nearest),
            self.num_sentences + other.num_sentences,
            tuple(sorted((*self.largest, *other.largest), reverse=True)[:NUM_LARGEST]),
        )


def with_both_splits(layout: Layout, found: Census, dropped: str = "") -> Layout:
    """Returns the layout, changed if a split would be empty.

    If no article was drawn, holds out the one closest to the wanted size; if all were, all but one;
    of a single article, its last sentences. Raises StageError, with the dropped text, for fewer
    than two sentences.
    """
    if found.num_sentences < 2:
        articles = "no article" if found.highest < 0 else "one article of one sentence"
        raise StageError(
            f"the sources hold {articles}{dropped and f' ({dropped})'}, expected at least two "
            "sentences: one to train on and one held out"
        )
    if found.lowest == found.highest:
        num_held_out = round(found.num_sentences * layout.test_draws / HASH_RANGE)
        first = found.num_sentences - min(max(1, num_held_out), found.num_sentences - 1)
        return replace(layout, first_test_sentence=first)
    if found.lowest >= layout.test_draws:
        return replace(layout, held_out_draw=found.nearest[1])
    return replace(layout, test_draws=min(layout.test_draws, found.highest))
