"""Tables in Parquet: the same rows as in other formats, and the names of the Hub's classes."""

import json
import random
import shutil
import tracemalloc
from pathlib import Path

import pytest

from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.data.examples import load_examples
from finetune.data.files.parquet_tables import class_names, num_parquet_rows, problem_with_table
from finetune.data.row_checks import notes_on_task
from finetune.data.tables import iter_table, read_table, table_columns
from finetune.data.task_data import task_inputs
from pipeline.errors import ConfigError, StageError


def write(path: Path, columns: dict, features: dict | None = None, **options) -> Path:
    """features: as `datasets` writes them into the schema."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if features:
        stored = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": stored})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def classes(*names: str) -> dict:
    return {"names": list(names), "_type": "ClassLabel"}


TEXTS = [f"Sentence {number}: a naïve “café”,\tdéjà vu\n" for number in range(50)]


@pytest.mark.parametrize("row_group_size", [7, 50])
def test_rows_are_those_of_json_lines(tmp_path, row_group_size):
    columns = {
        "text": [*TEXTS[:49], None],
        "whole": list(range(50)),
        "half": [number / 2 for number in range(50)],
        "truth": [number % 3 == 0 for number in range(50)],
        "tags": [["a", "b"][: number % 3] for number in range(50)],
    }
    path = write(tmp_path / "a.parquet", columns, row_group_size=row_group_size)
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("half", "text", "truth", "whole")
    found = list(iter_table(path, names, lists=("tags",)))
    expected = list(iter_table(lines, names, lists=("tags",)))
    assert [row._replace(number=row.number + 1) for row in found] == expected
    for start in (0, 6, 7, 20, 49, 50, 60):
        assert list(iter_table(path, names, lists=("tags",), start=start)) == found[start:]
    assert read_table(path, ("text",)).malformed == [f"{path}, row 49: no text or number as text"]
    assert table_columns(path) == list(columns) and num_parquet_rows(path) == 50


def test_a_folder_is_a_table(tmp_path):
    folder = tmp_path / "train"
    for number, start in ((0, 0), (1, 20), (2, 20)):
        texts = TEXTS[start : start + 20 * (number != 1)]
        write(folder / f"train-0000{number}-of-00003.parquet", {"text": texts or [None][:0]})
    (folder / "README.md").touch()
    assert read_table(folder, ("text",)).rows == [(n, (TEXTS[n],)) for n in range(40)]
    assert next(iter_table(folder, ("text",), start=39)).number == 39
    (folder / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(StageError, match=r"train: has 2 \.parquet files, expected 3"):
        read_table(folder, ("text",))
    write(folder / "test-00000-of-00001.parquet", {"text": TEXTS})
    assert problem_with_table(str(folder)) == "has files of test, train, expected a folder for each"
    assert problem_with_table(str(tmp_path)).startswith("has no .parquet file")


def test_columns_of_the_wrong_kind_and_damage(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": [b"a"], "tags": [["a"]], "x": [{"y": 1}]})
    for name, kind in (("text", "binary"), ("tags", "list<.*>"), ("x", "struct<.*>")):
        with pytest.raises(StageError, match=rf"column {name} holds {kind}, expected text, numb"):
            read_table(path, (name,))
    with pytest.raises(StageError, match="no column z; it has text, tags, x"):
        read_table(path, ("z",))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StageError, match=r"a\.parquet: damaged or cut off"):
        read_table(path, ("tags",))
    path.write_bytes(b"text\tlabel\n")
    with pytest.raises(StageError, match=r"a\.parquet: damaged or cut off"):
        read_table(path, ("text",))


def test_flipped_bits_end_in_a_stage_error_or_in_other_text(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": TEXTS, "n": list(range(50))}, compression="none")
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(200):
        broken = bytearray(whole)
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        path.write_bytes(broken)
        try:
            table = read_table(path, ("text", "n"))
        except StageError as error:
            assert str(path) in error.cause
        else:
            assert len(table.rows) + len(table.malformed) == 50


def test_memory_does_not_grow_with_the_file(tmp_path):
    texts = ["x" * 3000 + str(number) for number in range(6_000)]
    path = write(tmp_path / "a.parquet", {"text": texts})
    del texts
    tracemalloc.start()
    assert sum(1 for _ in iter_table(path, ("text",))) == 6_000
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


# --- the Hub's classes ------------------------------------------------------------------------


def test_classes_are_their_names(tmp_path):
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": classes("neg", "pos"),
        "tags": {"feature": classes("a", "b"), "_type": "Sequence"},
        "old": [classes("c", "d")],
        "word": classes("x", "y"),
    }
    columns = {
        "text": TEXTS[:4],
        "label": [1, 0, -1, None],
        "tags": [[0, 1], [], [1], None],
        "old": [[1], [0], [], []],
        "word": ["x", "z", "x", "y"],
    }
    path = write(tmp_path / "a.parquet", columns, features)
    names = class_names(path)
    assert names == {"label": ("neg", "pos"), "tags": ("a", "b"), "old": ("c", "d")}
    rows = list(iter_table(path, ("word", "label"), ("label",), lists=("tags", "old")))
    assert [row.cells for row in rows] == [("x", "pos"), ("z", "neg"), ("x", ""), ("y", "")]
    assert [row.lists[0] for row in rows] == [("a", "b"), (), ("b",), None]
    assert [row.lists[1] for row in rows] == [("d",), ("c",), (), ()]


def test_numbers_without_a_name(tmp_path):
    columns = {"label": [0, 2, -2], "tags": [[0], [5], [-1]]}
    features = {"label": classes("no", "yes"), "tags": {"feature": classes("a", "b")}}
    path = write(tmp_path / "a.parquet", columns, features)
    problems = [row.problem for row in iter_table(path, ("label",))]
    assert problems == ["", *(f"class {n}, expected one of 2 names" for n in (2, -2))]
    problems = [row.problem for row in iter_table(path, (), lists=("tags",))]
    assert problems == [
        "",
        "class 5, expected one of 2 names",
        "no list of texts or numbers as tags",
    ]


def test_files_of_a_folder_with_other_names(tmp_path):
    write(tmp_path / "a.parquet", {"label": [0]}, {"label": classes("no", "yes")})
    write(tmp_path / "b.parquet", {"label": [0]}, {"label": classes("yes", "no")})
    with pytest.raises(StageError, match=r"b\.parquet: other names of classes"):
        read_table(tmp_path, ("label",))


def test_datasets_writes_what_is_read_here(tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["neg", "pos"]),
            "tags": List(ClassLabel(names=["a", "b"])),
        }
    )
    rows = {"text": TEXTS[:2], "label": [1, 0], "tags": [[0, 1], []]}
    path = tmp_path / "a.parquet"
    Dataset.from_dict(rows, features).to_parquet(path)
    found = [(row.cells, row.lists) for row in iter_table(path, ("text", "label"), lists=("tags",))]
    assert found == [((TEXTS[0], "pos"), (("a", "b"),)), ((TEXTS[1], "neg"), ((),))]


# --- tasks ------------------------------------------------------------------------------------


def make(train: Path, dev: Path, **keys):
    return custom_task("mine", TaskKeys(str(train), str(dev), ["text"], **keys))


def test_a_task_in_parquet(tmp_path):
    rows = {"text": [t + "t" for t in TEXTS], "label": [number % 2 for number in range(50)]}
    train = write(tmp_path / "train" / "0.parquet", rows, {"label": classes("no", "yes")})
    dev = tmp_path / "dev.csv"
    dev.write_text("text,label\n" + "a,yes\nb,no\n" * 60)
    task = make(train.parent, dev, test=str(train))
    assert list(task.labels) == ["no", "yes"]
    assert load_examples(task, task.train, ".").labels == [number % 2 for number in range(50)]
    assert len(load_examples(task, task.test[0], ".").texts) == 50
    note = f"mine: {train.parent}: the classes 0 to 1 of label are named in the file: no, yes"
    assert note in list(notes_on_task(task, "."))
    inputs = task_inputs(task, ".", is_demo=False)
    moved = tmp_path / "moved" / "1.parquet"
    moved.parent.mkdir()
    shutil.copy(train, moved)
    task = make(moved.parent, dev, test=str(train))
    assert task_inputs(task, ".", is_demo=False) == inputs
    rows["label"][3] = 0
    write(moved, rows, {"label": classes("no", "yes")})
    assert task_inputs(task, ".", is_demo=False) != inputs
    dev.write_text("text,label\na,1\nb,0\n")
    with pytest.raises(ConfigError, match=r"DEV: .*dev\.csv:2: label '1', expected one of no, yes"):
        make(train, dev)


def test_places_in_parquet_are_rows(tmp_path):
    train = write(tmp_path / "a.parquet", {"text": TEXTS[:3], "label": ["a", "b", ""]})
    dev = write(tmp_path / "b.parquet", {"text": TEXTS[:3], "label": ["a", "b", "c"]})
    with pytest.raises(ConfigError, match=r"DEV: .*b\.parquet, row 2: label 'c', expected one of"):
        make(train, dev)
    task = make(train, train)
    assert load_examples(task, task.train, ".").unlabelled == [f"{train}, row 2: no label"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"TRAIN: .*has no \.parquet file, expected some"):
        make(empty, train)


def test_one_file_of_several_is_warned_of(tmp_path):
    columns = {"text": TEXTS, "label": ["a", "b"] * 25}
    train = write(tmp_path / "train-00001-of-00003.parquet", columns)
    dev = write(tmp_path / "dev-00000-of-00001.parquet", columns)
    found = [note for note in notes_on_task(make(train, dev), ".") if " files;" in note]
    assert found == [f"WARNING: mine: {train}: one of 3 files; name a folder with all of them"]
