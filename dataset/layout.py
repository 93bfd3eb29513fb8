"""Which split and which shard an article belongs to, and how many shards there are."""

import hashlib
from dataclasses import dataclass, replace

from pipeline.errors import StageError

SHARD_BYTES = 32 << 20  # of text in a shard of a large corpus
MIN_SHARD_BYTES = 256 << 10  # below this, more shards would not pay
MIN_SHARDS = 16  # as long as they are not too small: work for all cores
HASH_RANGE = 1 << 64


@dataclass(frozen=True)
class Layout:
    """Where articles go. An article whose draw is below test_draws / 2^64 is held out."""

    seed: int
    test_draws: int
    num_train_shards: int
    num_test_shards: int

    def draw(self, name: str, position: int) -> tuple[int, int]:
        """Two independent uniform integers below 2^64, for the split and for the shard."""
        identity = f"{self.seed}\0{name}\0{position}".encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(identity, digest_size=16).digest()
        return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")

    def place(self, draw: tuple[int, int]) -> tuple[str, int]:
        """(split, number of the shard) of an article."""
        if draw[0] < self.test_draws:
            return "test", draw[1] % self.num_test_shards
        return "train", draw[1] % self.num_train_shards


def num_shards(num_bytes: float) -> int:
    """Shards that fit: of about 32 MB; smaller ones, up to 16, if there is less than 512 MB."""
    for_cores = min(MIN_SHARDS, int(num_bytes // MIN_SHARD_BYTES))
    return max(1, for_cores, round(num_bytes / SHARD_BYTES))


def plan_layout(
    num_bytes: int, num_train_shards: int, num_test_shards: int, frac_test: float, seed: int
) -> Layout:
    """The layout for a corpus of `num_bytes`; a number of shards of 0 means as many as fit."""
    return Layout(
        seed=seed,
        test_draws=int(frac_test * HASH_RANGE),
        num_train_shards=num_train_shards or num_shards(num_bytes * (1 - frac_test)),
        num_test_shards=num_test_shards or num_shards(num_bytes * frac_test),
    )


def with_both_splits(layout: Layout, draws: list[list[int]]) -> Layout:
    """The layout, or one in which just the lowest draw is held out, or all but the highest.

    draws: [smallest, largest] of each run that has articles. Raises StageError if these are fewer
    than two.
    """
    lowest = min((low for low, _ in draws), default=0)
    highest = max((high for _, high in draws), default=0)
    if lowest == highest:
        raise StageError(
            f"the sources hold {'one article' if draws else 'no article'}, expected at least two: "
            "one to train on and one held out (articles are separated by blank lines)"
        )
    test_draws = min(max(layout.test_draws, lowest + 1), highest)
    return replace(layout, test_draws=test_draws)
