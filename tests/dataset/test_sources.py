"""Sources: folders, local files in place of Hub datasets, and Python's documentation."""

from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from dataset.hub import present_name
from dataset.python_docs import iter_python_docs, prose_paragraphs
from dataset.sources import (
    configured_sources,
    customized_source,
    group_slices,
    hub_source,
    open_sources,
    problem_with,
    slug,
)
from pipeline.errors import StageError

TEXTS = [f"Article {i}. It has two sentences." for i in range(2500)]


def read(source, work_dir, slice_bytes=1 << 20):
    said = []
    slices = open_sources([source], work_dir, slice_bytes, said.append)
    return [text for piece in slices for _, text in piece.articles(Counter())], slices


def write_parquet(folder, column="text"):
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({column: TEXTS}), folder / "part.parquet")
    return folder


@pytest.mark.parametrize("subset", ["", "default"])
def test_parquet_folder_as_hub_dataset(tmp_path, subset):
    folder = write_parquet(tmp_path / "corpus")
    texts, slices = read(hub_source(str(folder), subset, "key"), tmp_path / "work", 10_000)
    assert texts == TEXTS
    assert len(slices) > 5
    assert [piece.start for piece in slices][1:] == [piece.end for piece in slices][:-1]


def test_csv_and_json_folders(tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/a.csv").write_text('title,text\nx,"One, two."\ny,Three.\n')
    (tmp_path / "json").mkdir()
    (tmp_path / "json/a.jsonl").write_text('{"text": "One, two."}\n{"text": "Three."}\n')
    for name in ("csv", "json"):
        source = hub_source(str(tmp_path / name), "", "key")
        assert read(source, tmp_path / "work" / name)[0] == ["One, two.", "Three."]


def test_text_folder_as_hub_dataset_has_articles_not_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    assert read(hub_source(str(tmp_path), "", "key"), tmp_path)[0] == ["one\ntwo\n", "three\n"]


def test_missing_column_is_named(tmp_path):
    folder = write_parquet(tmp_path / "corpus", column="content")
    with pytest.raises(StageError, match="no column `text`, it has content"):
        read(hub_source(str(folder), "", "key"), tmp_path / "work")


def test_folder_order_and_nesting(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "ignored.md").write_text("not text")
    assert read(customized_source(str(tmp_path), "key"), tmp_path)[0] == ["first", "second"]


def test_problems_name_the_key(tmp_path):
    missing = customized_source(str(tmp_path / "gone"), "DATASET.CUSTOMIZED_DATASETS")
    assert problem_with(missing).startswith("DATASET.CUSTOMIZED_DATASETS: folder")
    empty = customized_source(str(tmp_path), "DATASET.CUSTOMIZED_DATASETS")
    assert problem_with(empty).endswith("has no .txt file")
    assert "does not exist" in problem_with(hub_source("./gone", "", "K"))
    assert problem_with(hub_source("wikipedia", "20220301.en", "K")) == ""


def test_classic_names():
    assert present_name("wikipedia", "20220301.fr") == ("wikimedia/wikipedia", "20231101.fr")
    for name in ("bookcorpusopen", "bookcorpus"):
        assert present_name(name, "plain_text") == ("lucadiliello/bookcorpusopen", "")
    assert present_name("wikimedia/wikipedia", "x") == ("wikimedia/wikipedia", "x")


def test_slug():
    sources = configured_sources(
        [["wikipedia", "20220301.en"], ["bookcorpusopen", "plain_text"]], ["builtin:python-docs"]
    )
    assert slug(sources) == "wikipedia-bookcorpusopen-python-docs"


def test_small_files_share_a_part(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").write_text("x" * 99 + "\n")
    slices = open_sources([customized_source(str(tmp_path), "")], tmp_path, 1000, print)
    parts = group_slices(slices, 1000)
    assert [len(part) for part in parts] == [10, 10]
    assert [piece for part in parts for piece in part] == slices


def test_python_docs_are_prose():
    articles = list(iter_python_docs())
    text = "\n\n".join(articles)
    assert 1e6 < len(text) < 6e6
    assert len(articles) > 200
    assert ">>>" not in text and ":func:" not in text and "``" not in text
    assert not any("\n\n" in article for article in articles)


def test_prose_paragraphs_leave_code_out():
    text = """Return the :class:`dict` of *all* names, sorted by ``key``
    and then by value [1].

        x = f(1)

    >>> f(1)
    2

    ====  ====
    a     b
    """
    assert list(prose_paragraphs(text)) == [
        "Return the dict of all names, sorted by key and then by value."
    ]
