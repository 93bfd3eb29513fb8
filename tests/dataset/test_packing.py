"""Token rows: no token is lost, whatever the lengths."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.packing import RowFormat, as_rows, iter_article_tokens, iter_articles, iter_samples

FORMAT = RowFormat(max_seq_length=10, short_seq_prob=0.5, cls_id=2, sep_id=3, pad_id=0)
SENTENCES = st.lists(st.integers(5, 99), max_size=25)
ARTICLES = st.lists(st.lists(SENTENCES, min_size=1, max_size=5), max_size=10)


def pieces(articles):
    return [
        (ids, number == len(article))
        for article in articles
        for number, ids in enumerate(article, start=1)
    ]


@settings(deadline=None)
@given(ARTICLES, st.sampled_from([0.0, 0.5, 1.0]))
def test_no_token_is_lost_and_articles_are_not_mixed(articles, short_seq_prob):
    row_format = RowFormat(10, short_seq_prob, 2, 3, 0)
    samples = list(iter_samples(pieces(articles), row_format, np.random.default_rng(0)))
    assert all(0 < len(sample) <= 8 for sample in samples)
    rest = iter(samples)
    for article in articles:
        tokens = [token for sentence in article for token in sentence]
        found = []
        while len(found) < len(tokens):
            found += next(rest)
        assert found == tokens
    assert next(rest, None) is None


def test_samples_are_full_without_short_ones():
    row_format = RowFormat(10, 0.0, 2, 3, 0)
    samples = list(iter_samples([([7] * 20, True)], row_format, np.random.default_rng(0)))
    assert [len(sample) for sample in samples] == [8, 8, 4]


def test_share_of_short_samples():
    row_format = RowFormat(128, 0.1, 2, 3, 0)
    samples = list(iter_samples([([7] * 10**6, True)], row_format, np.random.default_rng(0)))
    short = np.mean([len(sample) < 126 for sample in samples])
    assert 0.08 < short < 0.12
    assert min(map(len, samples[:-1])) >= 2


def test_rows():
    counts = Counter()
    rows = as_rows([[5], [5, 6, 7, 8, 9, 10, 11, 12]], FORMAT, counts)
    assert rows.tolist() == [
        [2, 5, 3, 0, 0, 0, 0, 0, 0, 0],
        [2, 5, 6, 7, 8, 9, 10, 11, 12, 3],
    ]
    assert counts == {"samples": 2, "tokens": 9, "padding": 7}


@pytest.mark.parametrize("batch_characters", [1, 20, 10**6])
def test_article_tokens_in_any_batch_size(tmp_path, monkeypatch, batch_characters):
    monkeypatch.setattr("dataset.packing.BATCH_CHARACTERS", batch_characters)
    path = tmp_path / "train_00000.txt"
    path.write_text("ab c\nd\n\nef\n\n\ng\u2028h\n")
    assert list(iter_articles(path)) == [["ab c", "d"], ["ef"], ["g\u2028h"]]
    encode = lambda batch: [[len(sentence)] for sentence in batch]  # noqa: E731
    found = list(iter_article_tokens(path, encode))
    assert found == [([4], False), ([1], True), ([2], True), ([3], True)]
