"""Several real ranks on the CPU: a signal, a rank that dies, one that does not answer."""

import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.oom import OomKills
from pipeline.runtime.processes import run_logged
from pretrain import launch, run_pretraining
from pretrain.checkpoint_folders import TENSORS, list_checkpoints
from pretrain.engine.ports import free_port
from pretrain.failures import Failure
from tests.forked import start, start_ranks
from tests.pretrain.interrupted_ranks import run_and_interrupt
from tests.pretrain.shards import write_dataset

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
# Nothing is compiled, but DeepSpeed would load the compiler.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
ENVIRONMENT["PYTHONPATH"] = str(PROJECT)
CHECKS = 5  # of a step: before each of its 4 micro batches, and after it


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def flags(dataset, *more):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": 64, "train_batch_size": 16, "train_micro_batch_size_per_gpu": 2}
    small |= {"max_steps": 6, "print_steps": 2, "checkpoint_steps": 0, "validation_steps": 4}
    small |= {"validation_micro_batch": 2}
    words = [f"--{name}={value}" for name, value in small.items()]
    return [f"--dataset_path={dataset}", *words, *more]


def metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    kept = {"kind", "step", "samples", "tokens", "loss", "accuracy", "lr", "grad_norm"}
    return [{key: line[key] for key in line.keys() & kept} for line in lines]


def test_a_signal_to_one_rank_ends_both_before_the_same_micro_batch(dataset, tmp_path):
    """And what comes of it is the same, bit by bit, as if there had been none."""
    in_a_step = 2 * CHECKS + 3
    in_a_validation = 2 * CHECKS + 2  # after steps 3 and 4, before its second batch
    calls = [in_a_step, in_a_validation]
    arguments = (tmp_path, calls, flags(dataset))
    ranks = start_ranks(run_and_interrupt, 2, free_port(), *arguments, folder=tmp_path)
    for rank in ranks:
        assert rank.result(100) == [(call, 143) for call in calls]
    said = [line for line in ranks[0].output.read_text().splitlines() if "interrupted" in line]
    assert said == [f"interrupted; the checkpoint of step {step} is saved" for step in (2, 4)]
    ours, expected = (tmp_path / name for name in ("interrupted", "undisturbed"))
    assert metrics(ours) == metrics(expected)
    for end in (Path("model") / "model.safetensors", Path("checkpoints/step_0000006") / TENSORS):
        assert (ours / end).read_bytes() == (expected / end).read_bytes()
    assert list_checkpoints(ours / "checkpoints")[-1].name == "step_0000006"


def test_before_there_is_anything_to_save_a_signal_ends_a_rank_at_once(dataset, tmp_path):
    """Here in C code of torch's, which waits for a first rank that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        first.settimeout(100)
        words = flags(dataset, f"--output_dir={tmp_path / 'out'}")
        ours = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_SIZE": 2}
        ours |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": first.getsockname()[1]}
        rank = start(run_pretraining.main, words, output=tmp_path / "rank.txt", **ours)
        try:
            with first.accept()[0]:
                rank.process.terminate()
                rank.process.join(20)
                assert rank.process.exitcode == -signal.SIGTERM
        finally:
            rank.kill()


# run_pretraining whose ranks stop in step 3, as in a collective with one that has died, and answer
# no signal, but for one that is well.
STUCK = """
import os
import sys
import threading

sys.path.insert(0, {project!r})

from pretrain import run_pretraining
from pretrain.training.training_run import TrainingRun

step = TrainingRun._train_step


def get_stuck(self, interrupts):
    if self.budget.step == 2 and os.environ["RANK"] != "{well}":
        # In one piece, as the other rank prints, too.
        print("stuck: " + os.environ["RANK"] + " " + str(os.getpid()) + "\\n", end="", flush=True)
        threading.Event().wait()
    step(self, interrupts)


TrainingRun._train_step = get_stuck
if __name__ == "__main__":
    sys.exit(run_pretraining.main(sys.argv[1:]))
"""


def stuck_ranks(folder, dataset, monkeypatch, well=""):
    """The command of two such ranks."""
    script = folder / "stuck.py"
    script.write_text(STUCK.format(project=str(PROJECT), well=well))
    monkeypatch.setattr(launch, "SCRIPT", script)
    out = {"output_dir": folder / "out"}
    return [*launch.launch_command(out, launch.launcher_words("", 2), free_port()), *flags(dataset)]


@pytest.fixture(scope="module", autouse=True)
def launcher(dataset, tmp_path_factory):
    """A launcher whose ranks get stuck; it starts while other tests run."""
    folder = tmp_path_factory.mktemp("launcher")
    with pytest.MonkeyPatch.context() as monkeypatch:
        command = stuck_ranks(folder, dataset, monkeypatch)
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    launcher = subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes)
    yield launcher
    with suppress(psutil.Error):  # ranks that nobody has stopped keep its pipes open
        for process in psutil.Process(launcher.pid).children(recursive=True):
            process.kill()
    launcher.kill()
    launcher.communicate()


def test_when_a_rank_is_killed_the_other_ends_and_the_kill_is_the_cause(launcher):
    """The launcher alone would take 30 s for each of the others."""
    stuck = (line.split()[1:] for line in launcher.stdout if line.startswith("stuck: "))
    ranks = dict(islice(stuck, 2))
    try:
        os.kill(int(ranks["1"]), signal.SIGKILL)
        _, errors = launcher.communicate(timeout=25)
    finally:
        for process in ranks.values():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
    assert "rank 1 has ended; so does rank 0\n" in errors
    said = "a training process was killed by SIGKILL from outside"
    assert Failure(errors.splitlines(), launcher.returncode, OomKills()).cause.startswith(said)


class Interruption(Exception):
    """As Ctrl-C, which would end pytest."""


def test_a_rank_that_answers_no_signal_does_not_keep_the_others_from_ending(
    dataset, tmp_path, monkeypatch
):
    """Rank 0 cannot agree on the signal with one that is stuck."""
    asked = []

    def on_line(line):
        if line.startswith("stuck: 1 "):
            raise Interruption

    def workers(launcher):
        asked.extend(launch.local_ranks(launcher))
        return asked

    command = stuck_ranks(tmp_path, dataset, monkeypatch, well="0")
    with pytest.raises(Interruption):
        run_logged(command, tmp_path / "x.log", ENVIRONMENT, on_line, 2.0, workers=workers)
    assert len(asked) == 2 and not any(map(is_running, asked))


def is_running(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
