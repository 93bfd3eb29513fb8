"""Folders of text that somebody else made: nothing in them is run, and nothing outside is read."""

import json

import pytest

from dataset.command_line import list_text_shards
from dataset.sources.registry import customized_source, hub_source, open_sources
from pipeline.errors import ConfigError, StageError
from tests.dataset.dataset_helpers import read_source
from tests.malicious import malicious_module, malicious_pickle


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture
def folder(tmp_path, marker):
    """A folder `mine` with all that runs when it is read carelessly."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("data.pkl", "data.pt", "data.npy", "data.pickle"):
        (folder / name).write_bytes(malicious_pickle(marker))
    for name in ("mine.py", "setup.py", "__init__.py"):
        (folder / name).write_text(malicious_module(marker))
    return folder


def test_pickles_and_code_among_the_text_are_passed_over(folder, marker, tmp_path):
    (folder / "a.txt").write_text("first\n\nsecond\n")
    articles, _, said = read_source(customized_source(str(folder), "key"), tmp_path / "work")
    assert [article.strip() for article in articles] == ["first", "second"]
    assert "7 other files are passed over" in said[0]
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 3])
def test_a_loading_script_is_refused(folder, marker, tmp_path, rows):
    if rows:
        (folder / "rows.jsonl").write_text('{"text": "a"}\n' * rows)
    with pytest.raises(StageError, match="could not be loaded"):
        open_sources([hub_source(str(folder), "", "key")], tmp_path / "work", print)
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["../outside.jsonl", "{folder}/../outside.jsonl"])
def test_a_readme_leads_nowhere_else(tmp_path, place):
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "outside.jsonl").write_text('{"text": "private"}\n')
    (folder / "inside.jsonl").write_text('{"text": "shared"}\n')
    configs = "---\nconfigs:\n- config_name: default\n  data_files: {}\n---\n"
    (folder / "README.md").write_text(configs.format(place.format(folder=folder)))
    with pytest.raises(StageError, match=r"names .*outside\.jsonl, expected files of that folder"):
        open_sources([hub_source(str(folder), "", "key")], tmp_path / "work", print)
    (folder / "README.md").write_text(configs.format("inside.jsonl"))
    articles, *_ = read_source(hub_source(str(folder), "", "key"), tmp_path / "work")
    assert articles == ["shared"]


def test_a_list_of_shards_leads_nowhere_else(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    (tmp_path / "train_00000.txt").write_text("private")
    names = {"../train_00000.txt": {}, "test_00000.txt": {}}
    record = {"fingerprint": "a", "shards": names, "counts": {}, "notes": []}
    (folder / "shards.json").write_text(json.dumps(record))
    (folder / "test_00000.txt").write_text("held out")
    with pytest.raises(ConfigError, match=r"no train_\*\.txt"):
        list_text_shards(folder)
