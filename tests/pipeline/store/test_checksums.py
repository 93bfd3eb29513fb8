"""What has changed since it was written is noticed: records by a seal, files by their digests."""

import json
import os
import shutil

import pytest

from pipeline.store import checksums
from pipeline.store.artifacts import MANIFEST, Artifact
from pipeline.store.atomic_files import write_json, write_sealed
from pipeline.store.checksums import damage_to, sealed, states_of, unsealed
from pipeline.store.record_files import STARTED, owner_of, read_sealed
from tests.damage import flip_byte

RECORD = {"loss": 1.5, "runs": [{"seed": 1, "text": "é"}], "best": {"1": None}, "files": {}}


# --- records ---------------------------------------------------------------------------------


def test_a_sealed_record_is_read_as_it_was_written(tmp_path):
    write_sealed(tmp_path / "record.json", {**RECORD, "pair": (1, 2), "by": {3: float("inf")}})
    found = read_sealed(tmp_path / "record.json")
    assert found == {**RECORD, "pair": [1, 2], "by": {"3": float("inf")}}


@pytest.mark.parametrize("bit", [1, 2, 32, 128])
def test_no_flipped_byte_changes_what_a_record_says(tmp_path, bit):
    """White space and the spelling of a number, like 1E5, say nothing."""
    path = tmp_path / "record.json"
    write_sealed(path, RECORD)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        assert read_sealed(path) in (None, RECORD)


def test_records_of_older_versions_have_no_seal():
    older = {"fingerprint": "a", "results": {}}
    assert unsealed(older) == older
    assert unsealed({**older, "files": {}}) is None  # whoever lists files has sealed them
    assert unsealed({**sealed(older), "results": {"n": 1}}) is None


# --- files -----------------------------------------------------------------------------------


@pytest.fixture
def states(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    for name in ("shard", "model/a", "model/deep/b"):
        (tmp_path / name).write_text(f"content of {name}")
    return states_of(tmp_path, ["shard", "model", "absent"])


def test_files_are_the_same_after_a_copy(tmp_path, states):
    assert states.keys() == {"shard", "model/a", "model/deep/b", "absent"}
    (tmp_path / "absent").touch()
    copy = shutil.copytree(tmp_path, tmp_path / "copy", copy_function=shutil.copyfile)
    assert damage_to(tmp_path, states) == damage_to(copy, json.loads(json.dumps(states))) == ""


def test_what_was_not_there_has_to_be_there_later(tmp_path, states):
    assert damage_to(tmp_path, states) == "absent is missing"


def lose(path):
    path.unlink()


def cut_off(path):
    os.truncate(path, path.stat().st_size - 1)


def put_a_folder_there(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        *((lose, "missing"), (cut_off, "damaged"), (flip_byte, "damaged")),
        (put_a_folder_there, "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["shard", "model/deep/b"])
def test_damage_is_named(tmp_path, states, harm, said, name):
    (tmp_path / "absent").touch()
    harm(tmp_path / name)
    assert damage_to(tmp_path, states) == f"{name} is {said}"


def test_of_what_would_take_too_long_to_read_the_size_has_to_do(tmp_path, monkeypatch):
    for name, size in (("large", 50), ("small", 10), ("medium", 20)):
        (tmp_path / name).write_bytes(bytes(size))
    monkeypatch.setattr(checksums, "MOST_READ", 35)
    states = states_of(tmp_path, ["large", "small", "medium"])
    assert [name for name, (_, digest) in states.items() if not digest] == ["large"]
    flip_byte(tmp_path / "large")
    assert damage_to(tmp_path, states) == ""
    cut_off(tmp_path / "large")
    assert damage_to(tmp_path, states) == "large is damaged"
    flip_byte(tmp_path / "medium")
    assert damage_to(tmp_path, {"medium": states["medium"]}) == "medium is damaged"


# --- artifacts ---------------------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    """Finished: a file and a folder of its own, and a file beside its folder."""
    names = ("shard", "model", "../made.zip")
    artifact = Artifact("dataset", tmp_path / "run", {"a": 1}, files_in=lambda results: names)
    artifact.begin()
    (tmp_path / "run" / "model").mkdir()
    for name in ("shard", "model/weights", "../made.zip"):
        (artifact.directory / name).write_text("content")
    artifact.finish({"n": 1})
    assert artifact.status().done
    return artifact


@pytest.mark.parametrize("name", ["shard", "model/weights", "../made.zip"])
@pytest.mark.parametrize(("harm", "said"), [(lose, "missing"), (flip_byte, "damaged")])
def test_a_stage_is_done_only_as_long_as_its_files_are_what_they_were(artifact, name, harm, said):
    harm(artifact.directory / name)
    status = artifact.status()
    assert (status.state, status.reason) == ("unfinished", f"{name} is {said} and is made again")
    artifact.begin()  # takes nothing away, and does not make it done
    assert artifact.damage() == f"{name} is {said}"
    (artifact.directory / name).write_text("made again")
    artifact.finish({"n": 1})
    assert artifact.status().done


def test_a_damaged_manifest_is_named_and_used_for_nothing(artifact):
    path = artifact.directory / MANIFEST
    path.write_text(path.read_text().replace('"n": 1', '"n": 2'))
    assert artifact.manifest is None
    assert artifact.status().reason == "manifest.json is damaged and is made again"
    assert owner_of(artifact.directory) == "dataset"  # by the other record
    artifact.record_time(1.0)
    assert artifact.manifest is None


def test_a_damaged_note_of_who_began_does_not_cost_the_folder(artifact):
    started = artifact.directory / STARTED
    started.write_text(started.read_text().replace('"dataset"', '"datasat"'))
    assert artifact.status().done
    (artifact.directory / MANIFEST).unlink()
    assert artifact.status().reason == "started.json is damaged and is made again"
    artifact.begin()
    assert owner_of(artifact.directory) == "dataset"
    assert artifact.status().reason.startswith("was interrupted")


def test_a_manifest_of_an_older_version_vouches_for_names_alone(artifact):
    record = {key: value for key, value in artifact.manifest.items() if key != "files"}
    write_json(artifact.directory / MANIFEST, record)
    flip_byte(artifact.directory / "shard")
    assert artifact.status().done
    lose(artifact.directory / "shard")
    assert artifact.status().reason == "shard is missing and is made again"


def test_what_a_killed_process_was_writing_is_deleted(artifact):
    records = artifact.directory / "records"
    records.mkdir()
    (records / ".shard.json.0123456789ab.tmp").write_text("")
    (artifact.directory / ".model.tmp" / "deep").mkdir(parents=True)
    artifact.begin()
    assert not [*artifact.directory.rglob(".*")]


def test_so_is_what_it_left_at_its_very_first_write_and_nothing_of_others(tmp_path):
    """Without a record, the folder may be a user's."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (f".{STARTED}.0123456789ab.tmp", ".notes.tmp"):
        (folder / name).write_text("")
    Artifact("dataset", folder, {}).begin()
    assert {path.name for path in folder.iterdir()} == {STARTED, ".notes.tmp"}
