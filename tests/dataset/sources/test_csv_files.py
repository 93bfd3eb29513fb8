"""Articles from CSV and TSV files: delimiters, escapes, and quotes in wrong places."""

import pytest

from dataset.sources.registry import customized_source
from tests.dataset.dataset_helpers import read_source


def read_csv(folder, content, name="a.csv"):
    (folder / name).write_bytes(content)
    source = customized_source(str(folder / name), "key")
    articles, tally, _ = read_source(source, folder / "work")
    notes = [note.replace(f"{folder}/", "") for note in tally.notes]
    return [article.strip() for article in articles], dict(tally.counts), notes


def test_csv_dirt(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.user_files.delimited_files.MAX_ROW_BYTES", 1000)
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
        "a.csv:5: 1 fields, expected 2; the row is dropped",
        "a.csv:9: longer than 16 MiB; the line is dropped",
        "a.csv:10: a quote is never closed; the line is a row",
        "a.csv:412: 3 fields, expected 2; the row is dropped",
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
    assert [note.split(": ")[0] for note in notes] == (["a.csv:2"] if count else [])


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
    assert notes[1] == "a.csv:2: 4 fields, expected 3; the row is dropped"


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
    assert counts == {"stray_quotes": 1} and notes[0].startswith("a.csv:3: a quote within")


def test_reading_resumes_after_the_line_of_an_unclosed_quote(tmp_path):
    rows = [
        '2,"never closed',
        "second line, z",
        "",
        "third line,z",
        "3,whole,z",
        "4,short",
        "5,e,z",
    ]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text,z", *rows]).encode())
    assert articles == ["never closed", "z", "z", "whole", "short", "e"]
    assert counts == {"unclosed_quotes": 1}


def test_lines_that_look_like_rows_are_rows(tmp_path):
    rows = ['1,"open', "2,a", '3,5" wide', '4,say "x" there', "5,last"]
    articles, counts, _ = read_csv(tmp_path, "\n".join(["id,text", *rows]).encode())
    assert articles == ["open", "a", '5" wide', 'say "x" there', "last"]
    assert counts == {"unclosed_quotes": 1}


@pytest.mark.slow
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
    assert len(notes) == 1 and notes[0].startswith("a.csv:9: ")


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
        monkeypatch.setattr(f"pipeline.user_files.delimited_files.{limit}", 5000)
    rows = "".join(f"{number},text {number}\n" for number in range(20_000))
    articles, counts, notes = read_csv(tmp_path, f'id,text\n0,"text 0\n{rows}'.encode())
    assert articles == ["text 0", *(f"text {number}" for number in range(20_000))]
    assert counts == {"unclosed_quotes": 1} and "a.csv:2: " in notes[0]
    articles, counts, _ = read_csv(tmp_path, ("id,text\n" + 'a","b\n' * 20_000).encode())
    assert articles == ["b"] * 20_000 and counts == {"unclosed_quotes": 20_000}


def test_a_long_quoted_article_of_many_lines_stays_whole(tmp_path):
    novel = "".join(f"Line {number}, and a comma.\n" for number in range(100_000))
    content = f'text,id\n"{novel}",1\nNext.,2\n'
    articles, counts, _ = read_csv(tmp_path, content.encode())
    assert articles == [novel.strip(), "Next."] and counts == {}


def test_a_header_of_two_lines(tmp_path):
    content = 'id,"text\n(English)",text\n1,a,"b, b"\n'
    assert read_csv(tmp_path, content.encode()) == (["b, b"], {}, [])
