"""Finding the newest intact checkpoint, what counts as damage, and writing beside the training."""

import re
import threading

import pytest
import torch

from pretrain import checkpoints
from pretrain.checkpoints import (
    RECORD,
    TENSORS,
    CheckpointWriter,
    checkpoint_dir,
    damage,
    list_checkpoints,
    newest_intact_checkpoint,
)


def _write(directory, *steps, keep=9):
    """Checkpoints as the writer makes them, without an engine."""
    writer = CheckpointWriter(directory, keep)
    for step in steps:
        record = {"step": step, "numbers": {}, "state": {"step": step}}
        writer._write({"weight/a": torch.full((1000,), float(step))}, record)
    writer.close()
    return checkpoint_dir(directory, steps[-1])


def flip_byte(path):
    """Changes one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


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


class _Engine:
    """Enough of an engine for a state of two tensors."""


@pytest.fixture
def state(monkeypatch):
    weights = torch.zeros(10)
    monkeypatch.setattr(
        checkpoints, "gather_state", lambda engine: ({"weight/a": weights.clone()}, {})
    )
    return weights


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, state, monkeypatch):
    may_write = threading.Event()
    write = CheckpointWriter._write

    def late(*args):
        may_write.wait(10)
        write(*args)

    monkeypatch.setattr(CheckpointWriter, "_write", late)
    writer = CheckpointWriter(tmp_path, 2)
    writer.save(_Engine(), 1, {})
    state += 1.0  # the next step changes the weights
    writer.check()
    assert not list_checkpoints(tmp_path)
    may_write.set()
    writer.wait()
    saved = checkpoints.load_file(checkpoint_dir(tmp_path, 1) / TENSORS)
    assert saved["weight/a"].eq(0).all()


def test_a_failed_write_is_not_forgotten_and_names_the_checkpoint(tmp_path, state):
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(tmp_path / "file", 2)
    writer.save(_Engine(), 1, {})
    with pytest.raises(OSError, match="step_0000001 cannot be written"):
        writer.wait()
    writer.close()


def test_what_is_not_finite_is_not_saved(tmp_path, state):
    writer = CheckpointWriter(tmp_path, 2)
    state[3] = float("nan")
    writer.save(_Engine(), 1, {})
    with pytest.raises(FloatingPointError, match=r"weight/a is not finite, and step_0000001"):
        writer.wait()
    writer.close()
    assert not list_checkpoints(tmp_path)


def test_the_last_good_one_is_kept_however_old(tmp_path):
    writer = CheckpointWriter(tmp_path, 1)
    for step in (1, 2, 3):
        record = {"step": step, "numbers": {}, "state": {}}
        writer._write({"weight/a": torch.ones(3)}, record)
        writer.good_step = 1
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000001", "step_0000003"]


def test_with_little_memory_training_waits(tmp_path, state, monkeypatch):
    monkeypatch.setattr(checkpoints, "_is_memory_short", lambda tensors: True)
    writer = CheckpointWriter(tmp_path, 2)
    writer.save(_Engine(), 3, {})
    assert not damage(checkpoint_dir(tmp_path, 3))
    writer.close()
