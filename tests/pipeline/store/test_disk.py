"""Space on disk: what is needed and not there is told before anything is touched."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from configs.defaults import get_default_config
from pipeline.console import Console
from pipeline.errors import ConfigError
from pipeline.orchestrator import plan_steps, run_pipeline
from pipeline.runtime.processes import python_command, run_logged
from pipeline.store.disk import DiskNeed, is_full, shortages, size_in_words, size_of, space_in_words


@pytest.fixture
def free(tmp_path) -> int:
    return shutil.disk_usage(tmp_path).free


def need(folder, num_bytes, key="SOME.KEY") -> DiskNeed:
    return DiskNeed(folder, num_bytes, f"the {folder.name}", key)


def test_what_clearly_does_not_fit_is_told_with_the_keys_that_lower_it(tmp_path, free):
    halves = [need(tmp_path / "a", free * 0.7, "A.A"), need(tmp_path / "b" / "c", free * 0.7, "")]
    (line,) = shortages(halves)
    assert line.startswith(f"SYSTEM.OUTPUT_ROOT: too little space on the disk of {tmp_path}, got ")
    assert "free, expected about" in line and "for the a, the c; a smaller A.A needs less" in line
    assert not shortages(halves[:1]) and not shortages(halves[1:])
    assert not (tmp_path / "b").exists()


def test_an_estimate_that_may_be_wrong_refuses_nothing(tmp_path, free):
    assert not shortages([need(tmp_path, free * 1.1)])


def test_what_is_there_already_counts(tmp_path, free):
    (tmp_path / "deep").mkdir()
    with open(tmp_path / "deep" / "sparse", "wb") as file:
        file.truncate(int(free * 1.5))
    assert not shortages([need(tmp_path, free * 2.0)])
    assert shortages([need(tmp_path, free * 3.0)])
    assert "about 0.0 MB to write" in space_in_words([need(tmp_path, 10.0)])[0]


def test_each_file_system_is_looked_at_by_itself(tmp_path, free):
    other = "/dev/shm"
    if not os.path.isdir(other) or os.stat(other).st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system here")
    there = shutil.disk_usage(other).free
    needs = [need(tmp_path, free * 0.9), DiskNeed(Path(other), there * 0.9, "x")]
    assert not shortages(needs)
    assert len(space_in_words(needs)) == 2


def test_size_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert size_of(tmp_path) - (tmp_path / "loop").lstat().st_size == 8
    assert size_of(tmp_path / "none") == 0


def test_sizes_in_words():
    assert [size_in_words(n) for n in (4e5, 1.1e7, 3.14e9)] == ["0.4 MB", "11 MB", "3.1 GB"]


def test_errors_of_a_full_disk():
    with pytest.raises(OSError) as failure, open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    assert is_full(failure.value) and is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    # safetensors' own, whose class is no OSError
    assert is_full(Exception("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_full(Exception("I/O error: Permission denied (os error 13)"))


# --- in the plan -----------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("A small text. With two sentences.\n")
    config = get_default_config()
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "text")]
    config.TOKENIZER.TRAIN = True
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "root")
    config.SYSTEM.NUM_GPUS = 0
    return config


def test_a_plan_that_does_not_fit_is_refused_and_touches_nothing(config, tmp_path):
    config.PRETRAIN.KEEP_CHECKPOINTS = 10**9
    config.PRETRAIN.CHECKPOINT_STEPS = 0
    with pytest.raises(ConfigError) as refusal:
        plan_steps(config, ("dataset", "pretrain"))
    (problem,) = refusal.value.problems
    assert "too little space" in problem and "PRETRAIN.KEEP_CHECKPOINTS" in problem
    assert "checkpoints and models of pretraining" in problem
    assert not (tmp_path / "root").exists()


def test_a_run_that_makes_few_checkpoints_needs_few(config):
    config.PRETRAIN.KEEP_CHECKPOINTS = 10**9
    config.PRETRAIN.NUM_STEPS = 100
    assert plan_steps(config, ("dataset", "pretrain"))


def test_the_dry_run_says_how_much_there_is(config, capsys):
    run_pipeline(config, ("dataset", "pretrain"), dry_run=True)
    assert "to write, " in capsys.readouterr().out.splitlines()[-1]


# --- logs ------------------------------------------------------------------------------------


def test_a_log_that_takes_no_more_ends_nothing(tmp_path):
    """The child lives on, its lines are heard, and the console speaks."""
    log, lines = tmp_path / "log", []
    log.symlink_to("/dev/full")
    assert run_logged(python_command("-c", "print(1); print(2)"), log, on_line=lines.append) == 0
    assert lines == ["1", "2"]
    Console("stage", log).say("still here")
