"""Next-sentence samples: labels are right, and no token is lost."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.samples.next_sentence import iter_pair_blocks, iter_pairs
from dataset.samples.packing import RowFormat
from dataset.shards.passages import whole_shard

SENTENCE = st.lists(st.integers(5, 99), min_size=1, max_size=30)
ARTICLES = st.lists(st.lists(SENTENCE, min_size=1, max_size=6), min_size=1, max_size=8)


def form(length, short_seq_prob=0.0):
    return RowFormat(length, short_seq_prob, False, cls_id=2, sep_id=3, pad_id=0)


def encode(lines):
    return [np.array(line.split(), dtype=np.uint16) for line in lines]


def make_pairs(folder, articles, row_format, seed=0):
    path = folder / "train_00000.txt"
    text = "\n\n".join("\n".join(" ".join(map(str, s)) for s in article) for article in articles)
    path.write_text(text + "\n\n")
    return list(iter_pairs([whole_shard(path)], encode, row_format, np.random.default_rng(seed)))


@settings(deadline=None)
@given(articles=ARTICLES, length=st.sampled_from([8, 16, 64]), short=st.sampled_from([0.0, 0.5]))
def test_labels_are_right_and_no_token_is_lost(tmp_path_factory, articles, length, short):
    pairs = make_pairs(tmp_path_factory.mktemp("nsp"), articles, form(length, short))
    stream = [token for article in articles for sentence in article for token in sentence]
    found = []
    for pair in pairs:
        assert len(pair.first) >= 1 and len(pair.first) + len(pair.second) <= length - 3
        found += pair.first.tolist()
        if not pair.is_random:
            found += pair.second.tolist()
    assert found == stream


def test_random_segments_come_from_earlier_articles(tmp_path):
    articles = [[[10 + number] * 7] * 9 for number in range(40)]
    pairs = make_pairs(tmp_path, articles, form(32))
    for pair in pairs:
        same = set(pair.first.tolist()) == set(pair.second.tolist())
        assert same != pair.is_random or not len(pair.second)
        assert not pair.is_random or pair.second.max() < pair.first.min()
    assert 0.35 < np.mean([pair.is_random for pair in pairs]) < 0.7


def test_a_single_long_article_has_random_segments_too(tmp_path):
    article = [[5 + number % 90] * 20 for number in range(3000)]
    pairs = make_pairs(tmp_path, [article], form(64))
    assert 0.4 < np.mean([pair.is_random for pair in pairs]) < 0.6


def test_one_endless_sentence(tmp_path):
    sentence = list(np.random.default_rng(0).integers(5, 99, 20_000))
    pairs = make_pairs(tmp_path, [[sentence], [[7]]], form(32))
    found = [t for pair in pairs for t in pair.first] + [
        t for pair in pairs if not pair.is_random for t in pair.second
    ]
    assert sorted(found) == sorted([*sentence, 7])


def test_rows(tmp_path):
    articles = [[[5, 6], [7, 8, 9]], [[10], [11]]]
    pairs = make_pairs(tmp_path, articles, form(10), seed=1)
    counts = Counter()
    (rows,) = iter_pair_blocks(pairs, form(10), counts)
    for row, pair in enumerate(pairs):
        ids = [2, *pair.first, 3, *pair.second, 3]
        used = len(ids)
        assert rows["input_ids"][row].tolist() == ids + [0] * (10 - used)
        assert rows["input_mask"][row].tolist() == [1] * used + [0] * (10 - used)
        second = len(pair.second) + 1
        assert rows["segment_ids"][row].tolist() == (
            [0] * (used - second) + [1] * second + [0] * (10 - used)
        )
        assert rows["next_sentence_labels"][row] == pair.is_random
    assert counts["tokens"] + counts["specials"] + counts["padding"] == rows["input_ids"].size
    assert counts["tokens"] == sum(len(pair.first) + len(pair.second) for pair in pairs)


@pytest.mark.parametrize("articles", [[[[5]]], [[[5]], [[6]]]])
def test_tiny_corpora(tmp_path, articles):
    pairs = make_pairs(tmp_path, articles, form(8))
    assert [pair.first.tolist() for pair in pairs] == [article[0] for article in articles]
