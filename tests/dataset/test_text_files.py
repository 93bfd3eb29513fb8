"""Articles out of text files: what separates them, and what is done about dirt."""

import random
from collections import Counter
from pathlib import Path

import pytest

from dataset import text_files
from dataset.text_files import cut_file
from pipeline.errors import StageError

EXAMPLES = Path(__file__).parents[3] / "shared/data/corpora/extremebert_custom_examples"


def read(path: Path, slice_bytes: int = 1 << 25) -> tuple[list[str], Counter]:
    tally: Counter = Counter()
    slices = cut_file(path, path.name, slice_bytes)
    return [text for piece in slices for _, text in piece.articles(tally)], +tally


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_blank_lines_and_the_end_separate_articles(tmp_path):
    path = write(tmp_path / "a.txt", b"\n\none\ntwo\n \t\r\n\nthree\r\nfour\n\n\nfive")
    articles, tally = read(path)
    assert [article.split() for article in articles] == [
        ["one", "two"],
        ["three", "four"],
        ["five"],
    ]
    assert tally == {}


def test_dirt_is_removed_and_counted(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfBOM a\0b caf\xe9 end\n\nsecond\xff\n")
    articles, tally = read(path)
    assert articles == ["BOM a b caf end\n", "second\n"]
    assert tally == {"byte_order_marks": 1, "nul_characters": 1, "undecodable_characters": 2}


def test_long_lines_without_blank_lines_are_articles(tmp_path):
    lines = [f"article {i} " + "word " * 300 for i in range(5)]
    path = write(tmp_path / "a.txt", "\n".join(lines).encode())
    assert [article.strip() for article in read(path)[0]] == [line.strip() for line in lines]


def test_short_lines_without_blank_lines_are_one_article(tmp_path):
    path = write(tmp_path / "a.txt", b"one sentence.\n" * 50)
    assert len(read(path)[0]) == 1


def test_utf16_is_an_error_that_names_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "text".encode("utf-16"))
    with pytest.raises(StageError, match=r"a\.txt: the text is UTF-16"):
        cut_file(path, "a.txt", 100)


@pytest.mark.parametrize("slice_bytes", [1, 7, 50, 333, 5000])
def test_slices_hold_every_article_once(tmp_path, slice_bytes):
    rng = random.Random(slice_bytes)
    articles = [
        "\n".join(f"{i} é {'x' * rng.randrange(40)}" for _ in range(rng.randrange(1, 6)))
        for i in range(60)
    ]
    path = write(tmp_path / "a.txt", ("\n" * 2).join(articles).encode())
    assert [article.rstrip("\n") for article in read(path, slice_bytes)[0]] == articles
    positions = [
        (position, text)
        for piece in cut_file(path, "a.txt", slice_bytes)
        for position, text in piece.articles(Counter())
    ]
    (whole,) = cut_file(path, "a.txt", 1 << 30)
    assert positions == list(whole.articles(Counter()))


@pytest.mark.parametrize("separator", ["", " ", "\n"])
def test_giant_articles_are_cut_without_loss(tmp_path, monkeypatch, separator):
    monkeypatch.setattr(text_files, "MAX_ARTICLE_BYTES", 100)
    text = separator.join("жук中文😀abc" for _ in range(100))
    path = write(tmp_path / "a.txt", text.encode())
    for slice_bytes in (1 << 20, 150):
        articles, tally = read(path, slice_bytes)
        assert "".join(articles) == text
        assert max(len(article.encode()) for article in articles) <= 100
        assert set(tally) <= {"cut_articles"}


def test_empty_file(tmp_path):
    assert read(write(tmp_path / "a.txt", b"")) == ([], {})


@pytest.mark.skipif(not EXAMPLES.exists(), reason="shared data is not here")
@pytest.mark.parametrize(
    ("name", "num_articles"),
    [("multisent_perline", 11), ("onesent_perline", 499), ("onearticle_perline", 932)],
)
def test_custom_examples(name, num_articles):
    """The counts are those of the blocks between blank lines, counted by hand with awk."""
    articles, tally = read(EXAMPLES / f"example_{name}.txt")
    assert len(articles) == num_articles
    assert tally == {}


@pytest.mark.skipif(not EXAMPLES.exists(), reason="shared data is not here")
def test_one_article_per_line_needs_no_blank_lines(tmp_path):
    lines = (EXAMPLES / "example_onearticle_perline.txt").read_text().splitlines()
    lines = [line for line in lines if line.strip()]
    path = write(tmp_path / "a.txt", "\n".join(lines).encode())
    assert [article.strip() for article in read(path)[0]] == [line.strip() for line in lines]
