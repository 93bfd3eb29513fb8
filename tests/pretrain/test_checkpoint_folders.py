"""Which checkpoint a run resumes from: only one that it could have written itself."""

import pytest

from pipeline.store.atomic_files import write_sealed
from pipeline.store.checksums import file_digest
from pretrain.checkpoint_folders import (
    RECORD,
    STABLE,
    TENSORS,
    OtherSchedule,
    checkpoint_dir,
    checkpoint_to_resume,
    incompleteness,
    newest_intact_checkpoint,
)
from pretrain.optimization.lr_curves import CurveShape
from pretrain.optimization.run_schedule import RunSchedule
from tests.damage import flip_byte


def wsd(length):
    return RunSchedule("step", length, "wsd", CurveShape(warmup=0.0), peak=1e-3)


def write_checkpoint(directory, step, schedule, name=""):
    """A checkpoint without weights; schedule: None as in early versions."""
    path = directory / name if name else checkpoint_dir(directory, step)
    path.mkdir(parents=True)
    (path / TENSORS).write_bytes(b"weights of %d" % step)
    of_file = {"bytes": (path / TENSORS).stat().st_size, "digest": file_digest(path / TENSORS)}
    state = {"step": step}
    if schedule:
        state |= {"schedule": schedule.record(), "last_begin": step - 1}
    write_sealed(path / RECORD, {"step": step, "numbers": {}, "state": state} | of_file)
    return path


def test_a_run_resumes_from_its_newest_and_a_longer_one_from_before_the_decay(tmp_path):
    written = {step: write_checkpoint(tmp_path, step, wsd(20)) for step in (10, 15, 18, 20)}
    assert checkpoint_to_resume(tmp_path, wsd(20), pytest.fail) == written[20]
    assert checkpoint_to_resume(tmp_path, wsd(40), pytest.fail) == written[15]
    stable = write_checkpoint(tmp_path, 16, wsd(20), STABLE)
    assert checkpoint_to_resume(tmp_path, wsd(40), pytest.fail) == stable
    assert checkpoint_to_resume(tmp_path, wsd(20), pytest.fail) == written[20]
    newer = write_checkpoint(tmp_path, 17, wsd(40))
    assert checkpoint_to_resume(tmp_path, wsd(40), pytest.fail) == newer


def test_the_reason_is_that_of_the_newest(tmp_path):
    write_checkpoint(tmp_path, 18, wsd(20))
    write_checkpoint(tmp_path, 20, wsd(20))
    with pytest.raises(OtherSchedule, match=r"^in step 20 the learning rate was .* of 40 steps"):
        checkpoint_to_resume(tmp_path, wsd(40), pytest.fail)


def test_checkpoints_of_early_versions_are_taken_for_this_runs_unless_others_differ(tmp_path):
    early = write_checkpoint(tmp_path, 5, None)
    assert checkpoint_to_resume(tmp_path, wsd(40), pytest.fail) == early
    write_checkpoint(tmp_path, 20, wsd(20))
    assert checkpoint_to_resume(tmp_path, wsd(20), pytest.fail).name == "step_0000020"
    with pytest.raises(OtherSchedule, match="in step 20"):
        checkpoint_to_resume(tmp_path, wsd(40), pytest.fail)


def test_damaged_ones_are_passed_over(tmp_path):
    assert checkpoint_to_resume(tmp_path, wsd(20), pytest.fail) is None
    stable = write_checkpoint(tmp_path, 16, wsd(20), STABLE)
    newer = write_checkpoint(tmp_path, 18, wsd(20))
    flip_byte(newer / TENSORS)
    said = []
    assert checkpoint_to_resume(tmp_path, wsd(20), said.append) == stable
    assert newest_intact_checkpoint(tmp_path, said.append) == stable
    assert said == ["step_0000018 is damaged (state.safetensors: wrong digest) and is skipped"] * 2
    # A plan reads no weights.
    assert checkpoint_to_resume(tmp_path, wsd(20), pytest.fail, incompleteness) == newer
    (stable / RECORD).write_text("{}")
    assert newest_intact_checkpoint(tmp_path, said.append) is None
