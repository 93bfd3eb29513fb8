"""Windows over long texts: each word is in one of them, no token is lost, whatever the words."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.tagging.sentences import Sentence
from finetune.task_types.windows import (
    encode_words,
    first_tokens,
    owning_windows,
    window_starts,
)
from tests.finetune.task_types.tokenizers_of_words import TOKENIZERS, examples_of

WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["", " ", "Mary", "St.", "\u200b", "\u0301", "e\u0301", "\x1f", "[SEP]", "日本", "x" * 300]
)
SENTENCE = st.lists(WORD, min_size=1, max_size=12) | st.just(["Oslo", "Ives,", "\u200b"] * 100)


@given(st.integers(0, 400), st.integers(1, 40))
@example(41, 40)
def test_windows_cover_a_text_evenly_and_overlap(length, size):
    starts = window_starts(length, size)
    assert starts[0] == 0 and starts[-1] == max(0, length - size)
    steps = np.diff(starts)
    if len(starts) > 1:
        assert steps.min() > 0 and steps.max() <= size - size // 4
        assert steps.max() - steps.min() <= 1


@given(st.data(), st.integers(1, 120), st.integers(1, 30))
def test_a_word_belongs_to_the_window_with_the_most_around_it(data, length, size):
    there = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1)))
    starts = window_starts(length, size)
    found = owning_windows(np.array([*there, -1]), starts, size, length)
    assert found[-1] == -1
    for first, stop, owner in zip(there, [*there[1:], length], found, strict=False):
        contexts = {}
        for number, start in enumerate(starts):
            if start <= first < start + size:
                before = first - start if start else np.inf
                after = start + size - stop if start + size < length else np.inf
                contexts[number] = min(before, after)
        assert owner == max(contexts, key=contexts.__getitem__)  # of equals the first


def test_context_is_on_both_sides():
    starts = window_starts(1000, 100)
    owners = owning_windows(np.arange(1000), starts, 100, 1000)
    inner = np.arange(1000) - starts[owners]
    has_before, has_after = starts[owners] > 0, starts[owners] < 900
    assert inner[has_before].min() >= 12 and inner[has_after].max() <= 87


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(TOKENIZERS)), st.lists(SENTENCE, min_size=1, max_size=3))
def test_windows_reassemble_to_the_whole_text(name, sentences):
    tokenizer = TOKENIZERS[name]
    examples = examples_of(sentences)
    data = encode_words(tokenizer, examples, 12, token_types=True)
    whole = encode_words(tokenizer, examples, 10**6, token_types=True)
    assert len(whole) == len(sentences) == len(data.counts) == len(data.texts) - 1
    assert data.lengths.max() <= 12 and data.lengths.min() >= 2
    ids, of_whole = data.columns["input_ids"], whole.columns["input_ids"]
    assert len(data.firsts) == sum(map(len, sentences))
    there = data.firsts >= 0
    assert (there == (whole.firsts >= 0)).all()
    assert (ids[data.firsts[there]] == of_whole[whole.firsts[there]]).all()
    assert len(set(data.firsts[there])) == there.sum()  # each word has a token of its own
    for number, (start, stop) in enumerate(zip(whole.offsets, whole.offsets[1:], strict=False)):
        text = examples.texts[number][0]
        assert of_whole[start:stop].tolist() == tokenizer(text)["input_ids"]
    ends = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    for start, stop in zip(data.offsets, data.offsets[1:], strict=False):
        assert [ids[start], ids[stop - 1]] == ends
    assert (data.counts == whole.counts).all() and not data.counts[:, 1].any()


@pytest.mark.parametrize("name", sorted(set(TOKENIZERS) - {"across_words"}))
def test_the_first_token_of_a_word_begins_it(name):
    tokenizer = TOKENIZERS[name]
    words = ["x", "Mary", "St.", "Oslo;", "'s", "日本"]
    data = encode_words(tokenizer, examples_of([words]), 100, token_types=False)
    assert list(data.columns) == ["input_ids"]
    ids = data.columns["input_ids"]
    for word, first in zip(words[1:], data.firsts[1:], strict=True):
        alone = tokenizer(f"x {word}", add_special_tokens=False)["input_ids"]
        begun = len(tokenizer("x", add_special_tokens=False)["input_ids"])
        assert ids[first : first + len(alone) - begun].tolist() == alone[begun:]


def test_a_text_with_spans_is_tokenized_as_it_is_written():
    tokenizer = TOKENIZERS["byte_level"]
    text, offsets = "St. Ives's", ((0, 2), (2, 3), (4, 8), (8, 9), (9, 10))
    words = tuple(text[start:stop] for start, stop in offsets)
    examples = examples_of([Sentence(words, None, "", 1, offsets=offsets)])
    assert examples.texts == [(text,)]
    assert examples.words[0].tolist() == [list(pair) for pair in offsets]
    data = encode_words(tokenizer, examples, 100, token_types=False)
    assert data.columns["input_ids"].tolist() == tokenizer(text)["input_ids"]


def test_a_token_between_words_belongs_to_the_next_one():
    words = np.array([[0, 2], [3, 4], [5, 5], [6, 8]])
    tokens = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [5, 6], [8, 8]])
    assert first_tokens(words, tokens).tolist() == [0, 2, -1, 4]


def test_words_without_tokens_count_as_unknown():
    data = encode_words(
        TOKENIZERS["word_piece"], examples_of([["a\u200b", "\u200b", "#"]]), 9, False
    )
    assert data.counts.tolist() == [[2, 0, 1, 4, 2]]  # one character lost, one unknown
    assert data.firsts.tolist() == [1, -1, 2] and data.unknown_words == ("#",)
