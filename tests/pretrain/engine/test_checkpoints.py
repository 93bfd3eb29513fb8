"""Finding the newest intact checkpoint, what counts as damage, writing beside the training, and
full disks."""

import re
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from pipeline.store.disk import size_of
from pipeline.store.record_files import read_sealed
from pretrain.checkpoint_folders import (
    RECORD,
    STABLE,
    TENSORS,
    checkpoint_dir,
    damage,
    list_checkpoints,
    newest_intact_checkpoint,
    step_of,
)
from pretrain.engine import checkpoints
from pretrain.engine.checkpoints import CheckpointWriter
from tests.damage import flip_byte


def _write(directory, *steps, keep=9):
    """Checkpoints as the writer makes them, without an engine."""
    writer = CheckpointWriter(directory, keep, pytest.fail)
    for step in steps:
        record = {"step": step, "numbers": {}, "state": {"step": step}}
        writer._write({"weight/a": torch.full((1000,), float(step))}, record)
    writer.close()
    return checkpoint_dir(directory, steps[-1])


def test_the_newest_is_found(tmp_path):
    newest = _write(tmp_path, 5, 10)
    assert newest_intact_checkpoint(tmp_path, pytest.fail) == newest
    assert newest_intact_checkpoint(tmp_path / "none", pytest.fail) is None


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / RECORD).unlink(), "no readable checkpoint.json"),
        (lambda path: (path / RECORD).write_text("{}"), "no readable checkpoint.json"),
        (lambda path: (path / RECORD).write_text("[]"), "no readable checkpoint.json"),
        (lambda path: flip_byte(path / RECORD, 100), "no readable checkpoint.json"),
        (lambda path: (path / TENSORS).unlink(), "is missing"),
        (lambda path: (path / TENSORS).write_bytes(b"short"), "5 bytes, expected"),
        (lambda path: flip_byte(path / TENSORS), "wrong digest"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_message(tmp_path, harm, said):
    older, newer = _write(tmp_path, 5), _write(tmp_path, 10)
    harm(newer)
    messages = []
    assert newest_intact_checkpoint(tmp_path, messages.append) == older
    assert len(messages) == 1 and "step_0000010 is damaged" in messages[0]
    assert re.search(said, messages[0])
    assert not damage(older)


def test_the_last_ones_are_kept_and_damaged_newer_ones_are_not(tmp_path):
    _write(tmp_path, 2, 4, 6, 20)
    _write(tmp_path, 8, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000006", "step_0000008"]


@pytest.mark.parametrize("has_links", [True, False])
def test_the_stable_one_is_kept_until_the_next(tmp_path, monkeypatch, has_links):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(checkpoints.os, "link", refuse)
    writer = CheckpointWriter(tmp_path, 1, pytest.fail)
    for step in range(1, 9):
        record = {"step": step, "numbers": {}, "state": {"step": step}}
        tensors = {"weight/a": torch.full((1000,), float(step))}
        writer._write(tensors, record, is_stable=step in (2, 6))
        if step == 4:
            assert step_of(tmp_path / STABLE) == 2 and not damage(tmp_path / STABLE)
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [STABLE, "step_0000008"]
    assert step_of(tmp_path / STABLE) == 6 and not damage(tmp_path / STABLE)
    writer.good_step = 5
    assert writer.last_good().endswith(
        "step_0000005; to resume from it, delete step_0000008, stable"
    )


class _Engine:
    """Enough of an engine for a state of two tensors."""


@pytest.fixture
def state(monkeypatch):
    weights = torch.zeros(10)
    monkeypatch.setattr(
        checkpoints, "gather_state", lambda engine: ({"weight/a": weights.clone()}, {})
    )
    return weights


def test_an_intact_one_of_the_same_step_is_never_missing(tmp_path):
    """Its record is written anew when what was due at that step is done."""
    path = _write(tmp_path, 5)
    tensors, record = path / TENSORS, {"step": 5, "numbers": {}, "state": {"closed": True}}
    before = tensors.stat().st_ino
    writer = CheckpointWriter(tmp_path, 9, pytest.fail)
    writer._write({"weight/a": torch.full((1000,), 5.0)}, record)
    assert tensors.stat().st_ino == before and not damage(path)
    assert read_sealed(path / RECORD)["state"] == {"closed": True}
    flip_byte(tensors)
    writer._write({"weight/a": torch.full((1000,), 5.0)}, record)
    writer.close()
    assert not damage(path) and [path.name for path in tmp_path.iterdir()] == ["step_0000005"]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, state, monkeypatch):
    may_write = threading.Event()
    write = CheckpointWriter._write

    def late(*args):
        may_write.wait(10)
        write(*args)

    monkeypatch.setattr(CheckpointWriter, "_write", late)
    writer = CheckpointWriter(tmp_path, 2, pytest.fail)
    writer.save(_Engine(), 1, {})
    state += 1.0  # the next step changes the weights
    writer.check()
    assert not list_checkpoints(tmp_path)
    may_write.set()
    writer.wait()
    saved = checkpoints.load_file(checkpoint_dir(tmp_path, 1) / TENSORS)
    assert saved["weight/a"].eq(0).all()


def test_a_slow_disk_is_waited_for_and_spoken_of(tmp_path, state, monkeypatch):
    """So that whoever has asked training to end knows that it is at work."""
    monkeypatch.setattr(checkpoints, "BETWEEN_SAVING_MESSAGES", 0.01)
    may_write, said = threading.Event(), []
    write = CheckpointWriter._write

    def late(*args):
        may_write.wait(60)
        write(*args)

    def say(text):
        said.append(text)
        if len(said) == 3:
            settling.start()  # as when another rank has died meanwhile
            may_write.set()

    monkeypatch.setattr(CheckpointWriter, "_write", late)
    writer = CheckpointWriter(tmp_path, 2, pytest.fail, say)
    settled = []
    settling = threading.Thread(
        target=lambda: (writer.settle(), settled.append(list_checkpoints(tmp_path)))
    )
    writer.save(_Engine(), 1, {})
    writer.wait()
    settling.join()
    assert len(said) >= 3 and set(said) == {
        "waiting for the disk: the checkpoint is still being written"
    }
    assert settled == [[checkpoint_dir(tmp_path, 1)]]


def test_a_failed_write_is_not_forgotten_and_names_the_checkpoint(tmp_path, state):
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(tmp_path / "file", 2, pytest.fail)
    writer.save(_Engine(), 1, {})
    with pytest.raises(OSError, match="step_0000001 cannot be written"):
        writer.wait()
    writer.close()


def test_what_is_not_finite_is_not_saved(tmp_path, state):
    writer = CheckpointWriter(tmp_path, 2, pytest.fail)
    state[3] = float("nan")
    writer.save(_Engine(), 1, {})
    with pytest.raises(FloatingPointError, match=r"weight/a is not finite, and step_0000001"):
        writer.wait()
    writer.close()
    assert not list_checkpoints(tmp_path)


def test_the_last_good_one_is_kept_however_old(tmp_path):
    writer = CheckpointWriter(tmp_path, 1, pytest.fail)
    for step in (1, 2, 3):
        record = {"step": step, "numbers": {}, "state": {}}
        writer._write({"weight/a": torch.ones(3)}, record)
        writer.good_step = 1
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000001", "step_0000003"]


def test_with_little_memory_training_waits(tmp_path, state, monkeypatch):
    monkeypatch.setattr(checkpoints.psutil, "virtual_memory", lambda: Namespace(available=0))
    writer = CheckpointWriter(tmp_path, 2, pytest.fail)
    writer.save(_Engine(), 3, {})
    assert not damage(checkpoint_dir(tmp_path, 3))
    writer.close()


# --- full disks ------------------------------------------------------------------------------

NO_ROOM = "Error while serializing: I/O error: No space left on device (os error 28)"


class Disk:
    """A folder whose disk has room for so many checkpoints of the fixture's state."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.room = folder, 0.0
        self.warnings: list[str] = []
        self._save, self._one = checkpoints.save_file, 0
        monkeypatch.setattr(checkpoints, "save_file", self.save_file)

    def save_file(self, tensors, path):
        self._save(tensors, path)
        self._one = self._one or path.stat().st_size
        taken = sum(size_of(found / TENSORS) or size for found, size in self._present())
        if taken > self.room * self._one:
            path.write_bytes(path.read_bytes()[:10])  # as far as it went
            raise checkpoints.SafetensorError(NO_ROOM)

    def _present(self):
        for found in (*list_checkpoints(self.folder), self.folder / ".aside"):
            yield found, (found / TENSORS).stat().st_size

    def saved(self):
        return [int(path.name[5:]) for path in list_checkpoints(self.folder)]


@pytest.fixture
def disk(tmp_path, state, monkeypatch):
    return Disk(tmp_path, monkeypatch)


def _save(writer, *steps):
    for step in steps:
        writer.save(_Engine(), step, {})
        writer.wait()


def test_on_a_full_disk_the_oldest_goes_first(tmp_path, disk):
    writer = CheckpointWriter(tmp_path, 4, disk.warnings.append)
    disk.room = 3
    _save(writer, 1, 2, 3)
    assert disk.saved() == [1, 2, 3] and not disk.warnings
    _save(writer, 4)
    assert disk.saved() == [2, 3, 4] and writer.saved_step == 4
    said = "the disk is full: step_0000001 is deleted to make room for step_0000004"
    assert disk.warnings == [said]
    disk.room = 2
    _save(writer, 5)
    assert disk.saved() == [4, 5]
    assert not any(damage(path) for path in list_checkpoints(tmp_path))
    writer.close()


def test_the_only_intact_one_stays_and_the_next_save_is_tried(tmp_path, disk):
    writer = CheckpointWriter(tmp_path, 2, disk.warnings.append)
    disk.room = 2
    _save(writer, 1, 2)
    flip_byte(checkpoint_dir(tmp_path, 2) / TENSORS)
    disk.room = 1
    _save(writer, 3)
    assert disk.saved() == [1] and writer.saved_step == 2 and not (tmp_path / ".aside").exists()
    assert disk.warnings[0].startswith("the disk is full: step_0000002 is deleted")
    assert disk.warnings[1].startswith("step_0000003 finds no room on the disk and is not saved (")
    assert not damage(checkpoint_dir(tmp_path, 1))
    disk.room = 2
    _save(writer, 4)
    assert disk.saved() == [1, 4] and writer.saved_step == 4 and len(disk.warnings) == 2
    writer.close()


def test_the_good_one_stays_on_a_full_disk(tmp_path, disk):
    writer = CheckpointWriter(tmp_path, 2, disk.warnings.append)
    disk.room = 3
    _save(writer, 1, 2)
    writer.good_step = 1
    disk.room = 2
    _save(writer, 3)
    assert disk.saved() == [1, 2] and writer.saved_step == 2
    writer.close()


ON_A_SMALL_DISK = """
import sys
import torch
from pathlib import Path
from pretrain.checkpoint_folders import list_checkpoints
from pretrain.engine.checkpoints import CheckpointWriter
from pretrain.training.metrics_file import MetricsLog

folder = Path(sys.argv[1])
writer = CheckpointWriter(folder / "checkpoints", 9, lambda text: print("WARNED", text))
log = MetricsLog(folder / "metrics.jsonl")
for step in range(1, 6):
    record = {"step": step, "numbers": {}, "state": {}}
    writer._write_or_warn({"weight/a": torch.full((250_000,), float(step))}, record, False)
    log.write({"kind": "train", "step": step, "note": "x" * 3000})
print("SAVED", *(path.name[-1] for path in list_checkpoints(folder / "checkpoints")))
with open(folder / "filler", "wb", 0) as filler:
    try:
        while True:
            filler.write(bytes(1000))
    except OSError:
        pass
for step in range(6, 9):
    log.write({"kind": "train", "step": step, "note": "x" * 3000})
print("FULL", len((folder / "metrics.jsonl").read_text().splitlines()))
(folder / "filler").unlink()
log.flush()
print("FREE", len((folder / "metrics.jsonl").read_text().splitlines()))
"""


@pytest.mark.slow
def test_on_a_disk_that_is_really_full(tmp_path):
    """3 MB of memory as a disk, which only the child and its shell can see."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    mounted = [*namespace, "mount", "-t", "tmpfs", "-o", "size=3m", "none", str(tmp_path)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    script = f'{" ".join(mounted[4:])} && exec {sys.executable} -c "$0" {tmp_path}'
    command = [*namespace, "sh", "-c", script, ON_A_SMALL_DISK]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("WARNED the disk is full: step_") for line in lines) == 2
    assert lines[-3:] == ["SAVED 3 4 5", "FULL 5", "FREE 8"]
