"""Finding the newest intact checkpoint, and what counts as damage."""

import re
import zipfile

import pytest
import torch

from pipeline.artifacts import write_json
from pretrain.checkpoints import (
    RECORD,
    _prune,
    checkpoint_dir,
    damage,
    list_checkpoints,
    newest_intact_checkpoint,
)


def _checkpoint(directory, step):
    path = checkpoint_dir(directory, step)
    path.mkdir(parents=True)
    torch.save({"weight": torch.ones(1000)}, path / "weights.pt")
    files = {"weights.pt": (path / "weights.pt").stat().st_size}
    write_json(path / RECORD, {"files": files, "layout": {"zero_stage": 0, "num_ranks": 1}})
    return path


def flip_byte(path):
    """Changes one byte in the middle of the largest member of a zip archive."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 0xFF
    path.write_bytes(content)


def test_the_newest_is_found(tmp_path):
    _checkpoint(tmp_path, 5)
    newest = _checkpoint(tmp_path, 10)
    assert newest_intact_checkpoint(tmp_path, pytest.fail) == newest
    assert newest_intact_checkpoint(tmp_path / "none", pytest.fail) is None


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / RECORD).unlink(), "no readable checkpoint.json"),
        (lambda path: (path / "weights.pt").unlink(), "is missing"),
        (lambda path: (path / "weights.pt").write_bytes(b"short"), "5 bytes, expected"),
        (lambda path: flip_byte(path / "weights.pt"), "wrong checksum|Bad CRC"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_message(tmp_path, harm, said):
    older, newer = _checkpoint(tmp_path, 5), _checkpoint(tmp_path, 10)
    harm(newer)
    messages = []
    assert newest_intact_checkpoint(tmp_path, messages.append) == older
    assert len(messages) == 1 and "step_0000010 is damaged" in messages[0]
    assert re.search(said, messages[0])
    assert not damage(older)


def test_the_last_ones_are_kept_and_damaged_newer_ones_are_not(tmp_path):
    for step in (2, 4, 6, 8, 20):
        _checkpoint(tmp_path, step)
    _prune(tmp_path, step=8, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_0000006", "step_0000008"]
