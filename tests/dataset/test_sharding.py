"""Text shards: every article once, the same bytes however they are made."""

import random
from concurrent.futures import Executor, Future

import pytest
from dataset_helpers import files_of

from dataset.layout import Layout, num_shards, plan_layout, with_both_splits
from dataset.packing import iter_articles
from dataset.sharding import segment, write_text_shards
from dataset.sources import customized_source, open_sources
from dataset.workers import plan_workers, worker_pool
from pipeline.errors import StageError


class Here(Executor):
    """Runs jobs in this process, in a random order, and may be killed after some of them."""

    def __init__(self, seed: int = 0, dies_after: int = 10**9):
        self.random, self.left, self.waiting = random.Random(seed), dies_after, []

    def submit(self, function, job):
        future = Future()
        self.left -= 1
        if self.left < 0:
            future.set_exception(KeyboardInterrupt())
        else:
            future.set_result(function(job))
        return future


def shard(corpus, directory, executor, frac_test=0.1, part_bytes=3000, num=(3, 2)):
    slices = open_sources([customized_source(str(corpus), "")], directory, part_bytes, print)
    layout = plan_layout(sum(piece.num_bytes for piece in slices), *num, frac_test, seed=1)
    return write_text_shards(
        slices, directory, layout, "fingerprint", executor, lambda amount: None, part_bytes
    )


def test_every_article_lands_exactly_once(corpus, articles, tmp_path):
    summary = shard(corpus, tmp_path, Here())
    found = [" ".join(a) for path in sorted(tmp_path.glob("*_*.txt")) for a in iter_articles(path)]
    assert sorted(found) == sorted(" ".join(article.split()) for article in articles)
    held_out = [a for path in tmp_path.glob("test_*.txt") for a in iter_articles(path)]
    assert 15 <= len(held_out) <= 45
    for name, counts in summary["shards"].items():
        sentences = list(iter_articles(tmp_path / name))
        assert counts["articles"] == len(sentences)
        assert counts["sentences"] == sum(map(len, sentences))
        assert counts["bytes"] == (tmp_path / name).stat().st_size


def test_bytes_do_not_depend_on_parts_or_processes(corpus, tmp_path):
    shard(corpus, tmp_path / "here", Here())
    with worker_pool(2) as executor:
        shard(corpus, tmp_path / "two", executor)
    shard(corpus, tmp_path / "large", Here(), part_bytes=1 << 20)
    expected = files_of(tmp_path / "here", "*_*.txt")
    assert len(expected) == 5
    assert files_of(tmp_path / "two", "*_*.txt") == expected
    assert files_of(tmp_path / "large", "*_*.txt") == expected


@pytest.mark.parametrize("dies_after", [0, 1, 5, 12, 14, 16])
def test_interrupted_and_resumed(corpus, tmp_path, dies_after):
    shard(corpus, tmp_path / "undisturbed", Here())
    with pytest.raises(KeyboardInterrupt):
        shard(corpus, tmp_path / "killed", Here(dies_after=dies_after))
    shard(corpus, tmp_path / "killed", Here())
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")


def test_finished_runs_are_kept(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        shard(corpus, tmp_path, Here(dies_after=4))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.run")}
    with pytest.raises(KeyboardInterrupt):
        shard(corpus, tmp_path, Here(dies_after=8))
    assert len(times) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize(("frac_test", "held_out"), [(1e-9, 1), (1 - 1e-9, 299)])
def test_no_split_is_empty(corpus, tmp_path, frac_test, held_out):
    shard(corpus, tmp_path, Here(), frac_test=frac_test, num=(1, 1))
    assert len(list(iter_articles(tmp_path / "test_00000.txt"))) == held_out
    assert len(list(iter_articles(tmp_path / "train_00000.txt"))) == 300 - held_out


@pytest.mark.parametrize("text", ["Just one.", "Just one.\n\n\0\n\n\xa0\n"])
def test_one_article_is_too_few(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(StageError, match="hold one article, expected at least two"):
        shard(tmp_path, tmp_path / "out", Here())


def test_empty_articles_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\n\xa0\n\nTwo.\n\n\ufeff\n")
    assert shard(tmp_path, tmp_path / "out", Here())["counts"]["empty_articles"] == 2


def test_splits_are_adjusted_as_little_as_possible():
    layout = Layout(seed=0, test_draws=10, num_train_shards=1, num_test_shards=1)
    assert with_both_splits(layout, [[5, 20]]) == layout
    assert with_both_splits(layout, [[11, 20], [12, 90]]).test_draws == 12
    assert with_both_splits(layout, [[1, 7], [2, 5]]).test_draws == 7


def test_number_of_shards():
    mb = 1 << 20
    sizes = (0, 100_000, mb, 4 * mb, 100 * mb, 512 * mb, 1024 * mb, 16_384 * mb)
    assert [num_shards(size) for size in sizes] == [1, 1, 4, 16, 16, 16, 32, 512]


def test_sentences():
    assert segment("Mr. Smith came.\nHe sat\n down.\u2028Then,\xa0nothing. ") == [
        "Mr. Smith came.",
        "He sat down.",
        "Then, nothing.",
    ]
    assert segment(" \n\t") == []


def test_fewer_workers_when_memory_is_short():
    said = []
    assert plan_workers(8, 2.0, said.append) == 5
    assert "5 of 8 workers" in said[0]
    assert plan_workers(2, 16.0, said.append) == 2
    assert plan_workers(4, 0.1, said.append) == 1
    assert len(said) == 2
