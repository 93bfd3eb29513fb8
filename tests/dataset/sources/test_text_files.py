"""Articles out of text files: what separates them, whatever the file's size."""

import json
import random
from pathlib import Path

import pytest

from dataset.sources.article_stream import Tally
from dataset.sources.text_files import check_text_file, cut_file
from pipeline.errors import StageError

CORPORA = Path(__file__).parents[4] / "shared/data/corpora"
EXAMPLES = CORPORA / "extremebert_custom_examples"


BETWEEN = ["\n\n", "\n\u3000\n", "\n\u200b\xa0 \n\n", "\n\x85\u2028\r\n\t\n", "\n\ufeff\n"]


def read(path: Path, slice_bytes: int = 1 << 25, limit: int = 1 << 20):
    """([article], counts)."""
    articles, tally = read_positions(path, slice_bytes, limit)
    return [text for _, text in articles], +tally.counts


def read_positions(path: Path, slice_bytes: int, limit: int = 1 << 20):
    tally, articles, begun = Tally(), [], False
    for piece in cut_file(path, path.name, "text", slice_bytes):
        for position, text, ends in piece.pieces(limit, tally):
            if begun:
                assert articles[-1][0] == position
                articles[-1] = position, f"{articles[-1][1]}\n{text}"
            else:
                articles.append((position, text))
            begun = not ends
        assert not begun  # no article is in two slices
    return articles, tally


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_blank_lines_and_the_end_separate_articles(tmp_path):
    path = write(tmp_path / "a.txt", b"\n\none\ntwo\n \t\r\n\nthree\r\nfour\n\n\nfive")
    articles, counts = read(path)
    assert [article.split() for article in articles] == [
        ["one", "two"],
        ["three", "four"],
        ["five"],
    ]
    assert counts == {}


def test_dirt_is_removed_and_counted(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfBOM a\0b caf\xe9 end\n\nsecond\xff\n")
    articles, counts = read(path)
    assert [article.strip() for article in articles] == ["BOM a b caf end", "second"]
    assert counts == {"byte_order_marks": 1, "nul_characters": 1, "undecodable_characters": 2}


def test_long_lines_without_blank_lines_are_articles(tmp_path):
    lines = [f"article {i} " + "word " * 300 for i in range(5)]
    path = write(tmp_path / "a.txt", "\n".join(lines).encode())
    for slice_bytes in (1 << 20, 2000):
        articles = read(path, slice_bytes)[0]
        assert [article.strip() for article in articles] == [line.strip() for line in lines]


@pytest.mark.parametrize("blank", ["\u3000", "\u200b", "\x85 \ufeff"])
def test_long_lines_with_other_blank_lines_between_are_parted_by_them(tmp_path, blank):
    articles = [f"{i} {'word ' * 400}\n{i} {'word ' * 400}end" for i in range(5)]
    path = write(tmp_path / "a.txt", f"\n{blank}\n".join(articles).encode())
    for slice_bytes in (1 << 20, 2000):
        assert [article.strip() for article in read(path, slice_bytes)[0]] == articles


def test_short_lines_without_blank_lines_are_one_article(tmp_path):
    path = write(tmp_path / "a.txt", b"one sentence.\n" * 50)
    assert len(read(path)[0]) == 1


def test_utf16_is_an_error_that_names_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "text".encode("utf-16"))
    with pytest.raises(StageError, match=r"a\.txt: the text is UTF-16"):
        check_text_file(str(path), "text")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "wiki"])
@pytest.mark.parametrize("slice_bytes", [1, 7, 50, 333, 5000])
def test_slices_hold_every_article_once(tmp_path, slice_bytes, kind):
    rng = random.Random(slice_bytes)
    articles = [
        "\n".join(f"{i} é {'x' * rng.randrange(1, 40)}" for _ in range(rng.randrange(1, 6)))
        for i in range(60)
    ]
    if kind == "txt":
        content = "".join(article + rng.choice(BETWEEN) for article in articles)
    elif kind == "jsonl":
        content = "\n".join(json.dumps({"text": article}) for article in articles)
    else:
        docs = [f'<doc id="{i}" title="T">\nT\n\n{text}\n' for i, text in enumerate(articles)]
        content = "\n</doc>\n".join(docs) + "\n</doc>\n"
    path = write(tmp_path / ("wiki_00" if kind == "wiki" else f"a.{kind}"), content.encode())
    assert [article.strip() for article in read(path, slice_bytes)[0]] == articles
    assert read_positions(path, slice_bytes) == read_positions(path, 1 << 30)


@pytest.mark.parametrize("separator", ["", " ", "\n"])
def test_giant_articles_come_in_pieces_without_loss(tmp_path, separator):
    text = separator.join("жук中文😀abc" for _ in range(100))
    path = write(tmp_path / "a.txt", f"{text}\n\nsecond".encode())
    for slice_bytes in (1 << 20, 150):
        articles, _ = read(path, slice_bytes, limit=100)
        assert ["".join(article.split()) for article in articles] == [
            "".join(text.split()),
            "second",
        ]
    (piece,) = cut_file(path, "a", "text", 1 << 20)
    found = list(piece.pieces(100, Tally()))
    assert len(found) > 20 and max(len(text.encode()) for _, text, _ in found) <= 100


def test_empty_file(tmp_path):
    assert read(write(tmp_path / "a.txt", b"")) == ([], {})


def test_json_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.sources.text_files.MAX_ROW_BYTES", 500)
    lines = [
        '\ufeff{"text": "One.\\n\\nStill one. \\ud800\\u0000", "id": 1}',
        "{broken",
        '{"id": 3}',
        '{"text": 4}',
        '["text"]',
        "",
        "\u3000\u200b",
        '{"text": null}',
        json.dumps({"text": "x" * 1000}),
        '{"text": "Last \\ud83d\\ude00."}',
    ]
    path = write(tmp_path / "a.jsonl", "\r\n".join(lines).encode())
    articles, tally = read_positions(path, 1 << 20)
    assert [text for _, text in articles] == ["One.\n\nStill one.  ", "", "Last 😀."]
    assert tally.counts == {
        "byte_order_marks": 1,
        "undecodable_characters": 1,
        "nul_characters": 1,
        "malformed_rows": 4,
        "oversized_rows": 1,
        "null_rows": 1,
    }
    assert "a.jsonl: row at byte 57: not JSON, Expecting property name" in tally.notes[0]
    assert "longer than" in tally.notes[-1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"text": ["a"]}', "a list in `text`, expected text"),
        ('{"text": {"a": 1}}', "an object in `text`, expected text"),
        ('{"text": 4.5}', "a number in `text`, expected text"),
        ('{"text": true}', "true or false in `text`, expected text"),
        ('{"body": "a"}', "no `text`"),
        ('{"text": "a"', "not JSON, Expecting ',' delimiter in column 13"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_row_without_text_is_named_with_the_reason(tmp_path, row, reason):
    path = write(tmp_path / "a.jsonl", f'{{"text": "One."}}\n{row}\n'.encode())
    check_text_file(str(path), "text")
    articles, tally = read_positions(path, 1 << 20)
    assert articles == [(0, "One.")] and tally.counts == {"malformed_rows": 1}
    assert tally.notes == [f"{path}: row at byte 17: {reason}"]


def test_a_text_that_a_row_has_twice_is_counted(tmp_path):
    rows = ['{"text": "lost", "text": "One."}', '{"a": {"text": "b"}, "text": "Two \\"text\\"."}']
    path = write(tmp_path / "a.jsonl", "\n".join(rows).encode())
    articles, tally = read_positions(path, 1 << 20)
    assert [text for _, text in articles] == ["One.", 'Two "text".']
    assert tally.counts == {"repeated_keys": 1}
    assert tally.notes == [f"{path}: row at byte 0: `text` twice, the first is lost"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": ["a"]}\n' * 12, "each of its first 10 rows has a list in `text`, expected"),
        (b'{"text": 1}\n\n{"text": "a"', "its first row has a number in `text`, expected text"),
        (b'\n\xe3\x80\x80\n[{"text": "a"}]', "is a JSON array"),
        (b'{"content": "x", "id": 1}\n', "has no column `text`, it has content, id"),
        (b'{"text": null}\n' * 11, "each of its first 10 rows has null in `text`"),
        (b'{\n  "text": "a"\n}\n', "none of its first lines is a JSON object, expected one per"),
        (b'{\n  "id": 1,\n  "text": "a"\n}\n' * 20, "none of its first lines is a JSON object"),
        (b' [{"text": "x"}]', "is a JSON array, expected JSON lines"),
    ],
)
def test_unusable_json(tmp_path, content, message):
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(StageError, match=rf"a\.jsonl: .*{message}"):
        check_text_file(str(path), "text")


@pytest.mark.parametrize(
    "content",
    [b'{"text": null}\n' * 9, b'{"text": null}\n' * 9 + b'{"text": "a"}\n' * 2, b'{"text": "a'],
)
def test_rows_that_may_be_followed_by_better_ones_are_no_problem(tmp_path, content):
    check_text_file(str(write(tmp_path / "a.jsonl", content)), "text")


def test_wikiextractor_elements(tmp_path):
    content = b"""<doc id="1" url="u" title="Abbott &amp; Costello">
Abbott &amp; Costello

Two men &lt;1950&gt;.
The end.

</doc>
<doc id="2" url="u" title="Nothing">
Nothing


</doc>
<doc id="3" url="u" title="Other">
No title here.
</doc>
"""
    for name, mark in (("wiki_00", b""), ("a.txt", b"\xef\xbb\xbf"), ("more", b"")):
        articles, _ = read(write(tmp_path / name, mark + content))
        assert [article.split("\n") for article in map(str.strip, articles)] == [
            ["Two men <1950>.", "The end."],
            [""],
            ["No title here."],
        ]
    (tmp_path / "wiki_00").write_text('{"id": "1", "text": "Words."}\n{"id": "2", "text": ""}\n')
    assert read(tmp_path / "wiki_00")[0] == ["Words.", ""]


def test_elements_of_one_line(tmp_path):
    content = """<doc id="1" title="A "b" > c">
A "b" > c
Words.</doc>
<doc id="2">One line, &lt;whole&gt;&#xFEFF;.</doc><doc id="3" title="T"> Text.
</doc>
"""
    articles, counts = read(write(tmp_path / "wiki_00", content.encode()))
    assert [article.strip() for article in articles] == ["Words.", "One line, <whole>.", "Text."]
    assert counts == {"byte_order_marks": 1}


@pytest.mark.skipif(not CORPORA.exists(), reason="shared data is not here")
@pytest.mark.parametrize(("name", "num_docs"), [("wiki_00", 1530), ("wiki_30", 1022)])
def test_real_wikiextractor_files(name, num_docs):
    articles, counts = read(CORPORA / "wikiextractor_format/AA" / name, slice_bytes=100_000)
    assert len(articles) == num_docs and counts == {}
    assert not any("<doc " in article or "</doc>" in article for article in articles)
    assert 300 < sum(bool(article.strip()) for article in articles) < num_docs


@pytest.mark.skipif(not EXAMPLES.exists(), reason="shared data is not here")
@pytest.mark.parametrize(
    ("name", "num_articles"),
    [("multisent_perline", 11), ("onesent_perline", 499), ("onearticle_perline", 932)],
)
def test_custom_examples(name, num_articles):
    """The counts are those of the blocks between blank lines, counted by hand with awk."""
    articles, counts = read(EXAMPLES / f"example_{name}.txt")
    assert len(articles) == num_articles
    assert counts == {}


@pytest.mark.skipif(not EXAMPLES.exists(), reason="shared data is not here")
def test_one_article_per_line_needs_no_blank_lines(tmp_path):
    lines = (EXAMPLES / "example_onearticle_perline.txt").read_text().splitlines()
    lines = [line for line in lines if line.strip()]
    path = write(tmp_path / "a.txt", "\n".join(lines).encode())
    assert [article.strip() for article in read(path)[0]] == [line.strip() for line in lines]
