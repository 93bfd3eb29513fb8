"""Folders that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` have written."""

import json
import struct
from pathlib import Path

import datasets
import pyarrow
import pytest

from dataset.sources.corpus_files import list_files
from dataset.sources.digests import FileDigests, identity_of
from dataset.sources.registry import customized_source, hub_source, local_files, problem_with
from dataset.sources.source_checks import problems_with_heads
from pipeline.errors import StageError
from tests.dataset.dataset_helpers import articles_of, read_source, shard
from tests.plans import dataset_estimate

TEXTS = [f"Row {number} of it.\nIts second line: 中文." for number in range(40)]


@pytest.fixture(autouse=True, scope="module")
def no_bars():
    datasets.disable_progress_bars()


def dataset_of(texts, **columns):
    return datasets.Dataset.from_dict({"text": texts, **columns})


def saved(folder: Path, texts=TEXTS, num_shards=1) -> Path:
    dataset_of(texts, id=list(range(len(texts)))).save_to_disk(folder, num_shards=num_shards)
    return folder


@pytest.fixture
def by_split(tmp_path) -> Path:
    splits = {"train": dataset_of(TEXTS), "validation": dataset_of(["A.", "B."])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "dict")
    return tmp_path / "dict"


def problems_of(source) -> list[str]:
    problem = problem_with(source)
    return [problem] if problem else problems_with_heads([source], local_files)


@pytest.mark.parametrize("make", [customized_source, lambda name, key: hub_source(name, "", key)])
def test_a_dataset_is_read(tmp_path, make):
    source = make(str(saved(tmp_path / "saved", num_shards=3)), "key")
    assert problems_of(source) == []
    articles, tally, said = read_source(source, tmp_path / "work", limit=25)
    assert ["".join(text.split()) for text in articles] == ["".join(t.split()) for t in TEXTS]
    assert not tally.counts and said == []


@pytest.mark.slow
def test_slices_hold_every_row_once(tmp_path, monkeypatch):
    source = customized_source(str(saved(tmp_path / "saved")), "key")
    shard(source, tmp_path / "whole")
    monkeypatch.setattr("dataset.sources.registry.MIN_PART_BYTES", 300)
    shard(source, tmp_path / "parts")
    assert articles_of(tmp_path / "parts") == articles_of(tmp_path / "whole")
    assert articles_of(tmp_path / "whole") == sorted(text.replace("\n", " ") for text in TEXTS)


def test_files_of_an_earlier_dataset_are_passed_over(tmp_path):
    saved(tmp_path / "saved", TEXTS, num_shards=3)
    saved(tmp_path / "saved", TEXTS[:4], num_shards=2)
    source = customized_source(str(tmp_path / "saved"), "key")
    articles, _, said = read_source(source, tmp_path / "work")
    assert articles == TEXTS[:4]
    assert said[0].startswith(f"{tmp_path}/saved: 3 other files are passed over (data-00000-of-000")


@pytest.mark.slow
def test_a_split_is_read_train_by_default(by_split, tmp_path):
    for split, expected in (("", TEXTS), ("train", TEXTS), ("validation", ["A.", "B."])):
        source = hub_source(str(by_split), "", "key", split)
        assert problems_of(source) == []
        assert read_source(source, tmp_path / "work")[0] == expected
    articles, _, said = read_source(customized_source(str(by_split), "key"), tmp_path / "work")
    assert articles == TEXTS
    assert said == []


@pytest.mark.slow
def test_a_split_is_told_once(by_split, config, command, tmp_path):
    told = f"{by_split}: split train is read, not validation"
    config.DATASET.CUSTOMIZED_DATASETS = [str(by_split)]
    assert dataset_estimate(config).notes.count(told) == 1
    flags = ["--frac_test=0.1", "--output_dir", tmp_path / "out", "--n_processes=1"]
    done = command("shard_data", *flags, "--dataset", "custom", by_split)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(told) == 1


def test_datasets_within_a_folder_of_text(by_split, tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    saved(tmp_path / "more/saved", ["Two."])
    articles, _, said = read_source(customized_source(str(tmp_path), "key"), tmp_path / "work")
    assert articles == ["One.", *TEXTS, "Two."]
    assert said == [f"{tmp_path}: 1 other files are passed over (dict/validation)"]


@pytest.mark.parametrize(
    ("split", "column", "problem"),
    [
        ("test", "text", "key: {}/dict has no split test, it has train, validation"),
        ("train", "body", "key: {}/dict/train: has no column `body`, it has text (DATASET."),
    ],
)
def test_a_wrong_split_or_column_is_told_in_the_plan(by_split, split, column, problem):
    [found] = problems_of(hub_source(str(by_split), "", "key", split, column))
    assert found.startswith(problem.format(by_split.parent))


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"body": [1]}, "int64"),
        ({"body": [["a"]]}, "list<item: string>"),
        ({"body": [{"a": 1, "dtype": "b"}]}, "struct<a: int64, dtype: string>"),
    ],
)
def test_a_column_of_something_else_is_told_in_the_plan(tmp_path, columns, kind):
    dataset_of(["a"], **columns).save_to_disk(tmp_path / "saved")
    source = customized_source(str(tmp_path / "saved"), "key", "body")
    [problem] = problems_of(source)
    assert problem.startswith(f"key: {tmp_path}/saved: column `body` holds ")
    with pytest.raises(StageError, match=f"holds ({kind}), expected text"):
        read_source(source, tmp_path / "work")


def test_a_dataset_has_no_other_split(tmp_path):
    source = hub_source(str(saved(tmp_path / "saved")), "", "key", "validation")
    [problem] = problems_of(source)
    assert "is one Dataset, without split validation" in problem


def test_what_is_missing_is_told(tmp_path):
    saved(tmp_path / "saved", num_shards=2)
    (tmp_path / "saved/data-00001-of-00002.arrow").unlink()
    [problem] = problems_of(customized_source(str(tmp_path / "saved"), "key"))
    assert "data-00001-of-00002.arrow is missing, state.json names it" in problem


def test_rows_that_an_old_version_has_picked_are_refused(tmp_path):
    state = saved(tmp_path / "saved") / "state.json"
    picked = {"_indices_data_files": [{"filename": "indices.arrow"}]}
    state.write_text(json.dumps(json.loads(state.read_text()) | picked))
    [problem] = problems_of(customized_source(str(tmp_path / "saved"), "key"))
    assert "its rows are picked by another file" in problem


def test_the_content_is_the_identity(tmp_path):
    def identity(folder):
        source = customized_source(str(folder), "key")
        return identity_of(source, FileDigests(tmp_path / "digests.json"))

    first, same = identity(saved(tmp_path / "a")), identity(saved(tmp_path / "b"))
    assert first == same != identity(saved(tmp_path / "c", TEXTS[1:]))


def test_arrow_files_that_no_dataset_names_are_no_text(tmp_path):
    """As in the cache of `datasets`, where one text lies in several files."""
    with pyarrow.ipc.new_stream(tmp_path / "cache-1.arrow", pyarrow.schema([])):
        pass
    (tmp_path / "a.txt").write_text("One.")
    known, others = list_files(tmp_path)
    assert [path.name for path in known] == ["a.txt"]
    assert [path.name for path in others] == ["cache-1.arrow"]


@pytest.mark.parametrize("offsets", [(0, 3, 1 << 30), (0, 1 << 30, 8), (0, -5, 8), (0, 3, -5)])
def test_offsets_that_lead_out_of_the_text_are_damage(tmp_path, offsets):
    table = pyarrow.table({"text": ["One", "Two.."]})
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table)
    content = (tmp_path / "a.arrow").read_bytes()
    right = struct.pack("3i", 0, 3, 8)
    assert content.count(right) == 1
    (tmp_path / "a.arrow").write_bytes(content.replace(right, struct.pack("3i", *offsets)))
    source = customized_source(str(tmp_path / "a.arrow"), "key")
    with pytest.raises(StageError, match=r"a\.arrow: damaged or cut off \("):
        read_source(source, tmp_path / "work")


def test_json_of_other_names_or_content_stays_text(tmp_path):
    for name in ("dataset_info.json", "state.json", "dataset_dict.json"):
        (tmp_path / name).write_text('{"text": "One."}\n')
    assert len(list_files(tmp_path)[0]) == 3
