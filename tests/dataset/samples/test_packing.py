"""Rows of tokens: no token is lost, whatever the lengths, packed or not."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.samples.packing import RowFormat, iter_row_blocks, iter_samples
from dataset.shards.passages import iter_passage, whole_shard

CLS, SEP, PAD = 2, 3, 0
TOKENS = st.lists(st.integers(5, 99), max_size=40)
ARTICLES = st.lists(st.lists(TOKENS, min_size=1, max_size=4), max_size=10)


def row_format(length=10, short_seq_prob=0.0, packed=False):
    return RowFormat(length, short_seq_prob, packed, CLS, SEP, PAD)


def pieces(articles):
    """Articles, each a list of pieces, as `iter_article_tokens` gives them."""
    return [
        (np.array(ids, dtype=np.uint16), number == len(article))
        for article in articles
        for number, ids in enumerate(article, start=1)
    ]


def make_rows(articles, form):
    counts = Counter()
    samples = iter_samples(pieces(articles), form, np.random.default_rng(0))
    blocks = list(iter_row_blocks(samples, form, counts))
    if not blocks:
        empty = np.zeros((0, form.max_seq_length), dtype=int)
        return {"input_ids": empty, "input_mask": empty}, counts
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, counts


def samples_of(rows):
    """Token ids of every sample, in order, after a look at [CLS], [SEP] and padding."""
    samples = []
    for ids, mask in zip(rows["input_ids"], rows["input_mask"], strict=True):
        numbers = [number for number in np.unique(mask).tolist() if number]
        assert numbers == list(range(1, len(numbers) + 1))
        assert (ids[mask == 0] == PAD).all()
        assert (np.diff(mask[mask > 0].astype(int)) >= 0).all() and mask[0] == 1
        for number in numbers:
            sample = ids[mask == number].tolist()
            assert sample[0] == CLS and sample[-1] == SEP
            samples.append(sample[1:-1])
    return samples


@pytest.mark.slow
@settings(deadline=None)
@given(
    ARTICLES, st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.sampled_from([4, 8, 33, 100, 300])
)
def test_no_token_is_lost_and_articles_are_not_mixed(articles, short_seq_prob, packed, length):
    form = row_format(length, short_seq_prob, packed)
    rows, counts = make_rows(articles, form)
    samples = samples_of(rows)
    assert all(0 < len(sample) <= length - 2 for sample in samples)
    rest = iter(samples)
    for article in articles:
        tokens = [token for piece in article for token in piece]
        found = []
        while len(found) < len(tokens):
            found += next(rest)
        assert found == tokens
    assert next(rest, None) is None
    assert counts["samples"] == len(samples) and counts["rows"] == len(rows["input_ids"])
    assert counts["tokens"] == sum(map(len, samples))
    assert counts["padding"] == (rows["input_mask"] == 0).sum()
    assert counts["tokens"] + counts["specials"] + counts["padding"] == rows["input_ids"].size
    assert sum(counts[f"length_{number:02d}"] for number in range(16)) == len(samples)


def test_samples_are_full_without_short_ones():
    rows, _ = make_rows([[[7] * 20]], row_format())
    assert [len(sample) for sample in samples_of(rows)] == [8, 8, 4]


def test_share_of_short_samples():
    rows, _ = make_rows([[[7] * 10**6]], row_format(128, 0.1))
    lengths = [len(sample) for sample in samples_of(rows)]
    assert 0.08 < np.mean([length < 126 for length in lengths]) < 0.12
    assert min(lengths[:-1]) >= 2


@pytest.mark.parametrize(("length", "short_seq_prob"), [(128, 0.0), (128, 0.1), (512, 0.1)])
def test_packed_rows_are_full(length, short_seq_prob):
    lengths = np.random.default_rng(3).integers(1, 120, 3000)
    articles = [[[9] * int(size)] for size in lengths]
    loose, _ = make_rows(articles, row_format(length, short_seq_prob))
    packed, _ = make_rows(articles, row_format(length, short_seq_prob, packed=True))
    assert (packed["input_mask"][:-1] > 0).mean() > 0.99  # the last row has to end somewhere
    assert len(packed["input_ids"]) < 0.75 * len(loose["input_ids"])


def test_rows():
    rows, counts = make_rows([[[5]], [[5, 6, 7, 8, 9, 10, 11, 12]]], row_format())
    assert rows["input_ids"].tolist() == [
        [2, 5, 3, 0, 0, 0, 0, 0, 0, 0],
        [2, 5, 6, 7, 8, 9, 10, 11, 12, 3],
    ]
    assert rows["input_mask"].tolist() == [[1] * 3 + [0] * 7, [1] * 10]
    assert (counts["samples"], counts["tokens"], counts["padding"]) == (2, 9, 7)


def test_packed_rows():
    rows, _ = make_rows([[[5]], [[6, 7, 8, 9, 10, 11]], [[12]]], row_format(packed=True))
    assert rows["input_ids"].tolist() == [
        [2, 5, 3, 2, 6, 7, 8, 9, 10, 3],
        [2, 11, 3, 2, 12, 3, 0, 0, 0, 0],
    ]
    assert rows["input_mask"].tolist() == [[1] * 3 + [2] * 7, [1] * 3 + [2] * 3 + [0] * 4]


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.lists(st.text("ab\u2028\xa0é", min_size=1), min_size=1), max_size=8),
    st.integers(1, 30),
)
def test_articles_in_any_block_size(tmp_path_factory, articles, read_bytes):
    path = tmp_path_factory.mktemp("shard") / "train_00000.txt"
    path.write_text("".join("\n".join([*article, "\n"]) for article in articles))
    found, lines = [], []
    for text, ends in iter_passage(whole_shard(path), read_bytes):
        lines += [line for line in text.decode().split("\n") if line]
        if ends:
            found.append(lines)
            lines = []
    assert [article for article in found if article] == articles and not lines


def test_a_long_article_comes_in_pieces_at_line_ends(tmp_path):
    path = tmp_path / "train_00000.txt"
    path.write_text("One line.\n" * 100 + "\n" + "Short.\n\n")
    found = list(iter_passage(whole_shard(path), read_bytes=64))
    assert len(found) > 5 and [ends for _, ends in found].count(True) == 2
    assert all(text.endswith(b"line.") for text, ends in found if not ends)
    assert b"".join(text for text, _ in found) == b"One line.\n" * 99 + b"One line." + b"Short."
    assert max(len(text) for text, _ in found) <= 3 * 64
    assert all(a or not b for (_, a), (_, b) in pairwise(found[-1:]))
