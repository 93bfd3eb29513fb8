"""The whole pipeline as a user runs it: one command, again, killed, changed, mistyped."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_pipeline import ENVIRONMENT, PROJECT, WatchedRun, command, run, state_of_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(pipeline_folder) -> Path:
    """Holds a corpus and a config for it."""
    return pipeline_folder


@pytest.fixture(scope="module")
def finished(finished_pipeline) -> WatchedRun:
    """An undisturbed run into `root`."""
    return finished_pipeline


def final_artifacts(root: Path) -> dict[str, str]:
    """Digests of what a user takes away; other files hold times, too."""
    patterns = ("data/*/*.hdf5", "data/*/tokenizer/*", "saved_models/**/model/*")
    patterns += ("output/**/predictions_*.tsv", "output_test_translated/**/*.tsv")
    patterns += ("output_test_translated/**/*.zip",)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in root.glob(pattern)
        if path.is_file() and path.name != "README.md"
    }


def test_one_command_ends_with_scores_and_a_zip(folder, finished):
    assert "average of 3 tasks" in finished.stdout
    assert "CANNOT BE SUBMITTED" in finished.stdout
    (archive,) = (folder / "root" / "output_test_translated" / "finetune").glob("*/*.zip")
    assert str(archive) in finished.stdout


@pytest.mark.slow
def test_the_second_run_does_nothing(folder, finished):
    before = state_of_files(folder / "root")
    again = run(folder, "root")
    assert again.returncode == 0
    assert again.stdout.count("up to date") == 5
    assert state_of_files(folder / "root") == before


@pytest.mark.parametrize(
    ("key", "value", "redone"),
    [
        ("TOKENIZER.VOCAB_SIZE", "500", ["dataset", "pretrain", "finetune", "result_collection"]),
        ("MODEL.NUM_HIDDEN_LAYERS", "1", ["pretrain", "finetune", "result_collection"]),
        ("FINETUNE.GRID.CoLA.EPOCHS", "[2]", ["finetune", "result_collection"]),
        ("RESULT_COLLECTION.ALLOW_PARTIAL", "False", ["result_collection"]),
        ("SYSTEM.NUM_WORKERS", "1", []),
    ],
)
def test_a_changed_value_redoes_what_depends_on_it(folder, finished, key, value, redone):
    before = state_of_files(folder / "root")
    plan = run(folder, "root", "--dry-run", key, value)
    assert plan.returncode == 0, plan.stderr
    would_run = [line for line in plan.stdout.splitlines() if ": would run, " in line]
    assert [line.partition(":")[0] for line in would_run] == redone
    assert all(key in line for line in would_run[:1])
    assert state_of_files(folder / "root") == before


def kill_during(folder: Path, root: str, stage: str, delay: float) -> None:
    """Starts the pipeline and sends SIGKILL to its whole session `delay` seconds into a stage."""
    child = subprocess.Popen(
        command(folder, root),
        cwd=PROJECT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in child.stdout:
        if line.startswith(f"{stage}: running"):
            time.sleep(delay)
            break
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def test_killed_in_each_stage_it_ends_with_the_same_result(folder, finished):
    for stage, delay in (("dataset", 1.0), ("pretrain", 9.0), ("finetune", 9.0)):
        kill_during(folder, "killed", stage, delay)
    kill_during(folder, "killed", "result_collection", 0.0)
    last = run(folder, "killed")
    assert last.returncode == 0, last.stdout + last.stderr
    assert "average of 3 tasks" in last.stdout
    assert final_artifacts(folder / "killed") == final_artifacts(folder / "root")


def test_a_changed_grid_keeps_the_other_results(folder, own_root):
    kept = own_root / "output" / "finetune"
    before = {path: path.stat().st_mtime_ns for path in kept.glob("*/*/*/*/result.json")}
    done = run(folder, own_root, "FINETUNE.GRID.CoLA.LEARNING_RATES", "[1e-3, 5e-4]")
    assert done.returncode == 0, done.stderr
    assert "3 of them done" in done.stdout
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


def test_five_mistakes_and_nothing_is_created(folder):
    mistakes = (folder / "config.yaml").read_text()
    mistakes = mistakes.replace("NUM_STEPS: 40", "NUM_STEPS: -1").replace(
        "HIDDEN_SIZE: 32", "HIDDEN_SIZE: 33"
    )
    mistakes = mistakes.replace("BATCH_SIZE: 16", "BATCH_SIZES: 16").replace("0.05", "little")
    (folder / "wrong.yaml").write_text(mistakes.replace("builtin:demo", "no/such/folder"))
    done = subprocess.run(
        [sys.executable, str(PROJECT / "main.py"), "--config", "wrong.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 5
    assert sorted(
        path.name for path in folder.iterdir() if path.name not in ("root", "killed")
    ) == [
        "config.yaml",
        "text",
        "wrong.yaml",
    ]


def test_a_stage_whose_input_is_missing_says_what_to_run(folder):
    done = run(folder, "empty", "--stages", "pretrain")
    assert done.returncode == 2
    assert "--stages dataset" in done.stderr
    assert not (folder / "empty").exists()


def test_a_users_name_is_not_reused(folder, finished):
    named = ("--stages", "dataset", "DATASET.ID", "mine")
    assert run(folder, "named", *named).returncode == 0
    before = state_of_files(folder / "named")
    changed = run(folder, "named", *named, "DATASET.SEED", "7")
    assert changed.returncode == 2
    assert "DATASET.SEED 42 -> 7" in changed.stderr and "--force dataset" in changed.stderr
    assert state_of_files(folder / "named") == before
    assert run(folder, "named", *named, "DATASET.SEED", "7", "--force", "dataset").returncode == 0


def test_forcing_a_stage_redoes_what_builds_on_it(folder, finished):
    plan = run(folder, "root", "--dry-run", "--force", "pretrain")
    assert "pretrain: would run again, as asked" in plan.stdout
    assert "result_collection: would run again, because finetune is" in plan.stdout
    short = run(folder, "root", "--forc", "install")  # it would be passed on without being known
    assert short.returncode == 2 and "unrecognized arguments: --forc" in short.stderr
    outside = run(folder, "root", "--stages", "dataset", "--force", "pretrain")
    assert outside.returncode == 2 and "--force pretrain" in outside.stderr


def test_a_failed_stage_ends_with_its_cause_and_log(folder):
    (folder / "one").mkdir()
    (folder / "one" / "a.txt").write_text("Just one article.")
    done = run(folder, "failed", "DATASET.CUSTOMIZED_DATASETS", f"[{folder / 'one'}]")
    assert done.returncode == 3
    *_, cause, log = done.stderr.splitlines()
    assert cause.startswith("dataset failed: ") and "expected at least two" in cause
    assert Path(log.removeprefix("log: ")).is_file()


def test_interrupted_it_answers_130_and_leaves_no_child(folder):
    child = subprocess.Popen(
        command(folder, "interrupted"),
        cwd=PROJECT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stdout:
        if line.startswith("pretrain: running"):
            time.sleep(4.0)
            child.send_signal(signal.SIGINT)
            break
    child.communicate(timeout=60)
    assert child.returncode == 130
    marker = str(folder / "interrupted")
    left = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if marker in path.read_bytes().decode(errors="replace")
    ]
    assert left == []


def test_more_gpus_than_there_are_is_found_before_any_work(folder):
    done = run(folder, "gpus", "SYSTEM.NUM_GPUS", "64")
    assert done.returncode == 2
    (message,) = done.stderr.splitlines()
    assert message.startswith("SYSTEM.NUM_GPUS: ")
    assert not (folder / "gpus").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("configs.defaults", "get_default_config"),
        ("dataset.stage", "prepare_dataset"),
        ("pretrain.stage", "pretrain"),
        ("pretrain.loop", "train"),
        ("pretrain.model", "BasePretrainModel"),
        ("finetune.stage", "finetune"),
        ("result_collection.stage", "collect_test_result"),
    ],
)
def test_the_manuals_functions_are_importable(module, name):
    code = f"from {module} import {name}; assert callable({name})"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
