"""Files with a token in each line: their traps, and predictions in a copy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tagging.tagged_files import (
    iter_sentences,
    read_tagged,
    tag_column_of,
    write_predictions,
)
from pipeline.errors import StageError

# Letters with combining marks, an emoji with a joiner, Unicode's own line ends, a no-break space.
CHARACTERS = "aB1#-'é\u0301\u0928\u093f\u2028\u0085\u00a0\u200d\U0001f469\U0001f3fd中\x1c"
TOKENS = st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=6)
TAGS = st.sampled_from(["O", "B-PER", "B-creative-work"])
SENTENCES = st.lists(
    st.lists(st.tuples(TOKENS, TAGS), min_size=1, max_size=8)
    | st.tuples(TOKENS, TAGS).map(lambda pair: [pair] * 300),
    min_size=1,
    max_size=4,
)


def write(path, content: str | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path, **keys):
    return [(one.tokens, one.tags, one.place()) for one in iter_sentences(path, **keys)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("conll")


@settings(deadline=None, max_examples=20)
@given(
    SENTENCES,
    st.sampled_from("\t "),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\t", " "]),
    st.booleans(),
)
def test_predictions_are_read_back(folder, sentences, separator, end, blanks, has_tags):
    """Whatever the tokens and the form of the file; all else in it stays as it is."""

    def content(tag):
        return (end + blanks + end).join(
            end.join(
                separator.join((token, *tag(label))) + (blanks if tag(label) else "")
                for token, label in sentence
            )
            for sentence in sentences
        )

    source = write(folder / "source.conll", content(lambda _: ("O",) if has_tags else ()))
    tags = [tuple(tag for _, tag in sentence) for sentence in sentences]
    tokens = [tuple(token for token, _ in sentence) for sentence in sentences]
    write_predictions(source, folder / "target.conll", tags)
    assert [one.tokens for one in iter_sentences(source)] == tokens
    found = list(iter_sentences(folder / "target.conll"))
    assert [one.tokens for one in found] == tokens
    assert [one.tags for one in found] == tags
    if has_tags:
        assert (folder / "target.conll").read_bytes() == content(lambda tag: (tag,)).encode()


def test_blank_lines_documents_and_places(tmp_path):
    content = (
        "\ufeff-DOCSTART- -X- O\r\n\r\nEU NNP B-ORG\r\n rejects  VBZ O \r\n \t\r\n\r\n"
        "# NN O\r\n-DOCSTART- -X- O\r\n-DOCSTART- -X- O\r\nx NN O"
    )
    path = write(tmp_path / "a.txt", content)
    assert read(path) == [
        (("EU", "rejects"), ("B-ORG", "O"), f"{path}:3"),
        (("#",), ("O",), f"{path}:7"),
        (("x",), ("O",), f"{path}:10"),
    ]
    assert [one.document for one in iter_sentences(path)] == [0, 0, 1]
    assert next(iter_sentences(path)).place(1) == f"{path}:4"
    write_predictions(path, path, [["B-A", "I-A"], ["O"], ["B-B"]], "IOBES")
    for old, new in (("B-ORG", "B-A"), ("VBZ O", "VBZ E-A"), ("x NN O", "x NN S-B")):
        content = content.replace(old, new)
    assert path.read_bytes() == content.encode()


def test_a_comment_is_no_token_and_a_hash_is_one(tmp_path):
    content = "# sent_id = 1\n# a\n#\tO\n# b\tO\n\n# O\n#tag\tO\n"
    path = write(tmp_path / "tabs.tsv", content)
    assert [one.tokens for one in iter_sentences(path)] == [("#", "# b"), ("#tag",)]
    write_predictions(path, tmp_path / "out.tsv", [["O", "O"], ["O"]])
    assert (tmp_path / "out.tsv").read_text() == content
    path = write(tmp_path / "spaces.txt", "# id 1\tdomain=en\nx _ _ O\n# _ _ O\n\n# _ _ O\n")
    assert [one.tokens for one in iter_sentences(path)] == [("x", "#"), ("#",)]
    path = write(tmp_path / "tokens.txt", "# text = # x\n#\nx\n")
    assert read(path) == [(("#", "x"), None, f"{path}:2")]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("a\tO\nb\nc\tO\n", 2, "1 column, expected 2 separated by TABs, as in line 1"),
        ("a\tO\nb\t\n", 2, "1 column, expected 2"),
        ("\na O\nb x O\n", 3, "3 columns, expected 2 separated by spaces, as in line 2"),
        ("a O\nb\tO\n", 2, "a TAB, but line 1 has none"),
        ("a O\n# O O\n", 2, "3 columns, expected 2"),
        ("a\tO\n# not at the start\n", 2, "1 column, expected 2"),
        ("\tO\n", 1, "no token in the first column"),
        ("a\tO\nb\tB-LOC\n", 2, "tag 'B-LOC', expected O or one of the type X, Y"),
        ("a\tB-X\nb\tX\n", 2, "tag 'X', expected O or one like B-X, as in .*:1"),
        (b"a\tO\n\xff\tO\n", 2, "not UTF-8"),
        ("a\tO\nb\0\tO\n", 2, "NUL byte"),
        ("a\tO\nb\rc\tO\n", 2, "CR within the line"),
        ("1 Al O\n2 is O\n3 in O\n4 Rome O\n5 . O\n", 1, "the first column counts the tokens"),
        ("word " * 17, 1, "17 columns, expected a token in each line"),
        ("a\nb\n", 1, "no tags"),
        pytest.param(
            "word\n" * 100_001, 1, "a sentence of more than 100,000", marks=pytest.mark.slow
        ),
    ],
)
def test_malformed_lines_are_named(tmp_path, content, line, problem):
    path = write(tmp_path / "a.tsv", content)
    with pytest.raises(StageError, match=rf"a\.tsv:{line}: {problem}"):
        read_tagged(path, types=["X", "Y"])


def test_tag_columns(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tB-A\tB-B\tO\t\nb\tI-A\tO\tB-C\t\n")
    assert [one.tags for one in iter_sentences(path, 2)] == [("B-A", "I-A")]
    assert [one.tags for one in iter_sentences(path, 4)] == [("O", "B-C")]
    assert [one.tags for one in iter_sentences(path)] == [("O", "B-C")]
    assert [one.tags for one in iter_sentences(path, 5)] == [None]
    assert (tag_column_of(path, -1), tag_column_of(path, 2), tag_column_of(path, 9)) == (4, 2, 9)
    with pytest.raises(StageError, match=r"a\.tsv:1: no tags in column 5"):
        read_tagged(path, 5)
    write_predictions(path, tmp_path / "b.tsv", [["O", "B-X"]], tag_column=3)
    assert (tmp_path / "b.tsv").read_text() == "a\tB-A\tO\tO\t\nb\tI-A\tB-X\tB-C\t\n"
    write_predictions(path, tmp_path / "b.tsv", [["O", "B-X"]], tag_column=5)
    assert (tmp_path / "b.tsv").read_text() == "a\tB-A\tB-B\tO\tO\nb\tI-A\tO\tB-C\tB-X\n"
    path = write(tmp_path / "c.txt", "a  x\nb y\n")
    write_predictions(path, tmp_path / "d.txt", [["O", "B-X"]], tag_column=4)
    assert (tmp_path / "d.txt").read_text() == "a  x O\nb y B-X\n"


def test_a_folder_is_read_by_name_with_a_document_for_each_file(tmp_path):
    write(tmp_path / "in/b.tsv", "b\tO\n\n-DOCSTART-\n\nc\tB-X\n")
    write(tmp_path / "in/a.tsv", "a\tI-X\n")
    write(tmp_path / "in/c.jsonl", '{"tokens": ["d"], "tags": ["O"]}\n')
    write(tmp_path / "in/.hidden", "no tags here")
    found = read_tagged(tmp_path / "in")
    assert [(one.tokens[0], one.document) for one in found.sentences] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
        ("d", 3),
    ]
    assert [one.tags for one in found.sentences] == [("B-X",), ("O",), ("B-X",), ("O",)]
    assert found.scheme.first_invalid == f"{tmp_path}/in/a.tsv:1"
    write_predictions(tmp_path / "in", tmp_path / "out", [["O"], ["B-Y"], ["O"], ["B-Z"]])
    assert [one.tags for one in iter_sentences(tmp_path / "out")] == [
        ("O",),
        ("B-Y",),
        ("O",),
        ("B-Z",),
    ]


def test_folders_and_files_of_another_form(tmp_path):
    write(tmp_path / "in/a.tsv", "a\tO\n")
    b = write(tmp_path / "in/b.tsv", "a\tx\tO\n")
    with pytest.raises(StageError, match=r"b\.tsv: has 3 columns, and .*a\.tsv has 2.*got -1"):
        read_tagged(tmp_path / "in")
    assert len(read_tagged(tmp_path / "in", 2).sentences) == 2
    write(b, "\n")
    with pytest.raises(StageError, match=r"b\.tsv: no sentence"):
        read_tagged(tmp_path / "in")
    write(b, b"")
    assert len(list(iter_sentences(tmp_path / "in"))) == 1
    b.rename(tmp_path / "in/b.csv")
    with pytest.raises(StageError, match=r"b\.csv: expected \.jsonl, \.parquet"):
        read_tagged(tmp_path / "in")
    (tmp_path / "in/b.csv").unlink()
    (tmp_path / "in/more").mkdir()
    with pytest.raises(StageError, match="more: is a folder"):
        read_tagged(tmp_path / "in")
    with pytest.raises(StageError, match="no file in this folder"):
        read_tagged(tmp_path / "in/more")
    with pytest.raises(StageError, match="cannot be read"):
        read_tagged(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    "tags", [[["O", "O"]], [["O"], ["O"]], [["O", "O", "O"], ["O"]], [["O", "O"], ["O"], ["O"]]]
)
def test_other_numbers_of_predictions_are_refused_and_nothing_is_written(tmp_path, tags):
    source = write(tmp_path / "a.tsv", "a\nb\n\nc\n")
    with pytest.raises(ValueError, match="predict"):
        write_predictions(source, tmp_path / "b.tsv", tags)
    if len(tags) < 3:
        assert [one.name for one in tmp_path.iterdir()] == ["a.tsv"]
