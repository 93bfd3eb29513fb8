"""The mixture by DATASET.WEIGHTS: which articles of which source are taken, and how often."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataset.samples.mixture import MOST_TIMES, Mixture, SourceTokens, choose, shares_of
from dataset.samples.token_counts import CountJob, count_tokens
from dataset.shards.passages import NUM_DRAWS, Passage, iter_passage, passages_by_source
from dataset.shards.sharding import write_text_shards
from dataset.shards.split_plan import ShardSettings, plan_layout
from dataset.sources.registry import customized_source, open_sources
from dataset.tokenizers.vocabulary_training import weighted_portions
from dataset.workers import Workers
from pipeline.errors import StageError
from tests.damage import flip_byte
from tests.dataset.dataset_helpers import Here, files_of, save_bert_tokenizer

ARTICLE = re.compile(r"(\w+) article (\d+)\.")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def source_tokens(articles, name="notes"):
    """Of articles as (draw, tokens)."""
    by_draw = [0] * NUM_DRAWS
    for draw, tokens in articles:
        by_draw[draw] += tokens
    return SourceTokens(name, by_draw)


some_articles = st.lists(
    st.tuples(st.integers(0, NUM_DRAWS - 1), st.integers(1, 1000)), min_size=1, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(some_articles, st.floats(0.1, 10)), min_size=1, max_size=4))
def test_each_source_comes_as_close_to_its_share_as_its_articles_allow(drawn):
    sources = [source_tokens(articles) for articles, _ in drawn]
    weights = [weight for _, weight in drawn]
    total = sum(source.total for source in sources)
    shares = zip(shares_of(weights), sources, strict=True)
    assume(max(total * share / source.total for share, source in shares) <= MOST_TIMES)
    taken = choose(sources, weights)
    for source, share, part in zip(sources, shares_of(weights), taken, strict=True):
        once_more = sum(source.by_draw[: part.below])
        assert part.num_tokens == part.copies * source.total + once_more > 0
        assert 0 <= once_more < source.total
        off = abs(part.num_tokens - total * share)
        largest = max(source.by_draw)
        first = next(tokens for tokens in source.by_draw if tokens)
        assert off <= largest / 2 + 1e-6 or part.num_tokens == first > total * share


@settings(max_examples=30, deadline=None)
@given(some_articles, st.floats(0.1, 5), st.floats(0.1, 5))
def test_a_larger_weight_takes_the_same_articles_and_more(articles, first, second):
    source = source_tokens(articles)
    other = source_tokens([(0, 3 * source.total)], "wiki")
    small, large = (choose([source, other], [w, 1.0])[0] for w in sorted((first, second)))
    assert (small.copies, small.below) <= (large.copies, large.below)


def test_only_the_proportions_of_the_weights_count():
    sources = [source_tokens([(7, 100), (9000, 300)]), source_tokens([(5, 1200)], "wiki")]
    assert choose(sources, [3.0, 1.0]) == choose(sources, [0.75, 0.25])
    [notes, wiki] = choose(sources, [3.0, 1.0])
    assert (notes.copies, notes.below, notes.num_tokens) == (3, 0, 1200)
    assert (wiki.copies, wiki.below, wiki.num_tokens) == (1, 0, 1200)  # its only article


def test_a_source_that_cannot_have_its_share_is_named():
    wiki = source_tokens([(5, 10_000_000)], "wiki")
    with pytest.raises(StageError, match="WEIGHTS: notes has no tokens to train on"):
        choose([source_tokens([]), wiki], [1.0, 1.0])
    with pytest.raises(StageError, match="notes would be taken 5,000 times, expected at most"):
        choose([source_tokens([(1, 1000)]), wiki], [1.0, 1.0])


# --- text shards of two sources --------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two folders: 40 articles of notes, some of them long, and 150 of wiki, in several files."""
    folder = tmp_path_factory.mktemp("corpora")
    for name, number, files in (("notes", 40, 1), ("wiki", 150, 3)):
        for file in range(files):
            articles = [
                f"{name} article {i}. " + "A cat sat. " * (2 + i % 7 + 90 * (i % 20 == 3))
                for i in range(file, number, files)
            ]
            path = folder / name / f"{file}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n\n".join(articles))
    return folder


def write_shards(corpora, directory, num_sources=2, buffer_bytes=1 << 20, executor=None):
    sources = [customized_source(str(corpora / name), "key") for name in ("notes", "wiki")]
    slices = open_sources(sources, directory / "sources", lambda line: None)
    layout = plan_layout(sum(x.num_bytes for x in slices), ShardSettings(3, 2, 0.1, 1))
    workers = Workers(executor or Here(), buffer_bytes)
    return write_text_shards(
        slices, directory, layout, "fingerprint", workers, lambda amount: None, "en", num_sources
    )


def articles_in(passages):
    """How often each (source, article) is in the passages."""
    texts = (text.decode().replace("\n", " ") for p in passages for text, _ in iter_passage(p))
    return Counter(found.groups() for text in texts if (found := ARTICLE.match(text)))


def test_counting_the_sources_changes_no_text(corpora, tmp_path):
    apart = write_shards(corpora, tmp_path / "apart")
    together = write_shards(corpora, tmp_path / "together", num_sources=0)
    shards = files_of(tmp_path / "apart", "*.txt")
    assert shards == files_of(tmp_path / "together", "*.txt")
    assert not any("by_source" in shard for shard in together["shards"].values())
    for name, shard in apart["shards"].items():
        of_sources = shard.pop("by_source")
        assert len(of_sources) == 2 and shard == together["shards"][name]
        assert {key: sum(x[key] for x in of_sources) for key in shard} == shard


def test_a_passage_holds_the_training_text_of_one_source(corpora, tmp_path):
    shards = write_shards(corpora, tmp_path)["shards"]
    notes, wiki = passages_by_source(shards, tmp_path, seed=1)
    assert [p.path.name for p in notes] == [f"train_0000{i}.txt" for i in range(3)]
    assert {source for source, _ in articles_in(notes)} == {"notes"}
    assert {source for source, _ in articles_in(wiki)} == {"wiki"}
    found = articles_in([*notes, *wiki])
    assert set(found.values()) == {1} and len(found) == sum(
        shard["articles"] for name, shard in shards.items() if name.startswith("train")
    )


def test_the_text_of_a_source_does_not_depend_on_memory(corpora, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.sources.registry.MIN_PART_BYTES", 3000)
    summaries = [
        write_shards(corpora, tmp_path / str(size), buffer_bytes=size)["shards"]
        for size in (500, 1 << 20)
    ]
    assert summaries[0] == summaries[1]
    assert files_of(tmp_path / "500", "*.txt") == files_of(tmp_path / f"{1 << 20}", "*.txt")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["notes", "wiki", "article", "a", "cat", "sat", "."]
    digits = [mark + str(digit) for mark in ("", "##") for digit in range(10)]
    save_bert_tokenizer([*SPECIAL, *words, *digits], True, folder)
    return folder


def mix(corpora, tokenizer, directory, weights, executor=None):
    shards = write_shards(corpora, directory)["shards"]
    passages = passages_by_source(shards, directory, seed=1)
    names = ["notes", "wiki"]
    tokens = count_tokens(
        passages, names, tokenizer, "fingerprint", executor or Here(), lambda amount: None
    )
    return Mixture(passages, tokens, weights, choose(tokens, weights)), shards


@pytest.mark.parametrize("weights", [[3.0, 1.0], [1.0, 30.0], [9.0, 1.0], [1.0, 1.0]])
def test_every_article_is_taken_equally_often_or_once_more(corpora, tokenizer, tmp_path, weights):
    mixture, shards = mix(corpora, tokenizer, tmp_path, weights)
    taken = articles_in(p for shard in range(3) for p in mixture.text_of(shard))
    for passages, part in zip(mixture.passages, mixture.taken, strict=True):
        for passage in passages:
            for number, (text, _) in enumerate(iter_passage(passage)):
                article = ARTICLE.match(text.decode().replace("\n", " "))
                expected = part.copies + (passage.draw(number) < part.below)
                assert article is None or taken.pop(article.groups(), 0) == expected
    assert not taken  # no held-out article, in particular
    rows = mixture.contributions(shards)
    assert [row["share"] for row in rows] == pytest.approx(shares_of(weights), abs=0.02)
    assert sum(row["tokens_taken"] for row in rows) == pytest.approx(
        sum(row["tokens"] for row in rows), rel=0.05
    )


def test_copies_of_an_article_are_in_different_shards(corpora, tokenizer, tmp_path):
    mixture, _ = mix(corpora, tokenizer, tmp_path, [1.0, 1.0])
    assert 2 <= mixture.taken[0].copies < 3
    for shard in range(3):
        assert max(articles_in(mixture.text_of(shard)).values()) == 1


def test_a_killed_count_goes_on_and_a_damaged_one_is_repeated(
    corpora, tokenizer, tmp_path, monkeypatch
):
    whole, _ = mix(corpora, tokenizer, tmp_path / "whole", [3.0, 1.0])
    with pytest.raises(KeyboardInterrupt):
        mix(corpora, tokenizer, tmp_path / "killed", [3.0, 1.0], Here(dies_after=2))
    flip_byte(tmp_path / "killed" / "records" / "train_00001.txt.tokens.json")
    counted = []

    class Counting(Here):
        def submit(self, function, job):
            counted.append(job.record.exists())
            return super().submit(function, job)

    again, _ = mix(corpora, tokenizer, tmp_path / "killed", [3.0, 1.0], Counting())
    assert counted == [True, True, False]
    assert again.tokens == whole.tokens and again.taken == whole.taken
    job = CountJob(tuple(p[0] for p in whole.passages), tokenizer, "fingerprint")
    assert job.record == tmp_path / "whole" / "records" / "train_00000.txt.tokens.json"


def test_a_shard_without_chosen_articles_gives_no_text(tmp_path):
    """Not all of the shard."""
    path, other = tmp_path / "train_00000.txt", tmp_path / "train_00001.txt"
    passages = [Passage(path, 0, 0, key="1"), Passage(other, 0, 10, key="1")]
    tokens = [source_tokens([(0, 5)])]
    mixture = Mixture([passages], tokens, [1.0], choose(tokens, [1.0]))
    assert [mixture.text_of(shard) for shard in range(2)] == [(), (passages[1],)]


def test_draws_are_even_and_independent():
    passages = [Passage(Path(f"train_0000{i}.txt"), 0, 1, key=f"42\0{i % 2}") for i in range(4)]
    draws = np.array([[p.draw(number) for number in range(2000)] for p in passages])
    assert draws.min() >= 0 and draws.max() < NUM_DRAWS
    assert abs(draws.mean(axis=1) / NUM_DRAWS - 0.5).max() < 0.03
    assert abs(np.corrcoef(draws) - np.eye(4)).max() < 0.1


def test_a_vocabulary_is_trained_on_the_same_shares(tmp_path):
    notes, wiki = ([Passage(tmp_path / name, 0, size)] for name, size in (("a", 100), ("b", 900)))
    found = weighted_portions([notes, wiki], shares_of([3.0, 1.0]), 10**6)
    assert [(p.passages, p.max_bytes, p.times) for p in found] == [
        (notes, 100, 7),
        (notes, 50, 1),
        (wiki, 250, 1),
    ]
    found = weighted_portions([notes, wiki], shares_of([3.0, 1.0]), 120)  # a sample
    assert [(p.passages, p.max_bytes, p.times) for p in found] == [(notes, 90, 1), (wiki, 30, 1)]
