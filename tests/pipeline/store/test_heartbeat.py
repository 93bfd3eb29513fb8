"""Signs of life: what they say, how often they are written, and that they cost nothing."""

import json
import time

import pytest

from pipeline.console import Console, stage_console
from pipeline.errors import StageError
from pipeline.runtime.processes import this_process
from pipeline.store import heartbeat
from pipeline.store.artifacts import Artifact
from pipeline.store.heartbeat import Position, heartbeat_path, read_heartbeat


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "made"


@pytest.fixture
def console(tmp_path, folder):
    console = Console("dataset", tmp_path / "x.log")
    console.show_life(folder)
    return console


def write_each_time(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.0)


def test_it_says_who_does_what_and_how_far_that_is(console, folder, monkeypatch):
    write_each_time(monkeypatch)
    console.say("reading\nprivate text")
    beat = read_heartbeat(folder)
    assert (beat.by, beat.said, beat.position) == (this_process(), "reading", None)
    assert beat.age_seconds < 10
    with console.progress("sharding", 100, "MB") as progress:
        assert read_heartbeat(folder).position == Position("sharding", 0, 100, "MB")
        progress.update(40)  # where an earlier run was
        time.sleep(0.01)
        progress.update(50, "half")
        position = read_heartbeat(folder).position
        assert (position.done, position.note) == (50, "half")
        assert 0 < position.rate < 10 / 0.01
        assert position.seconds_left == pytest.approx(50 / position.rate)
        console.say("a word")
        assert read_heartbeat(folder).position.done == 50
    console.say("next")
    assert read_heartbeat(folder).position is None


def test_many_updates_are_one_write(console, folder):
    with console.progress("sharding", 100, "MB") as progress:
        before = heartbeat_path(folder).read_bytes()
        for done in range(100):
            progress.update(done)
        console.tell("somebody looks on")
        assert heartbeat_path(folder).read_bytes() == before


def test_where_it_was_interrupted_stays(console, folder, monkeypatch):
    write_each_time(monkeypatch)
    with pytest.raises(KeyboardInterrupt), console.progress("x", 9, "steps") as progress:
        progress.update(4)
        raise KeyboardInterrupt
    assert read_heartbeat(folder).position.done == 4


@pytest.mark.parametrize("error", [StageError("no text"), ValueError("no text\nmore")])
def test_how_a_stage_failed_is_told(tmp_path, folder, error):
    with pytest.raises(StageError), stage_console("dataset", tmp_path / "x.log") as console:
        console.show_life(folder)
        raise error
    assert read_heartbeat(folder).failed.endswith("no text")


def test_without_a_folder_to_write_to_work_goes_on(tmp_path, monkeypatch):
    write_each_time(monkeypatch)
    console = Console("dataset", tmp_path / "x.log")
    console.show_life(tmp_path / "is" / "not" / "there")
    with console.progress("sharding", 100, "MB") as progress:
        progress.update(50)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"by": 1}', '{"position": 3}'])
def test_a_damaged_one_is_none(folder, content):
    heartbeat_path(folder).write_text(content)
    assert read_heartbeat(folder) is None


def test_a_clock_that_was_set_back_makes_no_negative_age(console, folder):
    path = heartbeat_path(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"at": time.time() + 1000}))
    assert read_heartbeat(folder).age_seconds == 0


def test_it_is_no_part_of_the_artifact(folder, console):
    artifact = Artifact("dataset", folder, {"a": 1}, user_named="DATASET.ID")
    artifact.begin()
    assert artifact.is_only_begun
    assert [path.name for path in folder.iterdir()] == ["started.json"]
