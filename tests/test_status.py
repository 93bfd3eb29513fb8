"""`main.py --status` beside a run and after it, and `--wait`: the command, in this process."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import main as door
from configs.loading import load_config
from pipeline.console import Console
from pipeline.runtime.processes import this_process
from pipeline.store import ownership
from pipeline.store.artifacts import Artifact
from pipeline.store.heartbeat import heartbeat_path
from pipeline.store.ownership import lock_path
from tests.other_run import other_run
from tests.plans import dataset_artifact, pretrain_artifact

PROJECT = Path(__file__).resolve().parent.parent
CONFIG = """
SYSTEM: {{NUM_GPUS: 0, OUTPUT_ROOT: {root}}}
TOKENIZER: {{TRAIN: True, VOCAB_SIZE: 600}}
DATASET: {{CUSTOMIZED_DATASETS: [{text}]}}
FINETUNE: {{GLUE_DIR: "builtin:demo", TASKS: [CoLA], STILT_TASKS: []}}
RESULT_COLLECTION: {{ENABLED: False}}
"""


@pytest.fixture(autouse=True)
def signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def config(tmp_path):
    """Of text that is there and a root that is not."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One article.\n\nAnd another one.")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(root=tmp_path / "root", text=tmp_path / "text"))
    return path


@pytest.fixture
def status(config, capsys):
    """Calls the command; the lines it printed, by stage, after a look at what it changed."""

    def ask(*arguments):
        root = config.parent / "root"
        before = state_of_files(root)
        assert door.main(["--config", str(config), "--status", *arguments]) == 0
        assert state_of_files(root) == before
        stages, details = {}, []
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("  "):
                details.append(line.strip())
            else:
                stage, _, state = line.partition(": ")
                details = stages[stage] = [state]
        return stages

    return ask


def state_of_files(root):
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*")}


def test_what_is_not_begun_or_switched_off(config, status):
    assert status() == {
        "dataset": ["not begun, not made yet"],
        "pretrain": ["not begun, not made yet"],
        "finetune": ["not begun, not made yet"],
        "result_collection": ["switched off"],
    }
    assert status("--stages", "pretrain") == {"pretrain": ["not begun, not made yet"]}
    assert not (config.parent / "root").exists()


@contextmanager
def at_work(artifact, tmp_path):
    """The console of a stage that has begun, in this process."""
    with artifact.owned():
        artifact.begin()
        console = Console(artifact.stage, tmp_path / "x.log")
        console.show_life(artifact.directory)
        yield console


def test_a_run_at_work_says_how_far_it_is(config, status, tmp_path):
    artifact = pretrain_artifact(load_config(config))
    with at_work(artifact, tmp_path) as console:
        state, *rest = status()["pretrain"]
        assert state.startswith(f"running, by {this_process()} since 20")
        assert re.fullmatch(r"last sign of life \d+ s ago", rest.pop()) and rest == []
        console.say("on the CPU")
        assert status()["pretrain"][1] == "on the CPU"
        (artifact.directory / "checkpoints" / "step_0000500").mkdir(parents=True)
        (artifact.directory / "checkpoints" / "step_0001000").mkdir()
        with console.progress("pretraining", 23000, "steps") as progress:
            progress.update(1000)
            time.sleep(0.01)
            progress.update(1150, "loss 3.214")
            console.heart._beat()  # ten seconds later
            _, position, checkpoint, age = status()["pretrain"]
        assert position.startswith("pretraining 1,150/23,000 steps (5 %), ")
        assert "steps/s, " in position and position.endswith(" left, loss 3.214")
        assert re.fullmatch(r"last checkpoint step_0001000, \d+ s ago", checkpoint)
        assert re.fullmatch(r"last sign of life \d+ s ago", age)


def make_older(artifact, seconds):
    path = heartbeat_path(artifact.directory)
    beat = json.loads(path.read_text())
    path.write_text(json.dumps(beat | {"at": beat["at"] - seconds}))


def test_a_run_that_hangs_is_told_from_one_that_is_gone(config, status, tmp_path):
    artifact = dataset_artifact(load_config(config))
    with at_work(artifact, tmp_path):
        make_older(artifact, 720)
        *_, age = status()["dataset"]
        assert age == f"no sign of life for 12 min, but {this_process()} has not ended"
    state, age = status()["dataset"]
    assert state == "interrupted, goes on where it was"
    assert age == f"last sign of life 12 min ago; {this_process()} is gone"


def test_where_and_why_a_run_ended(config, status, tmp_path):
    artifact = dataset_artifact(load_config(config))
    with at_work(artifact, tmp_path) as console:
        with console.progress("sharding text", 50, "MB") as progress:
            progress.update(20)
        console.heart.fail("no space left")
    state, position, failed, _ = status()["dataset"]
    assert state.startswith("interrupted")
    assert (position, failed) == ("sharding text 20/50 MB (40 %)", "failed: no space left")


def test_the_heartbeat_of_an_earlier_run_does_not_count(config, status, tmp_path):
    artifact = dataset_artifact(load_config(config))
    with at_work(artifact, tmp_path):
        pass
    lock_path(artifact.directory).write_text("process 1 on elsewhere since 2020-01-01 00:00:00")
    assert status()["dataset"] == ["interrupted, goes on where it was"]


def test_a_run_with_the_number_of_an_earlier_one_is_not_taken_for_it(config, status, tmp_path):
    """As in a container that was started again."""
    artifact = dataset_artifact(load_config(config))
    with at_work(artifact, tmp_path):
        make_older(artifact, 720)
    with artifact.owned():
        (state,) = status()["dataset"]
    assert state.startswith(f"running, by {this_process()} since ")


def test_without_locks_the_heartbeat_tells_who_is_at_work(config, status, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(ownership.fcntl, "flock", refuse)
    artifact = dataset_artifact(load_config(config))
    with at_work(artifact, tmp_path):
        pass
    assert status()["dataset"][0].startswith("running, by ")
    make_older(artifact, 720)
    assert status()["dataset"][0] == "interrupted, goes on where it was"


def finish(artifact):
    """As far as a manifest and the names of files go."""
    artifact.begin()
    (artifact.directory / "tokenizer").mkdir()
    (artifact.directory / "dataset_card.md").write_text("")
    results = {"masking": "static", "train_shards": {}, "test_shards": {}, "headline": ["good"]}
    artifact.finish(results | {"vocab_size": 600})
    artifact.record_time(61)


def test_what_is_done_and_what_has_changed(config, status):
    finish(dataset_artifact(load_config(config, ["DATASET.ID", "mine"])))
    state, headline = status("DATASET.ID", "mine")["dataset"]
    assert state.startswith("up to date (") and state.endswith(" in 61 s")
    assert headline == "good"
    changed = status("DATASET.ID", "mine", "DATASET.SEED", "7")["dataset"]
    assert changed == ["changed, DATASET.SEED 42 -> 7"]


def test_what_is_deleted_meanwhile_ends_no_look_and_no_run(config, monkeypatch, capsys):
    """Another run makes it anew, right after it was found done."""
    artifact = dataset_artifact(load_config(config))
    find = Artifact.status

    def find_and_delete(self):
        status = find(self)
        self.clear()
        return status

    monkeypatch.setattr(Artifact, "status", find_and_delete)
    for look in (["--status"], []):
        finish(artifact)
        assert door.main(["--config", str(config), "--stages", "dataset", *look]) == 0
        assert capsys.readouterr().out == f"dataset: up to date ({artifact.directory})\n"


def test_text_that_cannot_be_seen_from_here(config, status):
    (config.parent / "text" / "a.txt").unlink()
    state, problem = status()["dataset"]
    assert state == "cannot be told from here" and problem.startswith("DATASET.CUSTOMIZED_DATASETS")


def test_a_wrong_config_is_an_error_here_too(config):
    assert door.main(["--config", str(config), "--status", "DATASET.SEED", "x"]) == 2


def test_it_is_quick(config):
    code = (
        "import sys, main; "
        f"assert main.main(['--config', {str(config)!r}, '--status']) == 0; "
        "print(*{'torch', 'transformers', 'datasets', 'deepspeed', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "", done.stdout + done.stderr


# --- two runs at once ------------------------------------------------------------------------


def test_the_second_run_leaves_and_says_how_it_could_wait(config, capsys):
    artifact = dataset_artifact(load_config(config))
    with artifact.owned():
        assert door.main(["--config", str(config), "--stages", "dataset"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"dataset failed: {artifact.directory} is being made by {this_process()}"
    )
    assert line.endswith("or with --wait")
    assert not artifact.directory.exists()


def test_a_run_that_waits_finds_done_what_it_waited_for(config, capsys, monkeypatch):
    artifact = dataset_artifact(load_config(config))
    with other_run(artifact.directory, monkeypatch, partial(finish, artifact)):
        assert door.main(["--config", str(config), "--stages", "dataset", "--wait"]) == 0
    waits, done = capsys.readouterr().out.splitlines()
    assert waits.startswith(f"dataset: waiting: {artifact.directory} is being made by process ")
    assert done == f"dataset: up to date ({artifact.directory})"


def test_what_another_run_builds_on_is_not_made_anew(config, capsys):
    artifact = dataset_artifact(load_config(config))
    with artifact.owned():
        finish(artifact)
    with artifact.in_use():
        forced = ["--config", str(config), "--stages", "dataset", "--force", "dataset"]
        assert door.main(forced) == 3
    assert "is being read by another run, which builds on it" in capsys.readouterr().err
    assert artifact.status().done


def test_a_stage_whose_input_is_being_made_says_by_whom(config, capsys):
    with dataset_artifact(load_config(config)).owned():
        assert door.main(["--config", str(config), "--stages", "pretrain"]) == 2
    assert f"not done ({this_process()} since " in capsys.readouterr().err


def test_an_input_that_is_being_made_is_waited_for(config, capsys, monkeypatch):
    """And is looked at then: here the other run has failed."""
    with other_run(dataset_artifact(load_config(config)).directory, monkeypatch):
        assert door.main(["--config", str(config), "--stages", "pretrain", "--wait"]) == 3
    said = capsys.readouterr()
    assert said.out.startswith("pretrain: waiting: ")
    assert "pretrain failed: the dataset " in said.err and "is not ready" in said.err


def test_looking_and_waiting_exclude_each_other(config, capsys):
    with pytest.raises(SystemExit) as left:
        door.main(["--config", str(config), "--status", "--wait"])
    assert left.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
