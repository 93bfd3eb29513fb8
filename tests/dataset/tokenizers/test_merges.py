"""Merges are those of a plain implementation."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.tokenizers.merges import learn_merges


def merged_the_obvious_way(words, entries, vocab_size):
    words, entries = [(list(ids), count) for ids, count in words], list(entries)
    while len(entries) < vocab_size:
        pairs = Counter()
        for ids, count in words:
            for pair in pairwise(ids):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < 2:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        entry = entries[left] + entries[right]
        if entry not in entries:
            entries.append(entry)
        for ids, _ in words:
            at = 0
            while at < len(ids) - 1:
                if ids[at] == left and ids[at + 1] == right:
                    ids[at : at + 2] = [entries.index(entry)]
                at += 1
    return entries


@given(st.dictionaries(st.text("abc", min_size=1, max_size=7), st.integers(1, 9), max_size=8))
@settings(max_examples=200, deadline=None)
def test_merges_are_those_of_the_obvious_way(counts):
    """Where no two pairs make the same entry and words overlap themselves (`aaa`) alike."""
    words = [(["abc".index(c) for c in word], count) for word, count in counts.items()]
    expected = merged_the_obvious_way(words, "abc", 12)
    entries = list("abc")
    merges = learn_merges([(list(ids), n) for ids, n in words], entries, 12, str.__add__)
    assert entries == expected
    assert len(set(merges)) == len(merges)
    assert {left + right for left, right in merges} == set(entries[3:])
