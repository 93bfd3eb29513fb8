"""Word counts: exact for small texts, bounded for large ones."""

import random
from collections import Counter

from dataset.shards.passages import whole_shard
from dataset.tokenizers.word_counts import (
    BLOCK_BYTES,
    CONTINUES,
    LONGEST_WORD,
    BoundedCounts,
    count_words,
    iter_blocks,
)


def test_counts_are_exact_below_the_capacity_and_bounded_above():
    table = BoundedCounts(1000)
    table.add({"the": 5, "a": 3})
    table.add({"the": 1})
    assert dict(table.items()) == {"the": 6, "a": 3}
    rng = random.Random(0)
    for _ in range(100):
        rare = {f"w{rng.randrange(10**9)}": 1 for _ in range(200)}
        table.add({"the": 100, "of": 50, **rare})
        assert len(table.counts) <= 1202
    counts = dict(table.items())
    assert (counts["the"], counts["of"]) == (10006, 5000)
    tail = sum(counts.values()) - counts["the"] - counts["of"]
    assert 10_000 < tail < 40_000  # the sample stands for all 20,000


def test_long_words_are_cut():
    text = "short " + "x" * LONGEST_WORD + " " + "0123456789abcdefghijklmnopqrst"
    counts = count_words(text)
    pieces = ["01234567", CONTINUES + "89abcdef", CONTINUES + "ghijklmn", CONTINUES + "opqrst"]
    assert counts == Counter(["short", "x" * LONGEST_WORD, *pieces])


def test_all_text_once_or_an_even_share(tmp_path):
    paths, lines = [tmp_path / name for name in "abc"], []
    for path in paths:
        own = [f"{path.name} line {i} é" + "\n" * (1 + i % 2) for i in range(60_000)]
        path.write_text("".join(own), encoding="utf-8")
        lines += own
    assert all(path.stat().st_size > BLOCK_BYTES for path in paths)
    passages = list(map(whole_shard, paths))
    assert "".join(iter_blocks(passages, 1 << 40)) == "".join(lines)
    sample = list(iter_blocks(passages, 300_000))
    assert 250_000 < sum(len(block.encode()) for block in sample) < 350_000
    read = [line for block in sample for line in block.split("\n") if line]
    assert len(set(read)) == len(read) and set(read) <= {line.strip("\n") for line in lines}
    of_each = Counter(line[0] for line in read)
    assert min(of_each.values()) > 0.25 * len(read)
