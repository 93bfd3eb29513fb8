"""Secrets of the environment and the YAML show up nowhere, and what is made is the user's alone."""

import shutil
import stat
from pathlib import Path

import pytest

from tests.small_pipeline import PLANTED, WatchedRun, run

pytestmark = pytest.mark.slow


def files_with_secrets(root: Path) -> list[str]:
    """Files below a folder that hold a planted secret, or are named after one."""
    return [
        str(path)
        for path in root.rglob("*")
        if PLANTED in path.name or (path.is_file() and PLANTED.encode() in path.read_bytes())
    ]


@pytest.mark.slow
def test_no_secret_is_in_a_file_an_output_or_a_command_line(pipeline_folder, finished_pipeline):
    assert PLANTED in (pipeline_folder / "config.yaml").read_text()  # the search would find it
    assert files_with_secrets(pipeline_folder / "root") == []
    assert PLANTED not in finished_pipeline.stdout + finished_pipeline.stderr
    seen = finished_pipeline.command_lines
    for process in ("multiprocessing.spawn", "deepspeed.launcher", "run_pretraining.py"):
        assert any(process in line for line in seen)
    assert not any(PLANTED in line for line in seen)


def test_a_crash_shows_none_either(pipeline_folder, finished_pipeline, tmp_path):
    for name in ("data", "tmp"):
        shutil.copytree(pipeline_folder / "root" / name, tmp_path / "root" / name)
    changed = ("--stages", "dataset,pretrain", "PRETRAIN.LEARNING_RATE", "1e14")
    crashed = WatchedRun(pipeline_folder, tmp_path / "root", *changed)
    assert crashed.returncode == 3 and "FloatingPointError" in crashed.stderr
    errors = next((tmp_path / "root" / "log").rglob("*.err")).read_text()
    assert "Traceback" in errors
    assert files_with_secrets(tmp_path) == []
    assert PLANTED not in crashed.stdout + crashed.stderr
    assert not any(PLANTED in line for line in crashed.command_lines)


@pytest.mark.parametrize(
    "override",
    [
        ("WANDB.API_KEY", "[planted-0123456789]"),
        ("WANDB.API_KEY", "{planted-0123456789: 1}"),
        ("SYSTEM.DASK_SCHEDULER", "tcp://me:planted-0123456789@server:8786"),
        ("DATASET.HUGGINGFACE_DATASETS", "[[https://planted-0123456789@server/wiki, '']]"),
    ],
)
def test_a_mistake_beside_a_secret_does_not_show_it(pipeline_folder, tmp_path, override):
    refused = run(pipeline_folder, tmp_path / "root", "--dry-run", *override)
    if override[0] != "WANDB.API_KEY":  # any text is a key
        assert refused.returncode == 2 and override[0] in refused.stderr
    assert PLANTED not in refused.stdout + refused.stderr


def test_all_that_is_made_is_for_the_user_alone(pipeline_folder, finished_pipeline):
    root = pipeline_folder / "root"
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
