"""A micro batch that does not fit: the next start takes half of it, and sees the same batches."""

import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dataset.stage import prepare_dataset
from pipeline.runtime.oom import OomKills
from pipeline.store.paths import log_path
from pretrain import launch, stage
from pretrain.engine.memory_limits import (
    EXIT_CODE,
    FILE,
    OutOfMemory,
    circumstances,
    known_limit,
    lower_limit,
    remember,
    shortage_in,
    within_memory,
)
from pretrain.engine.ports import free_port
from pretrain.failures import Failure
from pretrain.flags import parse_flags
from tests.pipeline.runtime.test_oom import count, fail_to_allocate
from tests.plans import pretrain_artifact
from tests.pretrain.shards import write_dataset
from tests.pretrain.test_pretrain_stage import small_config, write_corpus

PROJECT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# run_pretraining on a machine where more than `most` samples at once do not fit, from the pass with
# that number on, and on one rank. What fails there is a real allocation.
SHORT_OF_MEMORY = """
import os
import sys

sys.path.insert(0, {project!r})

import torch

from pretrain import run_pretraining

from pretrain.model import model

forward, passes = model.BasePretrainModel.forward, []


def forward_if_it_fits(self, input_ids, *others):
    passes.append(len(input_ids))
    ours = os.environ.get("RANK", "0") == "{rank}"
    if ours and self.training and len(passes) > {first} and len(input_ids) > {most}:
        torch.empty(1 << 46, dtype=torch.uint8)
    return forward(self, input_ids, *others)


model.BasePretrainModel.forward = forward_if_it_fits
if __name__ == "__main__":
    sys.exit(run_pretraining.main(sys.argv[1:]))
"""
EXACT = ("--hidden_dropout_prob=0", "--attention_probs_dropout_prob=0", "--precision=fp32")


def short_of_memory(folder, most, first=0, rank=0):
    """The path of such a script."""
    script = folder / "short_of_memory.py"
    settings = {"project": str(PROJECT), "most": most, "first": first, "rank": rank}
    script.write_text(SHORT_OF_MEMORY.format(**settings))
    return script


# --- what is remembered ----------------------------------------------------------------------


class _Activations:
    """What an error's frames keep alive."""


def test_what_filled_the_memory_is_free_again():
    kept = []

    def forward():
        activations = _Activations()
        kept.append(weakref.ref(activations))
        fail_to_allocate()

    try:
        within_memory(forward, "training", 8)
    except OutOfMemory as shortage:
        assert kept[0]() is None
        assert str(shortage).startswith("out of memory in training with micro batches of 8 (")
        assert len(str(shortage)) < 200 and "can't allocate memory" in str(shortage)


def test_other_errors_pass():
    def wrong():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        within_memory(wrong, "training", 8)
    assert within_memory(lambda: 3, "training", 8) == 3


def test_a_limit_is_halved_down_to_one_sample(tmp_path):
    remember(tmp_path, {"ranks": 1}, 12, 32)
    assert known_limit(tmp_path, {"ranks": 1}) == 32
    said = [lower_limit(tmp_path, size=12) for _ in range(2)]  # by two ranks
    assert said == ["the next start takes at most 6 samples at once"] * 2
    assert lower_limit(tmp_path, size=5).endswith("at most 2 samples at once")
    assert lower_limit(tmp_path, size=1) == ""
    assert known_limit(tmp_path, {"ranks": 1}) == 2
    assert lower_limit(tmp_path / "none") == ""


def test_a_limit_is_forgotten_where_it_need_not_hold(tmp_path):
    args = stage_flags(train_micro_batch_size_per_gpu=32, gradient_checkpointing=False)
    remember(tmp_path, circumstances(args, "gpu with 80 GB", 2), 16, 16)
    assert known_limit(tmp_path, circumstances(args, "gpu with 80 GB", 2)) == 16
    assert known_limit(tmp_path, circumstances(args, "gpu with 40 GB", 2)) == 0
    assert known_limit(tmp_path, circumstances(args, "gpu with 80 GB", 4)) == 0
    for change in ({"train_micro_batch_size_per_gpu": 24}, {"gradient_checkpointing": True}):
        changed = circumstances(stage_flags(**vars(args) | change), "gpu with 80 GB", 2)
        assert known_limit(tmp_path, changed) == 0


def stage_flags(**changes):
    args = parse_flags(["--dataset_path=d", "--output_dir=o"])
    vars(args).update(changes)
    return args


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"in_use": 1, "limit": "8"}', "\0"])
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert known_limit(tmp_path, {}) == 0 and lower_limit(tmp_path) == ""


# --- the ranks -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def flags(dataset, output, *more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    sizes |= {"max_steps": 9, "print_steps": 1, "checkpoint_steps": 0, "validation_steps": 5}
    words = [f"--{name}={value}" for name, value in sizes.items()]
    return [f"--dataset_path={dataset}", f"--output_dir={output}", *words, *EXACT, *more]


def trained(script, *words):
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=100)


@pytest.mark.slow
def test_a_rank_saves_and_goes_on_with_half(dataset, tmp_path):
    """Memory runs out in the middle of step 6: two passes for each, and one for validation."""
    output = tmp_path / "short"
    script = short_of_memory(tmp_path, most=2, first=12)
    first = trained(script, *flags(dataset, output))
    assert first.returncode == EXIT_CODE, first.stderr[-2000:]
    assert "out of memory; the checkpoint of step 5 is saved" in first.stdout
    said = shortage_in(first.stderr.splitlines())
    assert said.startswith("out of memory in training with micro batches of 4 (")
    assert said.endswith("; the next start takes at most 2 samples at once")
    assert "Traceback" not in first.stderr

    second = trained(script, *flags(dataset, output))
    assert second.returncode == 0, second.stderr[-2000:]
    assert "micro batch 4 -> 2: memory ran out with more; without" in second.stdout
    assert "resuming from the checkpoint of step 5\n" in second.stdout
    roomy = trained(PROJECT / "pretrain" / "run_pretraining.py", *flags(dataset, tmp_path / "ok"))
    assert roomy.returncode == 0
    ours, theirs = (losses(folder) for folder in (output, tmp_path / "ok"))
    assert list(ours) == list(range(1, 10))
    assert ours == pytest.approx(theirs, abs=1e-4)
    models = (folder / "model" / "model.safetensors" for folder in (output, tmp_path / "ok"))
    first, second = map(load_file, models)
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)


@pytest.mark.slow
def test_where_not_even_one_sample_fits_there_is_no_next_time(dataset, tmp_path):
    words = flags(dataset, tmp_path / "out", "--train_micro_batch_size_per_gpu=1")
    done = trained(short_of_memory(tmp_path, most=0), *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()
    assert "micro batches of 1 (" in said[-1] and "not even one sample fits" in said[-1]
    assert shortage_in(said) == ""
    assert Failure(said, 1, OomKills()).cause == said[-1]


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


# --- the stage -------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "corpus").mkdir()
    config = small_config(write_corpus(tmp_path / "corpus"), tmp_path)
    config.PRETRAIN.NUM_STEPS, config.PRETRAIN.CHECKPOINT_STEPS = 12, 3
    config.PRETRAIN.MICRO_BATCH_SIZE = 4
    return config


@pytest.mark.slow
def test_one_rank_of_two_runs_out_and_the_stage_starts_again(config, tmp_path, monkeypatch, capsys):
    prepare_dataset(config)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    config.SYSTEM.HOSTFILE = str(tmp_path / "hosts")
    monkeypatch.setattr(launch, "SCRIPT", short_of_memory(tmp_path, most=2, first=11, rank=1))
    stage.pretrain(config)
    out = capsys.readouterr().out
    assert "pretrain: out of memory in training with micro batches of 4 (" in out
    assert "; the next start takes at most 2 samples at once; training goes on from the n" in out
    artifact = pretrain_artifact(config)
    assert artifact.status().done and artifact.manifest["results"]["step"] == 12
    assert known_limit_of(artifact) == 2
    log = log_path(
        tmp_path / "root", "pretrain", artifact.directory.parent.name, artifact.directory.name
    )
    assert "resuming from the checkpoint of step " in log.read_text()


def known_limit_of(artifact):
    return json.loads((artifact.directory / FILE).read_text())["limit"]


# --- a rank that is killed -------------------------------------------------------------------


class Kills(OomKills):
    """The kernel's count of a machine where the test says what was killed."""

    def __init__(self, root, number=0):
        count(root, "sys/fs/cgroup/memory.events", 0)
        super().__init__(root)
        count(root, "sys/fs/cgroup/memory.events", number)


LOST_PEER = ["[rank0]: RuntimeError: [pair.cc:544] Connection closed by peer [127.0.0.1]:1"]
KILLED = 256 - signal.SIGKILL  # as DeepSpeed's launcher ends


@pytest.mark.parametrize(("errors", "code"), [([], KILLED), (LOST_PEER, 1), ([], 0)])
def test_a_rank_that_the_kernel_killed_is_named_and_the_run_goes_on(tmp_path, errors, code):
    kills = Kills(tmp_path, 1)
    said = "a training process was killed by the kernel because memory ran out"
    assert Failure(errors, code, kills).cause == said
    assert Failure(errors, code, kills).shortage(tmp_path) == ""  # it had not begun yet
    remember(tmp_path, {}, 8, 16)
    found = Failure(errors, code, kills).shortage(tmp_path)
    assert found == f"{said}; the next start takes at most 4 samples at once"
    # Killed again, before it could take them: there is no end to such starts.
    assert Failure(errors, code, kills).shortage(tmp_path) == ""
    remember(tmp_path, {}, 4, 4)
    assert Failure(errors, code, kills).shortage(tmp_path).endswith("at most 2 samples at once")


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ([], KILLED, "a training process was killed by SIGKILL from outside"),
        ([], 128 + signal.SIGTERM, "a training process died of SIGTERM"),
        ([], 256 - signal.SIGSEGV, "a training process died of SIGSEGV"),
        ([], 1, "a training process ended with exit code 1, without saying why"),
        (LOST_PEER, 1, "RuntimeError: [pair.cc:544] Connection closed"),
        (["ValueError: x", *LOST_PEER], 1, "ValueError: x"),
        (["run_pretraining.py: error: no shards"], 2, "run_pretraining.py: error: no shards"),
    ],
)
def test_other_ends_are_named_too_and_stay_ends(tmp_path, errors, code, said):
    kills = Kills(tmp_path)
    remember(tmp_path, {}, 8, 16)
    assert Failure(errors, code, kills).cause.startswith(said)
    assert Failure(errors, code, kills).shortage(tmp_path) == ""


def test_an_error_of_its_own_is_not_taken_for_a_kill(tmp_path):
    remember(tmp_path, {}, 8, 16)
    kills = Kills(tmp_path, 1)
    assert Failure(["ValueError: x"], 1, kills).shortage(tmp_path) == ""
    assert Failure(["ValueError: x"], 1, kills).cause == "ValueError: x"


@pytest.mark.slow
def test_a_real_kill_is_told_from_other_ends(tmp_path, monkeypatch):
    """What the launcher makes of a rank's SIGKILL, which nobody else can say."""
    monkeypatch.setattr(launch, "SCRIPT", tmp_path / "killed.py")
    launch.SCRIPT.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    command = launch.launch_command({}, launch.launcher_words("", 1), free_port())
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT)
    assert Failure([], done.returncode, OomKills()).code == -signal.SIGKILL
