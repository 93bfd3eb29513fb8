"""Every reader of finetuning's tables against broken files (tests/broken_files.py)."""

import functools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import load_examples
from finetune.data.tables import read_table
from finetune.data.tasks import Task, find_task
from pipeline.errors import StageError
from tests.broken_files import (
    CHANGED,
    COMPLETE,
    CUTS,
    ENCODINGS,
    FLIPS,
    NOTHING,
    OTHERS,
    REFUSED,
    REPORTED,
    Case,
    Found,
    Reader,
    cases_of,
    odd_cases_of,
    rows_of,
)

ALL = (CUTS, FLIPS, NOTHING, OTHERS, ENCODINGS)


def found_in(task: Task, split, folder: Path) -> Found:
    examples = load_examples(task, split, str(folder))
    items = (examples.texts, examples.labels, examples.keys, examples.answers)
    return Found(items, examples.malformed + examples.unlabelled)


# --- GLUE -------------------------------------------------------------------------------------


def glue_reader(name: str, split_name: str, content: bytes) -> Reader:
    task = find_task(name)
    split = next(split for split in task.splits if split.name == split_name)

    def read(path: Path) -> Found:
        return found_in(task, split, path.parent.parent)

    return Reader(f"{name} {split_name}", split.files[0], content, read)


def table(header: str, *rows: str) -> bytes:
    return "".join(f"{row}\n" for row in (header, *rows)).encode()


SENTENCES = [f'Sentence {number}: a naïve "café and déjà vu' for number in range(20)]
SST_TRAIN = glue_reader(
    "SST-2",
    "train",
    table("sentence\tlabel", *(f"{text}\t{i % 2}" for i, text in enumerate(SENTENCES))),
)
SST_TEST = glue_reader(
    "SST-2",
    "test",
    table("index\tsentence", *(f"{i}\t{text}" for i, text in enumerate(SENTENCES))),
)
COLA_TRAIN = glue_reader(
    "CoLA",
    "train",
    "".join(f"gj04\t{i % 2}\t*\t{text}\n" for i, text in enumerate(SENTENCES)).encode(),
)
STS_HEADER = "\t".join([*(f"c{number}" for number in range(7)), "sentence1", "sentence2", "score"])
STS_DEV = glue_reader(
    "STS-B",
    "dev",
    table(STS_HEADER, *("x\t" * 7 + f"{t}\t{t}\t{i % 6}.0" for i, t in enumerate(SENTENCES))),
)
MNLI_DIAGNOSTIC = glue_reader(
    "MNLI",
    "diagnostic",
    table("index\tsentence1\tsentence2", *(f"{i}\t{t}\t{t}" for i, t in enumerate(SENTENCES))),
)


def with_row(reader: Reader, *rows: str) -> bytes:
    return reader.content + "".join(f"{row}\n" for row in rows).encode()


SST_ROWS = {
    "just_a_header": (b"sentence\tlabel\n", REFUSED),
    "no_header": (SST_TRAIN.content.split(b"\n", 1)[1], REFUSED),
    "no_such_column": (SST_TRAIN.content.replace(b"label", b"class", 1), REFUSED),
    "column_twice": (SST_TRAIN.content.replace(b"label", b"label\tlabel", 1), REFUSED),
    "commas": (SST_TRAIN.content.replace(b"\t", b","), REFUSED),
    "a_header_of_numbers": (SST_TRAIN.content.replace(b"sentence\tlabel", b"0\t1", 1), REFUSED),
    "the_header_twice": (with_row(SST_TRAIN, "sentence\tlabel"), REFUSED),
    "a_large_header": (b"x" * 300_000 + b"\n" + SST_TRAIN.content, REFUSED),
    "many_columns": (b"\t" * 300_000 + b"\n" + SST_TRAIN.content, REFUSED),
    "too_few_fields": (with_row(SST_TRAIN, "a"), REPORTED),
    "too_many_fields": (with_row(SST_TRAIN, "a\t1\t2"), REPORTED),
    "a_blank_line_inside": (with_row(SST_TRAIN, "", "a\t1"), REPORTED),
    "a_row_of_spaces": (with_row(SST_TRAIN, "  "), REPORTED),
    "no_label": (with_row(SST_TRAIN, "a\t"), REPORTED),
    "a_blank_label": (with_row(SST_TRAIN, "a\t  "), REPORTED),
    "label_out_of_range": (with_row(SST_TRAIN, "a\t2"), REFUSED),
    "label_is_negative": (with_row(SST_TRAIN, "a\t-1"), REFUSED),
    "label_is_a_fraction": (with_row(SST_TRAIN, "a\t0.5"), REFUSED),
    "label_is_a_float": (with_row(SST_TRAIN, "a\t1.0"), REFUSED),
    "label_is_nan": (with_row(SST_TRAIN, "a\tnan"), REFUSED),
    "label_is_a_word": (with_row(SST_TRAIN, "a\tpositive"), REFUSED),
    "label_is_a_book": (with_row(SST_TRAIN, "a\t" + "word " * 50_000), REFUSED),
    "label_in_other_digits": (with_row(SST_TRAIN, "a\t１"), REFUSED),
}
STS_ROWS = {
    f"score_is_{name}": (with_row(STS_DEV, "x\t" * 7 + f"a\tb\t{score}"), REFUSED)
    for name, score in {
        "nan": "nan",
        "infinite": "inf",
        "minus_infinite": "-inf",
        "huge": "1e999",
        "negative": "-0.1",
        "too_large": "5.001",
        "a_word": "high",
        "with_a_comma": "2,5",
        "with_an_underscore": "0_1",
        "hexadecimal": "0x1",
        "a_book": "1" * 50_000,
    }.items()
}
TEST_ROWS = {
    "too_few_fields": (with_row(SST_TEST, "20"), REFUSED),
    "too_many_fields": (with_row(SST_TEST, "20\ta\tb"), REFUSED),
    "a_blank_line_inside": (with_row(SST_TEST, "", "20\ta"), REFUSED),
    "an_id_twice": (with_row(SST_TEST, "7\ta"), REFUSED),
    "id_column_twice": (SST_TEST.content.replace(b"index", b"index\tindex", 1), REFUSED),
    "no_utf8": (SST_TEST.content + b"20\t\xff\n", REFUSED),
    "just_a_header": (b"index\tsentence\n", REFUSED),
    "no_ids": (SST_TEST.content.replace(b"index", b"number", 1), COMPLETE),
}


def glue_cases() -> Iterator[Case]:
    for reader in (SST_TRAIN, SST_TEST, COLA_TRAIN, STS_DEV, MNLI_DIAGNOSTIC):
        yield from cases_of(reader, ALL)
        yield from odd_cases_of(reader)
    yield from rows_of(SST_TRAIN, SST_ROWS)
    yield from rows_of(STS_DEV, STS_ROWS)
    yield from rows_of(SST_TEST, TEST_ROWS)


# --- SuperGLUE --------------------------------------------------------------------------------

PLACES = [{"start": 0, "end": 4}, {"start": 10, "end": 13}]
PASSAGE = "Zürich or Bern.\n@highlight\nA naïve summary"
ROWS = {
    "BoolQ": {"passage": "A naïve café.", "question": "is it", "label": True},
    "CB": {"premise": "A naïve café.", "hypothesis": "It is.", "label": "neutral"},
    "COPA": {
        "premise": "A naïve café.",
        "choice1": "One.",
        "choice2": "Two.",
        "question": "cause",
        "label": 1,
    },
    "MultiRC": {
        "passage": {
            "text": "A naïve café.",
            "questions": [
                {"idx": 0, "question": "What?", "answers": [{"idx": 0, "text": "It", "label": 1}]}
            ],
        }
    },
    "ReCoRD": {
        "passage": {"text": PASSAGE, "entities": PLACES},
        "qas": [{"idx": 0, "query": "Where is @placeholder?", "answers": [{"text": "Bern"}]}],
    },
    "WiC": {
        "word": "café",
        "sentence1": "A naïve café.",
        "sentence2": "Their café.",
        "start1": 8,
        "end1": 12,
        "start2": 6,
        "end2": 10,
        "label": False,
    },
    "WSC": {
        "text": "The naïve café is open because it is day.",
        "target": {
            "span1_text": "The naïve café",
            "span1_index": 0,
            "span2_text": "it",
            "span2_index": 6,
        },
        "label": True,
    },
}


def numbered(row: dict, number: int) -> dict:
    """The same row with indices of its own."""
    copy = json.loads(json.dumps(row)) | {"idx": number}
    for query in copy.get("qas", ()):
        query["idx"] = number
    return copy


def objects(*rows: object) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def superglue_reader(name: str, split_name: str = "dev") -> Reader:
    task = find_task(name)
    split = next(split for split in task.splits if split.name == split_name)
    rows = (numbered(ROWS[name], number) for number in range(8))

    def read(path: Path) -> Found:
        return found_in(task, split, path.parent.parent)

    return Reader(f"{name} {split_name}", split.files[0], objects(*rows), read)


def changed(row: dict, path: str, value: object) -> dict:
    """A row of number 8 with another value at a path like `qas.0.idx`; `del` takes it out."""
    copy = numbered(row, 8)
    *parents, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place = functools.reduce(lambda content, name: content[name], parents, copy)
    if value is del_:
        del place[last]
    else:
        place[last] = value
    return copy


del_ = object()
# Of each task: where a value is broken, by what, and what is made of it in a dev file.
BROKEN_VALUES = {
    "BoolQ": [
        ("label", del_, REPORTED),
        ("label", 2, REFUSED),
        ("label", None, REFUSED),
        ("label", [True], REFUSED),
        ("label", "maybe", REFUSED),
        ("passage", None, REPORTED),
        ("passage", 7, REPORTED),
        ("question", del_, REPORTED),
        ("question", "\ud800", REPORTED),
        ("idx", 3, REFUSED),
        ("idx", -1, REPORTED),
        ("idx", 1.5, REPORTED),
        ("idx", True, REPORTED),
        ("idx", None, REPORTED),
        ("idx", {"passage": 1}, REPORTED),
        ("idx", "9" * 5000, REPORTED),
    ],
    "CB": [("label", "Neutral!", REFUSED), ("premise", ["a"], REPORTED)],
    "COPA": [
        ("label", 2, REFUSED),
        ("label", float("nan"), REFUSED),
        ("question", "why", REPORTED),
        ("question", ["cause"], REPORTED),
        ("choice2", del_, REPORTED),
        ("premise", 5, REPORTED),
        ("idx", del_, CHANGED),  # a row more: its place in the file counts
    ],
    "MultiRC": [
        ("passage", "text", REPORTED),
        ("passage.questions", None, REPORTED),
        ("passage.questions", "text", REPORTED),
        ("passage.questions.0.answers", [1], REPORTED),
        ("passage.questions.0.answers.0.label", 3, REFUSED),
        ("passage.questions.0.answers.0.idx", "x", REPORTED),
        ("passage.questions.0.question", None, REPORTED),
    ],
    "ReCoRD": [
        ("passage.entities", [{"start": 2, "end": 400}], REPORTED),
        ("passage.entities", [{"start": 5, "end": 2}], REPORTED),
        ("passage.entities", [{"start": "0", "end": 2}], REPORTED),
        ("passage.entities", [{"start": -3, "end": 2}], REPORTED),
        ("passage.entities", [3], REPORTED),
        ("passage.text", None, REPORTED),
        ("qas.0.query", "Without a gap.", REPORTED),
        ("qas.0.answers", del_, REPORTED),
        ("qas.0.answers", [{"text": 4}], REPORTED),
        ("qas.0.answers", [{"text": ["Bern"]}], REPORTED),
        ("qas.0.idx", 3, REFUSED),
        ("qas", None, REPORTED),
    ],
    "WiC": [
        ("start1", 99, REPORTED),
        ("end1", 3, REPORTED),
        ("start2", "6", REPORTED),
        ("start2", 6.5, REPORTED),
        ("start1", -2, REPORTED),
        ("sentence2", None, REPORTED),
    ],
    "WSC": [
        ("target.span1_index", "0", REPORTED),
        ("target.span2_index", del_, REPORTED),
        ("target.span1_text", None, REPORTED),
        ("target", [], REPORTED),
        ("target.span2_text", "words that are not there", CHANGED),  # the word at its index counts
        ("text", "", REPORTED),
    ],
}
OBJECT_ROWS = {
    "a_list": (b"[1, 2]\n", REPORTED),
    "a_text": (b'"text"\n', REPORTED),
    "null": (b"null\n", REPORTED),
    "an_empty_object": (b"{}\n", REPORTED),
    "not_json": (b"{'idx': 8}\n", REPORTED),
    "two_objects": (objects({"idx": 8}).strip() * 2 + b"\n", REPORTED),
    "nested_deeply": (b"[" * 200_000 + b"\n", REPORTED),
    "a_huge_number": (b'{"idx": ' + b"9" * 5000 + b"}\n", REPORTED),
    "a_blank_line": (b"\n{}\n", REPORTED),
}


def superglue_cases() -> Iterator[Case]:
    for name, values in BROKEN_VALUES.items():
        reader = superglue_reader(name)
        yield from cases_of(reader, ALL)
        rows = {
            f"{number}_{place}": (reader.content + broken_row(name, place, value), outcome)
            for number, (place, value, outcome) in enumerate(values)
        }
        yield from rows_of(reader, rows)
    reader = superglue_reader("BoolQ")
    appended = {
        name: (reader.content + row, outcome) for name, (row, outcome) in OBJECT_ROWS.items()
    }
    yield from rows_of(reader, appended)
    yield from rows_of(reader, {"an_array": (b"[" + reader.content + b"]", REPORTED)})
    yield from odd_cases_of(reader)
    test = superglue_reader("BoolQ", "test")
    in_test = {name: (test.content + row, REFUSED) for name, (row, _) in OBJECT_ROWS.items()}
    yield from rows_of(test, in_test)
    train = superglue_reader("BoolQ", "train")
    yield from rows_of(
        train, {"an_id_twice": (train.content + objects(ROWS["BoolQ"] | {"idx": 3}), CHANGED)}
    )


def broken_row(name: str, place: str, value: object) -> bytes:
    return json.dumps(changed(ROWS[name], place, value)).encode() + b"\n"


# --- tasks of one's own -----------------------------------------------------------------------

PAIRS = [(text, ("no", "yes")[number % 2]) for number, text in enumerate(SENTENCES)]
OWN_CONTENT = {
    "tsv": table("text\tlabel", *(f"{text}\t{label}" for text, label in PAIRS)),
    "csv": table("text,label", *(f'"{t.replace(chr(34), chr(34) * 2)}",{lab}' for t, lab in PAIRS)),
    "jsonl": objects(*({"text": text, "label": label} for text, label in PAIRS)),
}


def own_reader(ending: str, role: str, **keys) -> Reader:
    """role: which of a task's files is broken; the others are whole."""

    def read(path: Path) -> Found:
        files = {name: path.with_name(f"{name}.{ending}") for name in ("train", "dev", "test")}
        for name, file in files.items():
            if name != role:
                file.write_bytes(OWN_CONTENT[ending])
        paths = {name: str(file) for name, file in files.items()}
        task = custom_task("mine", TaskKeys(text_columns=["text"], **paths, **keys))
        split = next(split for split in task.splits if split.name == role)
        found = found_in(task, split, Path("."))
        return Found((tuple(task.labels), found.items), found.reports)

    return Reader(f"own task, {role}.{ending}", f"{role}.{ending}", OWN_CONTENT[ending], read)


OWN_TSV, OWN_CSV, OWN_JSONL = (own_reader(ending, "train") for ending in ("tsv", "csv", "jsonl"))
CSV_TEXT = OWN_CONTENT["csv"]
OWN_CSV_ROWS = {
    "just_a_header": (b"text,label\n", REFUSED),
    "no_header": (CSV_TEXT.split(b"\n", 1)[1], REFUSED),
    "too_few_fields": (CSV_TEXT + b"a\n", REPORTED),
    "too_many_fields": (CSV_TEXT + b"a,yes,2\n", REPORTED),
    "a_blank_line_inside": (CSV_TEXT + b"\na,yes\n", REPORTED),
    "an_unclosed_quote": (CSV_TEXT + b'"a,yes\n', REFUSED),
    "an_unclosed_quote_in_front": (CSV_TEXT.replace(b'"Sen', b'"x"Sen', 1), REPORTED),
    "text_behind_a_quote": (CSV_TEXT + b'"a" b,yes\n', REPORTED),
    "semicolons": (CSV_TEXT.replace(b",", b";"), COMPLETE),
    "tabs": (OWN_CONTENT["tsv"], REFUSED),
    "no_label": (CSV_TEXT + b"a,\n", REPORTED),
    "one_label": (CSV_TEXT.replace(b",yes", b",no"), REFUSED),
    "an_extra_label": (CSV_TEXT + b"a,perhaps\n", CHANGED),
    "a_label_per_row": (
        b"text,label\n" + b"".join(b"a,b%d\n" % number for number in range(2000)),
        REFUSED,
    ),
    "numbers_as_labels": (b"text,label\na,0.5\nb,1.5\n", REFUSED),
    "a_line_break_in_a_label": (CSV_TEXT + b'a,"two\nlines"\n', REFUSED),
    "a_header_of_two_lines": (CSV_TEXT.replace(b"label", b'"la\nbel"', 1), REFUSED),
}


def own_regression() -> Iterator[Case]:
    scores = table("text\tlabel", *(f"{text}\t0.{i % 10}" for i, text in enumerate(SENTENCES)))

    def read(path: Path) -> Found:
        path.with_name("train.tsv").write_bytes(scores)
        files = {"train": str(path.with_name("train.tsv")), "dev": str(path)}
        task = custom_task("mine", TaskKeys(text_columns=["text"], score_range=(0.0, 1.0), **files))
        return found_in(task, task.dev[0], Path("."))

    reader = Reader("own regression, dev.tsv", "dev.tsv", scores, read)
    broken = {"nan": "nan", "infinite": "inf", "a_word": "high", "out_of_range": "1.1"}
    rows = {name: (with_row(reader, f"a\t{score}"), REFUSED) for name, score in broken.items()}
    rows["no_score"] = (with_row(reader, "a\t"), REPORTED)
    rows["one_score"] = (table("text\tlabel", "a\t0.5", "b\t0.5"), REFUSED)
    yield from rows_of(reader, rows)


OWN_JSON_ROWS = {
    "text_is_null": (objects({"text": None, "label": "yes"}), REPORTED),
    "text_is_a_list": (objects({"text": ["a"], "label": "yes"}), REPORTED),
    "no_text": (objects({"label": "yes"}), REPORTED),
    "no_label": (objects({"text": "a"}), REPORTED),
    "label_is_null": (objects({"text": "a", "label": None}), REPORTED),
    "label_is_an_object": (objects({"text": "a", "label": {}}), REPORTED),
    "label_is_nan": (b'{"text": "a", "label": NaN}\n', REPORTED),  # as of a table without one
    "half_a_pair": (b'{"text": "\\ud83d", "label": "yes"}\n', REPORTED),
}


def own_cases() -> Iterator[Case]:
    for reader in (OWN_TSV, OWN_CSV, OWN_JSONL):
        yield from cases_of(reader, ALL)
        yield from odd_cases_of(reader)
    for ending in ("tsv", "csv", "jsonl"):
        yield from cases_of(own_reader(ending, "test"), (CUTS, OTHERS))
    yield from rows_of(OWN_CSV, OWN_CSV_ROWS)
    content = OWN_JSONL.content
    appended = {name: (content + row, outcome) for name, (row, outcome) in OWN_JSON_ROWS.items()}
    yield from rows_of(OWN_JSONL, appended)
    dev = own_reader("csv", "dev")
    yield from rows_of(dev, {"an_extra_label": (CSV_TEXT + b"a,perhaps\n", REFUSED)})
    yield from own_regression()


# --- all of them ------------------------------------------------------------------------------

CASES = [*glue_cases(), *superglue_cases(), *own_cases()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_table_is_refused_or_reported(case, tmp_path):
    assert case.outcome(tmp_path) in case.allowed


# --- a line without end -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begin", "end", "outcome"),
    [
        ("a.tsv", b"text\tlabel\n", b"\tyes\nlast\tno\n", ":2: longer than 16 MiB"),
        (
            "a.jsonl",
            b'{"text": "',
            b'"}\n{"text": "last", "label": "no"}\n',
            ":1: longer than 16 MiB",
        ),
        ("a.csv", b'text,label\n"', b'",yes\nlast,no\n', ":2: longer than 16 MiB"),
    ],
)
def test_memory_does_not_grow_with_a_line(tmp_path, monkeypatch, name, begin, end, outcome):
    monkeypatch.setattr("pipeline.user_files.delimited_files.MAX_ROW_BYTES", 1 << 20)
    path = tmp_path / name
    with open(path, "wb") as file:
        file.writelines([begin, *(b"x" * (1 << 20) for _ in range(24)), end])
    tracemalloc.start()
    try:
        table = read_table(path, ("text", "label"))
        assert [fields for _, fields in table.rows] == [("last", "no")]
        [told] = table.malformed
    except StageError as error:
        told = error.cause
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == f"{path}{outcome}" and peak < 12 << 20


def test_a_quote_that_is_never_closed_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.user_files.delimited_files.MAX_ROW_BYTES", 1000)
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"open,yes\n' + "a line,no\n" * 1000)
    with pytest.raises(StageError, match=r"a\.csv:2: a quote is never closed"):
        read_table(path, ("text", "label"))


def test_a_file_of_malformed_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.tables.MAX_MALFORMED", 50)
    for ending in ("tsv", "csv", "jsonl"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(OWN_CONTENT[ending] + b"\n" * 100 + OWN_CONTENT[ending])
        with pytest.raises(StageError, match=rf"a\.{ending}:2\d: .*, and 50 more rows"):
            read_table(path, ("text", "label"))
        path.write_bytes(OWN_CONTENT[ending] + b"\n" * 100)
        assert read_table(path, ("text", "label")).malformed == []
