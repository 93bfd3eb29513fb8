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


def read_csv(folder, content, name="a.csv"):
    (folder / name).write_bytes(content)
    source = customized_source(str(folder / name), "key")
    articles, tally, _ = read_source(source, folder / "work")
    notes = [note.replace(f"{folder}/", "") for note in tally.notes]
    return [article.strip() for article in articles], dict(tally.counts), notes


def test_csv_dirt(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.sources.csv_files.MAX_ROW_BYTES", 1000)
    monkeypatch.setattr("dataset.sources.corpus_files.BLOCK_BYTES", 100)
    rows = [
        b"\xef\xbb\xbfid,text",
        b'1,"Two\r\n\r\nlines, ""quoted"""',
        b"2",
        b"",
        b"3,",
        b"4,nul\0 and \xe9",
        b"5," + b"x" * 2000,
        b'6,"never closed' + b"\n7,more" * 400 + b'"',
        b"8,Last.,,",
        b"9,Too,much",
    ]
    articles, counts, notes = read_csv(tmp_path, b"\r\n".join(rows))
    assert articles[0].split("\n") == ["Two", "", 'lines, "quoted"']
    assert articles[1:4] == ["", "nul  and", "never closed"]
    assert articles[4:] == ["more"] * 399 + ['more"', "Last."]
    assert counts == {
        "byte_order_marks": 1,
        "nul_characters": 1,
        "undecodable_characters": 1,
        "oversized_rows": 1,
        "unclosed_quotes": 1,
        "malformed_rows": 2,
    }
    assert notes == [
        "a.csv: line 5 has 1 columns, the header 2, the row is dropped",
        "a.csv: line 9 is longer than 0 MiB, it is dropped",
        "a.csv: line 10: a quote is not closed, the line is a row",
        "a.csv: line 412 has 3 columns, the header 2, the row is dropped",
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_delimiters_in_a_table_of_one_column_are_text(tmp_path, name, delimiter):
    row = f"Hello{delimiter} this is{delimiter} whole."
    articles, counts, _ = read_csv(tmp_path, f"text\n{row}\n\nSecond.\n".encode(), name)
    assert articles == [row, "Second."] and counts == {}


UNCLOSED, STRAY = "unclosed_quotes", "stray_quotes"


@pytest.mark.parametrize(
    ("line", "text", "count"),
    [
        ('1,"open', "open", UNCLOSED),  # up to the quote that opens row 5
        ('1,5" wide', '5" wide', None),  # a quote inside a field is text
        ('1,"He said "go" to', 'He said "go" to', UNCLOSED),
        ('1,"He said ""go"" "to" me, now', 'He said "go" "to" me, now', UNCLOSED),
        ('1,"He said "go" to"', 'He said "go" to', STRAY),
        ('1,"He said "go""', 'He said "go"', STRAY),
        ('1,"He said ""go"" or "to" her"', 'He said "go" or "to" her', STRAY),
        ('1,"Raven" is a poem.', '"Raven" is a poem.', STRAY),
        ('1,"done" ', '"done"', STRAY),
        ('1,""quoted"" text', '""quoted"" text', STRAY),
        ('"a "b" c",text', "text", STRAY),
        ('1,C:\\dir "x" \\"y\\"', 'C:\\dir "x" \\"y\\"', None),
        ('1,"C:\\new\\"', "C:\\new\\", None),
    ],
)
def test_a_quote_in_a_wrong_place_costs_no_text(tmp_path, line, text, count):
    rest = '2,a\n3,b\n4,c\n5,"d,\nd"\n6,e\n'
    content = f"id,text\n{line}\n{rest}"
    articles, counts, notes = read_csv(tmp_path, content.encode())
    assert articles == [text, "a", "b", "c", "d,\nd", "e"]
    assert counts == ({count: 1} if count else {})
    assert [note.split(": ")[:2] for note in notes] == ([["a.csv", "line 2"]] if count else [])


def test_text_behind_a_quote_with_a_delimiter(tmp_path):
    """It is kept where it can be told from other columns, else dropped by name."""
    row = '"He said "go", then left."'
    articles, counts, _ = read_csv(tmp_path, f'id,text\n1,{row}\n2,"Fine, too."\n'.encode())
    assert articles == ['He said "go", then left.', "Fine, too."]
    assert counts == {"stray_quotes": 1}
    content = f'id,text,more\n1,{row},x\n2,"Fine, too.",y\n'
    articles, counts, _ = read_csv(tmp_path, content.encode())
    assert articles == ['He said "go", then left.', "Fine, too."]
    assert counts == {"stray_quotes": 1}
    content = f'id,text,more\n1,{row[:-1]},x\n2,"Fine, too.",y\n'
    articles, counts, notes = read_csv(tmp_path, content.encode())
    assert articles == ["Fine, too."]
    assert counts == {"stray_quotes": 1, "malformed_rows": 1}
    assert notes[1] == "a.csv: line 2 has 4 columns, the header 3, the row is dropped"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"ok first\nsecond line" tail text', '"ok first\nsecond line" tail text'),
        ('"ok, first\n\nsecond, line" tail', '"ok, first\n\nsecond, line" tail'),
        ('"he said "go" to\n\nthe end"', 'he said "go" to\n\nthe end'),
        ('"one\nhe said "go", then\nleft "now" ok"', 'one\nhe said "go", then\nleft "now" ok'),
        ('"one\ntwo" tail,"z1\nz2"', '"one\ntwo" tail'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_cell_of_several_lines_with_quotes_in_a_wrong_place_is_one_row(tmp_path, cell, text, end):
    more = "" if cell.endswith('"z1\nz2"') else ",z"
    content = f'id,text,z\n1,first,z\n2,{cell}{more}\n3,"last, and\nlast",z\n4,end,z\n'
    articles, counts, notes = read_csv(tmp_path, content.replace("\n", end).encode())
    assert articles == ["first", text, "last, and\nlast", "end"]
    assert counts == {"stray_quotes": 1} and notes[0].startswith("a.csv: line 3: a quote within")


def test_what_follows_an_unclosed_quote_is_no_article_of_a_wrong_cell(tmp_path):
    rows = [
        '2,"never closed',
        "second line, z",
        "",
        "third line,z",
        "3,whole,z",
        "4,short",
        "5,e,z",
    ]
    articles, counts, notes = read_csv(tmp_path, "\n".join(["id,text,z", *rows]).encode())
    assert articles == ["never closed", "whole", "short", "e"]
    assert counts == {"unclosed_quotes": 1, "malformed_rows": 2}
    assert notes[1] == (
        "a.csv: line 3 is no row by itself, and follows an unclosed quote, the row is dropped"
    )


def test_a_tail_with_a_comma_is_no_article_of_a_wrong_cell(tmp_path):
    """It cannot be told from a column."""
    rows = ['2,"ok first', 'second line" tail, with a comma,z', "3,whole,z", "4,d,z"]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text,z", *rows]).encode())
    assert articles == ["ok first", "whole", "d"]
    assert counts == {"unclosed_quotes": 1, "malformed_rows": 1}


def test_few_rows_are_suspect(tmp_path):
    rows = ['1,"open', *(f"{n}, text {n}" for n in range(300))]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text", *rows]).encode())
    assert articles == ["open", *(f"text {n}" for n in range(100, 300))]
    assert counts == {"unclosed_quotes": 1, "malformed_rows": 100}


def test_lines_that_look_like_rows_are_rows(tmp_path):
    rows = ['1,"open', "2,a", '3,5" wide', '4,say "x" there', "5,last"]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text", *rows]).encode())
    assert articles == ["open", "a", '5" wide', 'say "x" there', "last"]
    assert counts == {"unclosed_quotes": 1}


def test_many_rows_of_several_lines_with_stray_quotes_take_linear_time(tmp_path):
    rows = "".join(f'{n},"one\ntwo" tail,z\n' for n in range(20_000))
    articles, counts, _ = read_csv(tmp_path, f"id,text,z\n{rows}".encode())
    assert articles == ['"one\ntwo" tail'] * 20_000 and counts == {"stray_quotes": 20_000}
    rows = "".join(f'{n},"he said "go" to\n' for n in range(20_000))
    articles, counts, _ = read_csv(tmp_path, f"id,text\n{rows}".encode())
    assert articles == ['he said "go" to'] * 20_000 and counts == {"unclosed_quotes": 20_000}
    rows = "".join(f"{n},plain\n" for n in range(40_000))
    articles, counts, _ = read_csv(tmp_path, f'id,text\n0,"say "go" to\n{rows}'.encode())
    assert len(articles) == 40_001 and counts == {"unclosed_quotes": 1}


@pytest.mark.parametrize(
    "content",
    [
        'sep=;\nid;text\n1;"a, b; c"\n2;d\n',
        '"SEP=|"\r\nid|text\r\n1|"a, b; c"\r\n2|d\r\n',
        '"the id, a number";text\n1;"a, b; c"\n2;d\n',
        'id, text\n1, "a, b; c"\n2, "d"\n',
        'id,text\n1, "a, b; c"\n2, d\n',
    ],
)
def test_delimiters_and_spaces_behind_them(tmp_path, content):
    articles, counts, _ = read_csv(tmp_path, content.encode())
    assert articles == ["a, b; c", "d"] and counts == {}


def test_quotes_behind_spaces_in_some_rows_are_text(tmp_path):
    content = 'id,text\n1,"a, b"\n2, "c"\n3,"say, ""d"""\n'
    articles, counts, _ = read_csv(tmp_path, content.encode())
    assert articles == ["a, b", '"c"', 'say, "d"'] and counts == {}


def test_quotes_in_a_wrong_place_leave_the_other_columns_alone(tmp_path):
    rows = [
        '1,"Raven" is a poem,"Second, quoted"',
        '2,"He said "go" to",other',
        '3,"Raven" is a "poem",""',
        '4,plain,"a "b" c, d"',
    ]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text,more", *rows]).encode())
    assert articles == ['"Raven" is a poem', 'He said "go" to', 'Raven" is a "poem', "plain"]
    assert counts == {"stray_quotes": 4}


def test_lines_of_quotes_in_wrong_places_take_linear_time(tmp_path):
    line = '"a" b,' * 30_000
    articles, counts, _ = read_csv(tmp_path, f"id,text\n{line}\n1,a\n".encode())
    assert articles == ["a"] and counts == {"stray_quotes": 1, "malformed_rows": 1}
    quotes = '""' * 60_000
    articles, counts, _ = read_csv(tmp_path, f"id,text\n1,{quotes}x\n".encode())
    assert len(articles[0]) == 120_001 and counts == {"stray_quotes": 1}


ESCAPED = [
    '1,"she said \\"hello\\" and left."',
    '2,"\\"Go\\", he said, \\"now\\""',
    '3,"a path C:\\new\\dir, and C:\\\\x"',
    '4,"two""marks"',
    '5,"two\nlines, \\"quoted\\""',
    '6,"it ends with a backslash \\\\"',
    '7,"an "open" one, \\"said\\""',
    "8,plain",
]
UNESCAPED = [
    'she said "hello" and left.',
    '"Go", he said, "now"',
    "a path C:\\new\\dir, and C:\\x",
    'two"marks',
    'two\nlines, "quoted"',
    "it ends with a backslash \\",
    'an "open" one, "said"',
    "plain",
]


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_quotes_escaped_by_backslashes(tmp_path, delimiter, end):
    rows = ["id,text", *ESCAPED]
    rows = [row.replace(",", delimiter, 1).replace("\n", end) for row in rows]
    articles, counts, notes = read_csv(tmp_path, end.join(rows).encode())
    assert articles == UNESCAPED
    assert counts == {"files_with_backslash_escapes": 1, "stray_quotes": 1}
    assert len(notes) == 1 and notes[0].startswith("a.csv: line 9: ")


def test_doubled_quotes_beside_backslashes_are_the_usual_convention(tmp_path):
    rows = ['1,"C:\\dir\\"', '2,"say ""C:\\\\"""', '3,"a \\""b\\"" c"', "4,d"]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text", *rows]).encode())
    assert articles == ["C:\\dir\\", 'say "C:\\\\"', 'a \\"b\\" c', "d"]
    assert counts == {}


def test_a_line_of_a_table_of_one_column_stays_as_it_is(tmp_path):
    rows = [
        '"Hello", she said, "it is late".',
        'So, "late" it is.',
        '"Hello" she said, "again"',
        '"Hello" is the "word"',
    ]
    quoted = '"Quoted, and ""whole""."'
    articles, _, _ = read_csv(tmp_path, "\n".join(["text", *rows, quoted]).encode())
    assert articles == [*rows, 'Quoted, and "whole".']


@pytest.mark.parametrize("blank", [" ", "\u3000", "\u200b", "\xa0\u2060"])
def test_blank_lines_of_a_table_are_no_rows(tmp_path, blank):
    content = f"{blank}\nid,text\n{blank}\n1,a\n\n2,b\n{blank}\n"
    articles, counts, _ = read_csv(tmp_path, content.encode())
    assert articles == ["a", "b"] and counts == {}


@pytest.mark.parametrize("limit", ["end of file", "MAX_ROW_BYTES", "MAX_ROW_LINES"])
def test_an_unclosed_quote_ends_at_a_limit(tmp_path, monkeypatch, limit):
    """Many of them, too: the rows after the first are read once more, not each time again."""
    if limit != "end of file":
        monkeypatch.setattr(f"dataset.sources.csv_files.{limit}", 5000)
    rows = "".join(f"{number},text {number}\n" for number in range(20_000))
    articles, counts, notes = read_csv(tmp_path, f'id,text\n0,"text 0\n{rows}'.encode())
    assert articles == ["text 0", *(f"text {number}" for number in range(20_000))]
    assert counts == {"unclosed_quotes": 1} and "a.csv: line 2: " in notes[0]
    articles, counts, _ = read_csv(tmp_path, ("id,text\n" + 'a","b\n' * 20_000).encode())
    assert articles == ["b"] * 20_000 and counts == {"unclosed_quotes": 20_000}


def test_a_long_quoted_article_of_many_lines_stays_whole(tmp_path):
    novel = "".join(f"Line {number}, and a comma.\n" for number in range(100_000))
    content = f'text,id\n"{novel}",1\nNext.,2\n'
    articles, counts, _ = read_csv(tmp_path, content.encode())
    assert articles == [novel.strip(), "Next."] and counts == {}


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


def test_a_broken_row_of_a_dataset_is_named(tmp_path):
    rows = ['{"text": "One."}', '{"text": "Two."}', '{"text": "broken', '{"text": "Four."}']
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(rows))
    for streaming in (False, True):
        source = hub_source(str(folder), "", "key", streaming=streaming)
        with pytest.raises(StageError, match=r"a\.jsonl': JSON parse error.* in row 2"):
            read_source(source, tmp_path / "work")


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
