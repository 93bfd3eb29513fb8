"""Reads text shards: whole ones, the text of one source, and a drawn part of its articles.

A text shard holds the sources one after the other, in their order: the text of a source is a range
of its bytes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from dataset.sources.article_stream import find_cut

READ_BYTES = 1 << 20  # of text at once
LONGEST_LINE = 4 << 20  # bytes; sharding cuts lines at 1/4 of it, other text may have no line end
NUM_DRAWS = 1 << 14  # a source is cut in steps of this fraction of its articles


@dataclass(frozen=True)
class Passage:
    """The articles in the bytes [begin, end) of a text shard.

    below: only those with a smaller draw; NUM_DRAWS: all. key: of the draws, the same for all
    passages of a source.
    """

    path: Path
    begin: int
    end: int
    below: int = NUM_DRAWS
    key: str = ""

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin

    def draw(self, number: int) -> int:
        """Returns a uniform integer below NUM_DRAWS for an article, by its number in the range."""
        identity = f"{self.key}\0{self.path.stem}\0{number}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "big") % NUM_DRAWS


def whole_shard(path: Path) -> Passage:
    """Returns the passage of all articles of a text shard."""
    return Passage(path, 0, path.stat().st_size)


def passages_by_source(
    shards: Mapping[str, Mapping[str, Any]], folder: Path, seed: int
) -> list[tuple[Passage, ...]]:
    """Returns, for each source, its passage in each training shard, in the shards' order.

    shards: of the summary by `write_text_shards`, counted by source.
    """
    names = sorted((n for n in shards if n.startswith("train")), key=lambda n: (len(n), n))
    borders = {
        name: list(pairwise(accumulate((x["bytes"] for x in shards[name]["by_source"]), initial=0)))
        for name in names
    }
    num_sources = len(borders[names[0]])
    return [
        tuple(
            Passage(folder / name, *borders[name][source], key=f"{seed}\0{source}")
            for name in names
        )
        for source in range(num_sources)
    ]


def iter_passage(passage: Passage, read_bytes: int = READ_BYTES) -> Iterator[tuple[bytes, bool]]:
    """Yields (text, True at the end of an article), with a sentence per line.

    To bound memory, a long article comes in pieces of about `read_bytes`. Joined, they are the
    article: the white space at a cut begins the next piece.
    """
    articles = _iter_range(passage, read_bytes)
    if passage.below >= NUM_DRAWS:
        yield from articles
        return
    number = 0
    for text, ends in articles:
        if passage.draw(number) < passage.below:
            yield text, ends
        number += ends


def _iter_range(passage: Passage, read_bytes: int) -> Iterator[tuple[bytes, bool]]:
    rest, left = b"", passage.num_bytes
    with open(passage.path, "rb") as file:
        file.seek(passage.begin)
        while block := file.read(min(read_bytes, left)):
            left -= len(block)
            *articles, rest = (rest + block).split(b"\n\n")
            yield from ((article, True) for article in articles)
            cut = rest.rfind(b"\n", 1, -1) if len(rest) > read_bytes else -1
            if cut < 0 and len(rest) > LONGEST_LINE:
                cut = find_cut(rest, 0, len(rest) - 1)
                cut -= cut > 1 and rest[cut - 1] in b" \t\n"
            if cut > 0:
                yield rest[:cut], False
                rest = rest[cut:]
    if rest.strip():
        yield rest, True
