"""The TSV reader against the traps of GLUE's files."""

import tracemalloc

import pytest

from finetune.data.examples import load_examples
from finetune.data.tables import iter_table, read_table
from finetune.data.tasks import find_task
from pipeline.errors import StageError


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_byte_order_mark_crlf_quotes_and_odd_line_separators(tmp_path):
    content = '\ufeffQuality\tA\tB\r\n1\t"unbalanced\tb\u2028c\r\n0\t\x85\t"q"\r\n\r\n'
    table = read_table(write(tmp_path / "a.tsv", content.encode()), ("A", "Quality", "B"))
    assert table.rows == [(2, ('"unbalanced', "1", "b\u2028c")), (3, ("\x85", "0", '"q"'))]
    assert table.malformed == []


def test_header_can_be_given_and_last_line_may_lack_its_end(tmp_path):
    path = write(tmp_path / "a.tsv", b"gj04\t1\t\tOne.\ngj04\t0\t*\tTwo.")
    table = read_table(path, ("text", "label"), header=("source", "label", "original", "text"))
    assert [fields for _, fields in table.rows] == [("One.", "1"), ("Two.", "0")]


def test_malformed_rows_are_named_and_left_out(tmp_path):
    path = write(tmp_path / "a.tsv", b"x\ty\n1\n1\t2\t3\n\n\xff\t2\n5\t6\n")
    table = read_table(path, ("x",))
    assert table.rows == [(6, ("5",))]
    assert table.malformed == [
        f"{path}:2: 1 fields, expected 2",
        f"{path}:3: 3 fields, expected 2",
        f"{path}:4: 1 fields, expected 2",
        f"{path}:5: not UTF-8",
    ]


def test_missing_file_and_column(tmp_path):
    with pytest.raises(StageError, match=r"none\.tsv: cannot be read"):
        read_table(tmp_path / "none.tsv", ("x",))
    path = write(tmp_path / "a.tsv", b"x\ty\n1\t2\n")
    with pytest.raises(StageError, match=r"a\.tsv: no column z; it has x, y"):
        read_table(path, ("x", "z"))
    for content in (b"", b"\xef\xbb\xbf", b"\r\n\r\n"):
        with pytest.raises(StageError, match="no column x; it has none, the file is empty"):
            read_table(write(tmp_path / "empty.tsv", content), ("x",))
    path = write(tmp_path / "utf16.tsv", "x\ty\n1\t2\n".encode("utf-16"))
    with pytest.raises(StageError, match="UTF-16, expected UTF-8"):
        read_table(path, ("x",))
    path = write(tmp_path / "twice.tsv", b"x\ty\tx\n1\t2\t3\n")
    assert read_table(path, ("y",)).rows == [(2, ("2",))]
    with pytest.raises(StageError, match="column x appears twice"):
        read_table(path, ("x",))


def test_spaces_around_names_of_columns_and_nul_bytes(tmp_path):
    content = b"\xef\xbb\xbf x \ty \r\na\tb\r\n\0\0\0\0\tb\r\nc\td"
    path = write(tmp_path / "a.tsv", content)
    table = read_table(path, ("y", "x"))
    assert table.rows == [(2, ("b", "a")), (4, ("d", "c"))]
    assert table.malformed == [f"{path}:3: NUL byte"]


def test_a_split_without_a_row_that_can_be_read(tmp_path):
    task = find_task("sst2")
    path = write(tmp_path / "SST-2/dev.tsv", b"sentence\tlabel\n")
    with pytest.raises(StageError, match=r"dev\.tsv: no row that can be read$"):
        load_examples(task, task.dev[0], str(tmp_path))
    write(path, b"sentence\tlabel\none\n")
    with pytest.raises(StageError, match=r"no row .* the first is .*dev\.tsv:2: 1 fields"):
        load_examples(task, task.dev[0], str(tmp_path))


def test_rows_without_a_label_are_left_out(tmp_path):
    task = find_task("sst2")
    path = write(tmp_path / "SST-2/dev.tsv", b"sentence\tlabel\na\t1 \nb\t\nc\t0\n")
    examples = load_examples(task, task.dev[0], str(tmp_path))
    assert examples.texts == [("a",), ("c",)] and examples.labels == [1, 0]
    assert examples.unlabelled == [f"{path}:3: no label"] and examples.malformed == []


def test_unknown_label_and_score_name_file_and_line(tmp_path):
    write(tmp_path / "RTE/train.tsv", b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n")
    rte = find_task("RTE")
    with pytest.raises(StageError, match=r"train\.tsv:2: label 'maybe', expected one of entail"):
        load_examples(rte, rte.train, str(tmp_path))
    header = b"\t".join(f"c{i}".encode() for i in range(7)) + b"\tsentence1\tsentence2\tscore\n"
    for score in (b"5.1", b"nan", b"high"):
        row = b"\t".join([b""] * 7 + [b"a", b"b", score])
        write(tmp_path / "STS-B/train.tsv", header + row + b"\n")
        stsb = find_task("stsb")
        with pytest.raises(StageError, match=r"train\.tsv:2: score .* expected a number from 0"):
            load_examples(stsb, stsb.train, str(tmp_path))


def test_a_test_row_cannot_be_left_out(tmp_path):
    write(tmp_path / "SST-2/test.tsv", b"index\tsentence\n0\ta\nb\n")
    task = find_task("sst2")
    with pytest.raises(StageError, match="a test row cannot be left out"):
        load_examples(task, task.test[0], str(tmp_path))


REAL_ROWS = {  # those of shared/data/glue_data/SOURCE.md
    ("CoLA", "train"): 8551,
    ("CoLA", "dev"): 1043,
    ("CoLA", "test"): 1063,
    ("SST-2", "train"): 67349,
    ("SST-2", "dev"): 872,
    ("SST-2", "test"): 1821,
    ("MRPC", "train"): 3668,
    ("MRPC", "dev"): 408,
    ("MRPC", "test"): 1725,
    ("RTE", "train"): 2490,
    ("RTE", "dev"): 277,
    ("RTE", "test"): 3000,
    ("QNLI", "dev"): 5463,
    ("QNLI", "test"): 5463,
    ("QQP", "train"): 18000,
    ("QQP", "dev"): 2000,
    ("MNLI", "train"): 8999,
    ("MNLI", "dev_matched"): 1000,
    ("MNLI", "dev_mismatched"): 1000,
    ("MNLI", "diagnostic"): 1104,
}


@pytest.mark.slow
def test_real_files_are_read_completely(shared_data):
    counts, malformed = {}, []
    for name, split_name in REAL_ROWS:
        task = find_task(name)
        split = next(split for split in task.splits if split.name == split_name)
        examples = load_examples(task, split, str(shared_data / "glue_data"))
        counts[name, split_name] = len(examples.texts)
        malformed += examples.malformed
        assert len(examples.labels) == (0 if split.submission else len(examples.texts))
    assert counts == REAL_ROWS
    assert len(malformed) == 1 and "QQP/train.tsv:2: 5 fields, expected 6" in malformed[0]


# --- row by row -------------------------------------------------------------------------------

STREAMED = {
    "tsv": b"text\tlabel\na\t1\nb\n\nc\t2\n\xff\t3\nd\t4\n\n",
    "csv": b'text,label\na,1\n"b\n",2\n\nc\n"d, e",4\n"f"g,5\nh,6\n',
    "jsonl": b'{"text": "a", "label": 1}\n{\n\n{"text": "b"}\n{"text": "c", "label": true}\n',
}


@pytest.mark.parametrize("ending", STREAMED)
def test_a_stream_gives_what_the_table_has_and_names_the_other_rows(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", STREAMED[ending])
    table, rows = read_table(path, ("label", "text")), list(iter_table(path, ("label", "text")))
    assert [(row.number, row.cells) for row in rows if not row.problem] == table.rows
    told = [f"{path}:{row.number}: {row.problem}" for row in rows if row.problem]
    assert told == table.malformed and told and table.rows
    assert all(not row.cells and not row.lists for row in rows if row.problem)


@pytest.mark.parametrize("ending", STREAMED)
def test_a_stream_goes_on_after_any_row(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", STREAMED[ending])
    rows = list(iter_table(path, ("text",)))
    for start in range(len(rows) + 2):
        assert list(iter_table(path, ("text",), start=start)) == rows[start:]


def test_the_memory_of_a_stream_does_not_grow_with_the_file(tmp_path):
    text = b"x" * 1000
    for name, line in (("a.tsv", text + b"\t1\n"), ("a.jsonl", b'{"text": "' + text + b'"}\n')):
        path = write(tmp_path / name, b"text\tlabel\n" * (name == "a.tsv") + line * 9_000)
        tracemalloc.start()
        assert sum(row.cells == (text.decode(),) for row in iter_table(path, ("text",))) == 9_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20 < path.stat().st_size
        tracemalloc.stop()


def test_a_column_that_no_object_has_is_told_at_the_end(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": "b", "id": 1}\n')
    rows = iter_table(path, ("text", "label"), optional=("label",))
    assert [next(rows).cells, next(rows).cells] == [("a", ""), ("b", "")]
    with pytest.raises(StageError, match="no column label; it has text, id"):
        next(rows)


# --- lists ------------------------------------------------------------------------------------


def test_lists_of_json_and_of_text_are_the_same(tmp_path):
    rows = ['["joy", "a b"]', '["joy"]', "[]", '"joy, a b"', "3", "[1, 2.0, true]", "null"]
    objects = "".join(f'{{"text": "t", "tags": {row}}}\n' for row in rows)
    path = write(tmp_path / "a.jsonl", (objects + '{"text": "t"}\n').encode())
    lists = [row.lists for row in iter_table(path, ("text",), lists=("tags",))]
    found = [("joy", "a b"), ("joy",), (), ("joy", "a b"), ("3",), ("1", "2", "true"), None, None]
    assert lists == [(tags,) for tags in found]
    content = b'text,tags\nt,"joy, a b"\nt,joy\nt,\nt," , ,"\n'
    path = write(tmp_path / "a.csv", content)
    cells = list(iter_table(path, ("text",), lists=("tags",)))
    assert [row.lists for row in cells] == [(("joy", "a b"),), (("joy",),), ((),), ((),)]
    assert {row.cells for row in cells} == {("t",)}
    [row, *_] = iter_table(path, (), lists=("tags", "text"), separator=" ")
    assert row.lists == (("joy,", "a", "b"), ("t",)) and row.cells == ()


def test_a_list_of_other_things_is_malformed(tmp_path):
    content = b'{"tags": {"a": 1}}\n{"tags": [["a"]]}\n{"tags": ["a", null]}\n{"tags": ["a"]}\n'
    path = write(tmp_path / "a.jsonl", content)
    problems = [row.problem for row in iter_table(path, (), lists=("tags",))]
    assert problems == ["no list of texts or numbers as tags"] * 3 + [""]


def test_names_of_columns_in_a_file_that_should_have_none(tmp_path):
    path = write(tmp_path / "a.tsv", b"Text\tLabel\na\t1\n")
    with pytest.raises(StageError, match=r"a\.tsv:1: the names of the columns, expected a file w"):
        read_table(path, ("text", "label"), header=("text", "label"))
