"""The same articles in every format, compression and way of reading."""

import bz2
import csv
import gzip
import html
import json
import os
import random
from contextlib import suppress

import pyarrow
import pyarrow.parquet
import pytest

from dataset.shards.sharding import read_summary
from dataset.sources.article_stream import Tally
from dataset.sources.digests import FileDigests, identity_of
from dataset.sources.parquet_files import cut_parquet_file, iter_parquet_batches, open_parquet_file
from dataset.sources.registry import check_file, customized_source, hub_source, open_source
from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool
from tests.dataset.dataset_helpers import articles_of, read_source, shard

TEXTS = [
    f'Article {i} is "quoted", naïve & 中文 <b>. It has\ttwo{" very" * (i % 70)} sentences.'
    + ("\nAnd a second line; really." if i % 3 else "")
    for i in range(200)
]


def write_txt(folder):
    (folder / "a.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")


def write_gz(folder):
    with gzip.open(folder / "a.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join(TEXTS))


def write_bz2(folder):
    (folder / "a.txt.bz2").write_bytes(bz2.compress("\n\n".join(TEXTS).encode()))


def write_zst(folder):
    with pyarrow.output_stream(folder / "a.txt.zst", compression="zstd") as file:
        file.write("\r\n\r\n".join(TEXTS).encode())


def write_jsonl(folder):
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("\n".join(lines[:90]))
    with gzip.open(folder / "b.json.gz", "wt") as file:
        file.write("\n".join(lines[90:]))


def write_csv(folder):
    with open(folder / "a.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(TEXTS[:90])])
    with gzip.open(folder / "b.csv.gz", "wt", encoding="utf-8", newline="") as file:
        rows = [(" text", "id"), *((text, i) for i, text in enumerate(TEXTS[90:]))]
        csv.writer(file, delimiter=";").writerows(rows)


def write_tsv(folder):
    rows = ["\ttext", *(f"\t{' '.join(text.split())}" for text in TEXTS)]
    (folder / "a.tsv").write_text("\n".join(rows), encoding="utf-8")


def write_parquet(folder, column="text", kind=None):
    table = pyarrow.table({"id": range(len(TEXTS)), column: pyarrow.array(TEXTS, kind)})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=30)


def write_dictionary_parquet(folder):
    write_parquet(folder, kind=pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))


def write_wiki(folder):
    docs = [
        f'<doc id="{i}" url="u" title="T{i}">\nT{i}\n\n{html.escape(text)}\n\n</doc>\n'
        for i, text in enumerate(TEXTS)
    ]
    (folder / "AA").mkdir()
    (folder / "AA/wiki_00").write_text("".join(docs[:90]), encoding="utf-8")
    (folder / "AA/wiki_01.bz2").write_bytes(bz2.compress("".join(docs[90:]).encode()))


FORMATS = [
    write_txt,
    write_gz,
    write_bz2,
    write_zst,
    write_jsonl,
    write_csv,
    write_tsv,
    write_parquet,
    write_dictionary_parquet,
    write_wiki,
]
WORDS = sorted(" ".join(text.split()) for text in TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_articles(tmp_path, write, monkeypatch):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder)
    source = customized_source(str(folder), "key")
    shard(source, tmp_path / "whole")
    assert articles_of(tmp_path / "whole") == WORDS
    monkeypatch.setattr("dataset.sources.registry.MIN_PART_BYTES", 2000)
    shard(source, tmp_path / "parts", num=(4, 1))
    assert articles_of(tmp_path / "parts") == WORDS
    assert len(articles_of(tmp_path / "parts", "test")) > 5


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_parquet, write_jsonl, write_csv])
@pytest.mark.parametrize("streaming", [False, True])
def test_local_folders_in_place_of_hub_datasets(tmp_path, write, streaming):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder)
    if write == write_csv:
        (folder / "b.csv.gz").unlink()
    expected = [" ".join(text.split()) for text in (TEXTS[:90] if write == write_csv else TEXTS)]
    source = hub_source(str(folder), "", "key", streaming=streaming)
    articles, _, _ = read_source(source, tmp_path / "work", limit=50)
    assert [" ".join(article.split()) for article in articles] == expected


@pytest.mark.slow
def test_other_column_and_split(tmp_path):
    for split in ("train", "validation"):
        table = pyarrow.table({"content": [f"{split} {i}." for i in range(3)]})
        pyarrow.parquet.write_table(table, tmp_path / f"{split}-00000.parquet")
    for streaming in (False, True):
        source = hub_source(str(tmp_path), "", "key", "validation", "content", streaming)
        articles, _, _ = read_source(source, tmp_path.with_name(f"work{streaming}"))
        assert articles == ["validation 0.", "validation 1.", "validation 2."]
    source = customized_source(str(tmp_path / "train-00000.parquet"), "key", "content")
    assert read_source(source, tmp_path / "work")[0] == ["train 0.", "train 1.", "train 2."]


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_tsv, write_parquet])
def test_missing_column_names_the_file_and_what_is_there(tmp_path, write):
    write(tmp_path)
    source = customized_source(str(tmp_path), "key", "content")
    with pytest.raises(StageError, match=r"a\.\w+: has no column `content`, it has .*text"):
        read_source(source, tmp_path / "work")


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("text", ""),
        ("category", ""),
        ("last", ""),
        ("content", "has no column `content`, it has id, text, category, tags, of, raw, nothing"),
        ("element", "has no column `element`, it has "),
        ("id", "column `id` holds int64, expected text"),
        ("tags", "column `tags` holds list<"),
        ("of", "column `of` holds struct<"),
        ("raw", "column `raw` holds binary, expected text"),
        ("nothing", "column `nothing` holds null, expected text"),
    ],
)
def test_the_column_of_a_parquet_file_is_checked_by_its_footer(tmp_path, column, problem):
    columns = {
        "id": [1, 2],
        "text": pyarrow.array(["a", None], pyarrow.large_string()),
        "category": pyarrow.array(["a", "b"]).dictionary_encode(),
        "tags": [["a"], []],
        "of": [{"a": {"b": [1.5]}, "c": True}, None],
        "raw": [b"a", b"b"],
        "nothing": [None, None],
        "last": ["a", "b"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=1)
    try:
        check_file(tmp_path / "a.parquet", column)
        found = ""
    except StageError as error:
        found = error.cause
    assert found.startswith(f"{tmp_path}/a.parquet: {problem}" if problem else "")
    assert bool(found) == bool(problem)


def test_a_footer_that_cannot_be_read_is_no_problem_of_the_plan(tmp_path):
    write_parquet(tmp_path)
    content = (tmp_path / "a.parquet").read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[-rng.randrange(1, 900)] ^= 1 << rng.randrange(8)
        (tmp_path / "a.parquet").write_bytes(bytes(damaged))
        with suppress(StageError):
            check_file(tmp_path / "a.parquet", "text")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("split", "column", "message"),
    [
        ("", "content", "has no column `content`, it has id, text"),
        ("dev", "text", r"dataset \[.*dev\] could not be loaded"),
        ("", "id", "column `id` holds int64, expected text"),
    ],
)
def test_unusable_datasets(tmp_path, monkeypatch, streaming, split, column, message):
    monkeypatch.setattr(
        "dataset.sources.registry.open_in_subprocess",
        lambda jobs: list(map(open_source, jobs)),
    )
    (tmp_path / "corpus").mkdir()
    write_parquet(tmp_path / "corpus")
    source = hub_source(str(tmp_path / "corpus"), "", "key", split, column, streaming)
    with pytest.raises(StageError, match=message):
        read_source(source, tmp_path / "work")


def test_rows_without_text_are_empty_articles(tmp_path):
    table = pyarrow.table({"text": pyarrow.array(["One.", None, "", " ", "Two."])})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    summary = shard(customized_source(str(tmp_path), "key"), tmp_path / "out")
    assert summary["counts"] == {"empty_articles": 3, "null_rows": 1}


def test_large_row_groups_are_read_in_batches(tmp_path):
    texts = [f"{i} " + "words " * 3000 for i in range(2000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    source = customized_source(str(tmp_path / "a.parquet"), "key")
    (piece,), _ = open_source((source, "0", tmp_path, 1 << 25))
    with open_parquet_file(piece.path) as file:
        batches = [batch.num_rows for batch in iter_parquet_batches(file, piece)]
    assert sum(batches) == 2000 and len(batches) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.bz2", "a.txt.zst", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut off", "overwritten", "something else"])
def test_damaged_files_are_named(tmp_path, name, damage):
    text = "".join(f'{{"text": "Line {i * 7919 % 10007}."}}\n' for i in range(50_000))
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": text.split("\n")}), tmp_path / name)
    else:
        kind = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}[name.rpartition(".")[2]]
        with pyarrow.output_stream(tmp_path / name, compression=kind) as file:
            file.write(text.encode())
    content = (tmp_path / name).read_bytes()
    middle = len(content) // 2
    broken = {
        "cut off": content[:middle],
        "overwritten": content[:middle] + b"\xff\0" * 500 + content[middle + 1000 :],
        "something else": text.encode(),
    }
    (tmp_path / name).write_bytes(broken[damage])
    with pytest.raises(StageError, match=rf"{name}: damaged"):
        read_source(customized_source(str(tmp_path), "key"), tmp_path / "work")


@pytest.mark.slow
@pytest.mark.parametrize("as_dataset", [False, True])
def test_giant_rows_come_in_pieces(tmp_path, as_dataset):
    folder = tmp_path / "corpus"
    folder.mkdir()
    text = "\n".join(f"Sentence {i} of a very long article." for i in range(20_000))
    pyarrow.parquet.write_table(pyarrow.table({"text": [text, "b"]}), folder / "a.parquet")
    name = str(folder)
    source = hub_source(name, "", "key") if as_dataset else customized_source(name, "key")
    articles, _, _ = read_source(source, tmp_path / "work", 1000)
    assert "".join(articles[0].split()) == "".join(text.split())
    assert articles[1:] == ["b"]


def test_parquet_is_read_from_an_address_too(tmp_path):
    """As streamed datasets are, in place of hf://..."""
    rows = [f"Row {number}." for number in range(1000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": rows}), tmp_path / "a.parquet", row_group_size=300
    )
    slices = cut_parquet_file(f"file://{tmp_path}/a.parquet", "a", "text", slice_bytes=1)
    assert len(slices) == 4
    tally = Tally()
    assert [text for piece in slices for _, text, _ in piece.pieces(1 << 20, tally)] == rows


@pytest.mark.slow
def test_a_broken_row_of_a_dataset_is_named(tmp_path):
    rows = ['{"text": "One."}', '{"text": "Two."}', '{"text": "broken', '{"text": "Four."}']
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(rows))
    for streaming in (False, True):
        source = hub_source(str(folder), "", "key", streaming=streaming)
        with pytest.raises(StageError, match=r"a\.jsonl': JSON parse error.* in row 2"):
            read_source(source, tmp_path / "work")


@pytest.mark.slow
def test_names_that_are_not_utf8(tmp_path):
    """Text and records are as with other names."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    writers = (write_bz2, write_zst, write_jsonl, write_csv, write_parquet)
    for write in writers:
        write(folder)
    for path in list(folder.iterdir()):
        os.replace(path, os.fsencode(folder) + b"/caf\xe9_" + os.fsencode(path.name))
    (folder / os.fsdecode(b"\xff.doc")).write_text("not text")
    (folder / os.fsdecode(b"\xff.csv")).write_bytes(b"text,id\none,two,three\n")
    source = customized_source(str(folder), "key")
    digests = FileDigests(tmp_path / "digests.json")
    identity = identity_of(source, digests)
    digests.save()
    assert FileDigests(tmp_path / "digests.json").known == digests.known
    assert identity_of(source, FileDigests(tmp_path / "digests.json")) == identity
    with local_pool(1) as pool:
        summary = shard(source, tmp_path / "out", pool)
    assert articles_of(tmp_path / "out") == sorted(WORDS * len(writers))
    assert summary == read_summary(tmp_path / "out")
    assert summary["counts"] == {"malformed_rows": 1, "byte_order_marks": 1}
