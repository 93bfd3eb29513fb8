"""The mixture of the training text by DATASET.WEIGHTS: how often each article is taken.

The mixture has as many tokens as the training text of all sources together; each source gets its
share of them. All articles of a source are taken equally often, and a drawn part of them once more.
The articles are drawn by a hash, so the part with the next higher weight contains the smaller one.
Held-out text is not mixed.

The nth copy of an article belongs to the samples of another shard than its first, as pretraining
shuffles the samples within a shard.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from dataset.shards.passages import NUM_DRAWS, Passage
from pipeline.errors import StageError

KEY = "DATASET.WEIGHTS"
MOST_TIMES = 1000  # an article is taken
FAR_OFF = 0.02  # of the share: a warning


def shares_of(weights: Sequence[float]) -> list[float]:
    """Returns the weights divided by their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True)
class SourceTokens:
    """Tokens of a source's training articles. by_draw: of the articles with each draw."""

    name: str
    by_draw: Sequence[int]

    @property
    def total(self) -> int:
        return sum(self.by_draw)


@dataclass(frozen=True)
class Taken:
    """The part of a source in the mixture.

    Each article is taken `copies` times, and those with a draw below `below` once more. num_tokens:
    of the part.
    """

    copies: int
    below: int
    num_tokens: int


def choose(sources: Sequence[SourceTokens], weights: Sequence[float]) -> list[Taken]:
    """Returns the part of each source that comes closest to its share of the tokens.

    At least one article of each source is taken. Raises StageError, naming the source, if one has
    no tokens, or is too small for its weight.
    """
    total = sum(source.total for source in sources)
    taken = []
    for source, share in zip(sources, shares_of(weights), strict=True):
        if not source.total:
            raise StageError(
                f"{KEY}: {source.name} has no tokens to train on (too few articles, or all of them "
                "held out), expected some of each source; leave it out, or join it with another"
            )
        if total * share > MOST_TIMES * source.total:
            raise StageError(
                f"{KEY}: {source.name} would be taken {total * share / source.total:,.0f} times, "
                f"expected at most {MOST_TIMES:,} times; its {source.total:,} tokens are too few "
                f"for {share:.2%} of all {total:,}"
            )
        taken.append(_closest(source, total * share))
    return taken


def _closest(source: SourceTokens, wanted: float) -> Taken:
    copies = int(wanted // source.total)
    rest = wanted - copies * source.total
    sums = list(accumulate(source.by_draw, initial=0))
    above = min(bisect_left(sums, rest), NUM_DRAWS)
    below = min(max(above - 1, 0), above, key=lambda draw: abs(sums[draw] - rest))
    if not copies and not sums[below]:
        below = bisect_right(sums, 0)  # the first article
    if sums[below] == source.total:
        return Taken(copies + 1, 0, (copies + 1) * source.total)
    return Taken(copies, below if sums[below] else 0, copies * source.total + sums[below])


@dataclass(frozen=True)
class Mixture:
    """The chosen parts of all sources.

    passages: of each source, one in each training shard. tokens, weights, taken: of each source.
    """

    passages: Sequence[Sequence[Passage]]
    tokens: Sequence[SourceTokens]
    weights: Sequence[float]
    taken: Sequence[Taken]

    def text_of(self, shard: int) -> tuple[Passage, ...]:
        """Returns the text of the samples of a training shard, by its number.

        First copies are from the shard itself, second ones from the next shard, etc.
        """
        found = []
        for copy in range(max(part.copies for part in self.taken) + 1):
            for passages, part in zip(self.passages, self.taken, strict=True):
                passage = passages[(shard + copy) % len(passages)]
                if copy == part.copies:
                    passage = replace(passage, below=part.below)
                if copy <= part.copies and passage.num_bytes and passage.below:
                    found.append(passage)
        return tuple(found)

    def contributions(self, shards: Mapping[str, Mapping]) -> list[dict]:
        """Returns the numbers of each source for the manifest and the card.

        shards: of the summary by `write_text_shards`, counted by source. In the result, articles,
        bytes and tokens are those of the training text, each counted once; times: taken, on
        average; share: of the tokens in the mixture.
        """
        total = sum(part.num_tokens for part in self.taken)
        shares = shares_of(self.weights)
        return [
            {
                "name": source.name,
                "weight": self.weights[number],
                "articles": _count(shards, "train", number, "articles"),
                "bytes": _count(shards, "train", number, "bytes"),
                "tokens": source.total,
                "times": part.num_tokens / source.total,
                "tokens_taken": part.num_tokens,
                "share": part.num_tokens / total,
                "wanted_share": shares[number],
                "held_out_articles": _count(shards, "test", number, "articles"),
                "held_out_bytes": _count(shards, "test", number, "bytes"),
            }
            for number, (source, part) in enumerate(zip(self.tokens, self.taken, strict=True))
        ]


def _count(shards: Mapping[str, Mapping], split: str, source: int, column: str) -> int:
    found = (counts for name, counts in shards.items() if name.startswith(split))
    return sum(counts["by_source"][source][column] for counts in found)
