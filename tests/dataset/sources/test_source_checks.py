"""What the plan says of files that it has only looked at."""

import gzip
from pathlib import Path

import pytest

from dataset.sources.registry import customized_source, hub_source, local_files
from dataset.sources.source_checks import notes_on_heads, problems_with_heads
from pipeline.errors import ConfigError
from tests.plans import dataset_artifact, dataset_estimate

LATIN1 = "Größe und Maß. Über alles.\n".encode("latin-1")
HINT = (
    "undecodable characters would be lost, expected UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)"
)


def problems_of(folder: Path, column: str = "text") -> list[str]:
    found = problems_with_heads([customized_source(str(folder), "key", column)], local_files)
    return [problem.replace(f"{folder}/", "") for problem in found]


def notes_of(folder: Path) -> list[str]:
    notes = notes_on_heads([customized_source(str(folder), "key")], local_files)
    return [note.replace(f"{folder}/", "") for note in notes]


def test_each_file_that_is_no_use_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("Fine.")
    (tmp_path / "b.txt").write_text("Text.\nMore.\n", encoding="utf-16")
    (tmp_path / "c.jsonl").write_text('{"body": "a", "id": 1}\n')
    (tmp_path / "d.jsonl").write_text('{"text": ["a"]}\n' * 12)
    (tmp_path / "f.txt").write_bytes(b"One.\rTwo.\r")
    assert problems_of(tmp_path) == [
        "key: b.txt: the text is UTF-16, expected UTF-8",
        "key: c.jsonl: has no column `text`, it has body, id (DATASET.TEXT_COLUMN names it)",
        "key: d.jsonl: each of its first 10 rows has a list in `text`, expected text",
        "key: f.txt: lines end with CR alone, expected LF or CRLF",
    ]


def test_of_many_files_some_are_looked_at_and_few_named(tmp_path, monkeypatch):
    for number in range(1000):
        (tmp_path / f"{number:03}.jsonl").write_text('{"body": "a"}\n')
    looked_at = []
    monkeypatch.setattr(
        "dataset.sources.source_checks.check_file", lambda path, column: looked_at.append(path)
    )
    assert problems_of(tmp_path) == []
    assert [path.stem for path in looked_at] == [f"{number:03}" for number in range(0, 1000, 10)]
    monkeypatch.undo()
    found = problems_of(tmp_path)
    assert len(found) == 6 and found[-1] == "key: 95 more files like that"


def test_rows_of_which_some_are_no_use_are_no_problem_of_the_plan(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ["a"]}\n' * 3 + '{"text": "One."}\n')
    assert problems_of(tmp_path) == []


def test_backslashes_are_not_left_to_the_reader_of_datasets(tmp_path):
    """It would drop quotes without a word."""
    (tmp_path / "a.csv").write_text('id,text\n1,"say \\"hello\\" twice"\n2,"and ""again"""\n')
    source = hub_source(str(tmp_path), "", "key")
    [problem] = problems_with_heads([source], local_files)
    assert problem.startswith(f"key: {tmp_path}/a.csv: quotes are escaped by backslashes, which")
    assert problems_of(tmp_path) == []


def test_text_that_is_no_utf8_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("größer " * 20_000)  # cut within a character, somewhere
    (tmp_path / "b.txt").write_bytes(LATIN1)
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text\n" + LATIN1))
    assert notes_of(tmp_path) == [f"b.txt (and 1 more file): {HINT}"]
    (tmp_path / "b.txt").unlink()
    (tmp_path / "c.csv.gz").unlink()
    assert notes_of(tmp_path) == []


def test_the_plan_tells_both(config, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_bytes(LATIN1)
    config.DATASET.CUSTOMIZED_DATASETS = [str(folder)]
    assert f"{folder}/a.txt: {HINT}" in dataset_estimate(config).notes
    (folder / "b.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(
        ConfigError, match=r"CUSTOMIZED_DATASETS: .*b\.jsonl: its first row has a n"
    ):
        dataset_artifact(config)
