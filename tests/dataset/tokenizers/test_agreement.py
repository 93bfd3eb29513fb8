"""Differences between two readers of a tokenizer."""

from dataset.tokenizers.agreement import find_difference


def test_a_difference_is_cut_down_to_the_words_that_matter():
    def count(some):
        return [[len(word) for word in text.split(" ")] for text in some]

    def count_otherwise(some):
        return [[0 if "x y" in text else len(word) for word in text.split(" ")] for text in some]

    ours, theirs = ("one", count), ("another", count_otherwise)
    found = find_difference(ours, theirs, ["a bb", "ccc x y dd e f"], str)
    assert found == "`x y` is 1 1 (1, 1) to one, but 0 0 (0, 0) to another"
    assert find_difference(ours, ours, ["a bb", ""], str) == ""
