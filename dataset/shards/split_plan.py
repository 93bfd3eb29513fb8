"""Which split and which shard an article belongs to, and how many shards there are."""

import hashlib
import struct
from dataclasses import dataclass, replace

from dataset.sources.article_stream import PIECE_BYTES
from pipeline.errors import StageError

SHARD_BYTES = 32 << 20  # of text in a shard of a large corpus
MAX_SHARDS = 4096  # of a very large one, whose shards are larger
MIN_SHARD_BYTES = 256 << 10  # below this, more shards would not pay
MIN_SHARDS = 16  # as long as they are not too small: work for all cores
MIN_SECTION_BYTES = 16 << 10  # shorter articles stay whole, however many shards are asked for
NUM_LARGEST = 10  # articles whose sizes are kept
HASH_RANGE = 1 << 64
TWO_NUMBERS = struct.Struct(">2Q")


@dataclass(frozen=True)
class Layout:
    """Where articles go. An article whose draw is below test_draws / 2^64 is held out.

    section_bytes: an article that is longer is spread over shards in sections of this size.
    test_bytes: of text that should be held out. held_out_draw: an article that is held out, too.
    first_test_sentence: if the corpus is a single article, its sentences from this one on are
    held out; 0: articles are held out as a whole.
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
        """Most that is read of an article at once."""
        return min(PIECE_BYTES, self.section_bytes)

    def draw(self, name: str, position: int) -> tuple[int, int]:
        """Two independent uniform integers below 2^64, for the split and for the shard."""
        identity = f"{self.seed}\0{name}\0{position}".encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(identity, digest_size=16).digest()
        return TWO_NUMBERS.unpack(digest)

    def holds_out(self, draw: tuple[int, int]) -> bool:
        """Whether an article, or the first sentences of the only one, are not for training."""
        if self.first_test_sentence:
            return False
        return draw[0] < self.test_draws or draw[0] == self.held_out_draw

    def place(self, draw: tuple[int, int], held_out: bool, section: int = 0) -> int:
        """Number of the shard of an article's section: those for training come first."""
        if held_out:
            return self.num_train_shards + (draw[1] + section) % self.num_test_shards
        return (draw[1] + section) % self.num_train_shards

    def shard_names(self) -> list[str]:
        """File names by number."""
        return [
            *(shard_name("train", shard) for shard in range(self.num_train_shards)),
            *(shard_name("test", shard) for shard in range(self.num_test_shards)),
        ]


def shard_name(split: str, shard: int) -> str:
    return f"{split}_{shard:05d}.txt"


def num_shards(num_bytes: float, shard_bytes: float = SHARD_BYTES) -> int:
    """Shards that fit: of about 32 MB; smaller ones, up to 16, if there is less than 512 MB."""
    for_cores = min(MIN_SHARDS, int(num_bytes // MIN_SHARD_BYTES))
    return max(1, for_cores, round(num_bytes / shard_bytes))


def plan_layout(
    num_bytes: int, num_train_shards: int, num_test_shards: int, frac_test: float, seed: int
) -> Layout:
    """The layout for a corpus of `num_bytes`; a number of shards of 0 means as many as fit."""
    shard_bytes = max(SHARD_BYTES, num_bytes / MAX_SHARDS)
    train_bytes = num_bytes * (1 - frac_test)
    num_train_shards = num_train_shards or num_shards(train_bytes, shard_bytes)
    return Layout(
        seed=seed,
        test_draws=int(frac_test * HASH_RANGE),
        num_train_shards=num_train_shards,
        num_test_shards=num_test_shards or num_shards(num_bytes * frac_test, shard_bytes),
        section_bytes=max(MIN_SECTION_BYTES, int(train_bytes / num_train_shards)),
        test_bytes=int(num_bytes * frac_test),
    )


@dataclass(frozen=True)
class Census:
    """The articles of a run, or of the corpus, as far as both splits depend on them.

    lowest, highest: of the draws for the split. nearest: difference between an article's size and
    what should be held out, and its draw; of the article where it is least. largest: sizes of the
    largest articles that are held out, as far as they are held out as a whole.
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
            min(tuple(self.nearest), tuple(other.nearest)),
            self.num_sentences + other.num_sentences,
            tuple(sorted((*self.largest, *other.largest), reverse=True)[:NUM_LARGEST]),
        )


def with_both_splits(layout: Layout, found: Census, dropped: str = "") -> Layout:
    """The layout, or one that leaves no split empty.

    If no article was drawn for it, the one whose size is nearest to what should be held out is;
    if all were, all but one; of a single article, its last sentences are held out.
    Raises StageError, with what was dropped, if there are fewer than two sentences.
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
