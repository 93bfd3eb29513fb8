"""Real runs through DeepSpeed on the CPU: kill and resume, ranks, half precision, budgets."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.store.ownership import owned, worked_on
from pipeline.store.record_files import read_sealed
from pretrain.checkpoint_folders import RECORD, TENSORS, list_checkpoints
from pretrain.engine import checkpoints
from pretrain.engine.interrupts import Interrupted, Interrupts
from pretrain.engine.ports import free_port
from pretrain.flags import parse_flags
from pretrain.optimization.lr_curves import CurveShape, lr_multiplier
from pretrain.run_pretraining import main, run
from pretrain.training import training_run
from pretrain.training.metrics_file import MetricsLog, parse_warning, start_tensorboard
from pretrain.training.preparation import check_device
from tests.forked import start, start_ranks
from tests.pretrain.engine.test_checkpoints import NO_ROOM, flip_byte
from tests.pretrain.shards import write_dataset, write_unmasked

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = str(PROJECT / "pretrain" / "run_pretraining.py")
STEPS = 120
TIMED = (
    *("samples_per_second", "tokens_per_second", "elapsed_seconds"),
    *("peak_share", "waiting_share"),
)
# One thread per rank: on a busy machine, more of them mostly wait for each other.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def _flags(dataset, output, *more):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": 64, "train_batch_size": 8, "train_micro_batch_size_per_gpu": 3}
    small |= {"max_steps": STEPS, "print_steps": 7, "checkpoint_steps": 10, "validation_steps": 25}
    flags = [f"--{name}={value}" for name, value in small.items()]
    return [f"--dataset_path={dataset}", f"--output_dir={output}", *flags, *more]


def _one_rank(*flags, **environment):
    """Runs one rank in a process of its own; returns its output."""
    output = _output_of(flags)
    child = start(main, flags, output=output, **environment)
    assert child.result(100) == 0, output.read_text()[-2000:]
    return output.read_text()


def _output_of(flags):
    """Names a new file for the output of a run, beside its folder."""
    folder = Path(parse_flags(flags).output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkstemp(".out", folder.name, folder.parent)[1])


def _here(device, *flags):
    """A run inside this process."""
    args = parse_flags(flags)
    run(args, device, MetricsLog(Path(args.output_dir) / "metrics.jsonl"))


def _launcher(num_ranks, *script_and_flags):
    """The deepspeed launcher as a command; its own options come first."""
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "warning"),
        *("--num_gpus", str(num_ranks), "--master_port", str(free_port()), *script_and_flags),
    ]


def _ranks(number, *flags):
    """Runs ranks to their end, as the launcher does."""
    folder = _output_of(flags).with_suffix("")
    folder.mkdir()
    ranks = start_ranks(main, number, free_port(), flags, folder=folder)
    assert [rank.result(100) for rank in ranks] == [0] * number


def _launched_ranks(number, *script_and_flags):
    """Runs DeepSpeed's launcher and its ranks to their end."""
    command = _launcher(number, *script_and_flags)
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=100, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in TIMED} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    _one_rank(*_flags(dataset, output))
    return output


def test_weights_on_another_device_than_the_ranks_are_an_error():
    elsewhere = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ValueError, match=r"weights on meta, not on cpu"):
        check_device(SimpleNamespace(module=elsewhere), torch.device("cpu"))
    partitioned = torch.nn.ParameterList([torch.empty(0, device="meta")])
    check_device(SimpleNamespace(module=partitioned), torch.device("cpu"))


def test_metrics_of_a_run(undisturbed):
    lines = _metrics(undisturbed)
    trained = [line for line in lines if line["kind"] == "train"]
    validated = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in trained] == [*range(7, STEPS, 7), STEPS]
    assert [line["step"] for line in validated] == [25, 50, 75, 100, STEPS]
    assert trained[-1]["samples"] == STEPS * 8
    assert trained[-1]["loss"] < trained[0]["loss"] - 1.0
    assert trained[0]["lr"] == pytest.approx(1e-3 * 6 / 7.2)  # step 6 of 7.2 of warmup
    assert trained[-1]["lr"] == pytest.approx(1e-3 * 2**-4)  # 1 - 119/120 lies in i = 14


def _start(*flags):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *flags], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def _wait_for_step(child, step):
    """Reads the output up to the line of metrics of a step."""
    for line in child.stdout:
        if line.startswith(f"step {step}: loss"):
            return
    raise AssertionError("the run ended before that step")


def _assert_same_end(output, undisturbed):
    ours, expected = (folder / "model" / "model.safetensors" for folder in (output, undisturbed))
    assert ours.read_bytes() == expected.read_bytes()
    assert _metrics(output) == _metrics(undisturbed)


def test_killed_at_five_moments_damaged_and_resumed_it_ends_bit_identically(
    dataset, undisturbed, tmp_path
):
    flags, saved = _flags(dataset, tmp_path), []
    moments = sorted(random.Random(5).sample(range(14, STEPS, 7), 5))
    for step in moments:
        child = _start(*flags)
        _wait_for_step(child, step)
        child.kill()
        child.communicate()
        saved = list_checkpoints(tmp_path / "checkpoints")
    # Three, if it was killed before the oldest was deleted.
    assert not (tmp_path / "model").exists() and len(saved) in (2, 3)
    flip_byte(saved[-1] / TENSORS)
    resumed = _one_rank(*flags)
    assert f"{saved[-1].name} is damaged" in resumed
    assert f"resuming from the checkpoint of step {int(saved[-2].name[5:])}\n" in resumed
    _assert_same_end(tmp_path, undisturbed)


def test_until_a_rank_has_ended_nobody_else_has_its_folder(dataset, tmp_path):
    """As when main.py was killed, and the same command begins while the rank is in its export."""
    child, said = _start(*_flags(dataset, tmp_path)), []
    _wait_for_step(child, 7)

    def say(text):
        said.append(text)
        child.kill()

    with owned(tmp_path, say):
        assert child.poll() == -signal.SIGKILL
    child.communicate()
    assert f"{tmp_path} is still being written by process {child.pid} on " in said[0]


def test_a_rank_that_waits_for_its_folder_can_be_interrupted(dataset, tmp_path):
    with worked_on(tmp_path, 0, pytest.fail):
        child = _start(*_flags(dataset, tmp_path))
        assert child.stdout.readline().startswith(f"waiting: {tmp_path} is still being written by")
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
        child.communicate()


def test_a_validation_that_is_done_again_leaves_one_line(device, dataset, tmp_path, monkeypatch):
    """An interrupt comes in the validation, and the next one just behind it."""
    flags = _flags(dataset, tmp_path, "--checkpoint_steps=0")
    interrupts, step = Interrupts(), training_run.TrainingRun._train_step

    def interrupted(run, now):
        now.signum = signal.SIGTERM
        return step(run, now)

    def start():
        args, interrupts.signum = parse_flags(flags), 0
        with pytest.raises(Interrupted):
            run(args, device, MetricsLog(tmp_path / "metrics.jsonl"), interrupts)

    def validate(*arguments):
        interrupts.signum = signal.SIGTERM
        return loop_validate(*arguments)

    loop_validate = training_run.validate
    with monkeypatch.context() as during:
        during.setattr(training_run, "validate", validate)
        start()
    with monkeypatch.context() as behind:
        behind.setattr(training_run.TrainingRun, "_train_step", interrupted)
        start()
    _here(device, *flags)
    validated = [line["step"] for line in _metrics(tmp_path) if line["kind"] == "validation"]
    assert validated == [25, 50, 75, 100, STEPS]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_end_it_saves_where_it_is(dataset, undisturbed, tmp_path, number, code):
    flags = _flags(dataset, tmp_path, "--checkpoint_steps=0")
    child = _start(*flags)
    _wait_for_step(child, 35)
    child.send_signal(number)
    rest, _ = child.communicate()
    assert child.returncode == code
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    step = int(saved.name[5:])
    assert f"the checkpoint of step {step} is saved" in rest and step >= 35
    assert f"resuming from the checkpoint of step {step}\n" in _one_rank(*flags)
    _assert_same_end(tmp_path, undisturbed)


def test_two_ranks_that_are_asked_to_end_save_too(dataset, tmp_path):
    command = _launcher(2, SCRIPT, *_flags(dataset, tmp_path, "--checkpoint_steps=0", "--fp16"))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    _wait_for_step(child, 14)
    os.kill(_launched_by(child.pid), signal.SIGTERM)  # what the launcher gets from a scheduler
    rest, _ = child.communicate(timeout=60)
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    assert f"the checkpoint of step {int(saved.name[5:])} is saved" in rest


def test_ranks_save_when_only_the_launcher_is_killed(dataset, tmp_path):
    """As `timeout` or a scheduler does it that knows one process."""
    command = _launcher(1, SCRIPT, *_flags(dataset, tmp_path, "--checkpoint_steps=0"))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    _wait_for_step(child, 14)
    child.kill()
    rest = child.stdout.read()  # ends when the ranks have
    assert "is saved" in rest and len(list_checkpoints(tmp_path / "checkpoints")) == 1


def test_a_run_may_outlive_the_shell_that_started_it(dataset, tmp_path):
    script = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid)"
    command = [sys.executable, SCRIPT, *_flags(dataset, tmp_path, "--max_steps=20")]
    subprocess.run([sys.executable, "-c", script, *command], env=ENVIRONMENT, check=True)
    end = time.monotonic() + 60
    while not (tmp_path / "model" / "README.md").exists():
        assert time.monotonic() < end
        time.sleep(0.2)


def _launched_by(pid):
    """The process that starts the ranks: the launcher's only child."""
    (child,) = psutil.Process(pid).children()
    return child.pid


def test_a_finished_run_is_not_trained_again(dataset, undisturbed, device, capsys):
    before = (undisturbed / "model" / "model.safetensors").read_bytes()
    metrics = (undisturbed / "metrics.jsonl").read_bytes()
    _here(device, *_flags(dataset, undisturbed))
    assert "loss" not in capsys.readouterr().out
    assert (undisturbed / "model" / "model.safetensors").read_bytes() == before
    assert (undisturbed / "metrics.jsonl").read_bytes() == metrics


NO_DROPOUT = ("--hidden_dropout_prob=0", "--attention_probs_dropout_prob=0")


def test_two_ranks_train_as_one(dataset, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    few = (*NO_DROPOUT, "--precision=fp32", "--max_steps=12", "--print_steps=1")
    few = (*few, "--gradient_clipping=1.0")
    _one_rank(*_flags(dataset, one, *few))
    _launched_ranks(2, "--module", "pretrain.run_pretraining", *_flags(dataset, two, *few))
    for ours, theirs in zip(_metrics(one), _metrics(two), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert all((first[name] - second[name]).abs().max() < 1e-3 for name in first)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_needs_no_compiler(dataset, tmp_path, precision):
    nowhere, built = tmp_path / "bin", tmp_path / "extensions"
    for folder in (nowhere, built):
        folder.mkdir()
    output = tmp_path / "out"
    flags = _flags(dataset, output, f"--{precision}", "--max_steps=21")
    environment = {**ENVIRONMENT, "PATH": str(nowhere), "TORCH_EXTENSIONS_DIR": str(built)}
    subprocess.run([sys.executable, SCRIPT, *flags], env=environment, check=True)
    assert list(built.iterdir()) == []
    trained = [line for line in _metrics(output) if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [7, 14, 21]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert {line["loss_scale"] for line in trained} == {65536.0 if precision == "fp16" else 1.0}


@pytest.mark.parametrize(("before", "after", "precision"), [(1, 2, "fp32"), (2, 1, "fp16")])
def test_another_number_of_ranks_goes_on(dataset, tmp_path, before, after, precision):
    steady = ("--curve=constant", "--warmup_proportion=0", f"--precision={precision}")
    few = (*NO_DROPOUT, *steady, "--print_steps=1", "--checkpoint_steps=6", "--max_steps=6")
    for ranks, steps in ((before, 6), (after, 12)):
        _ranks(ranks, *_flags(dataset, tmp_path / "both", *few, f"--max_steps={steps}"))
    _one_rank(*_flags(dataset, tmp_path / "alone", *few, "--max_steps=12"))
    both, alone = (
        [line["loss"] for line in _metrics(tmp_path / name) if line["kind"] == "train"]
        for name in ("both", "alone")
    )
    assert both == pytest.approx(alone, abs=1e-4 if precision == "fp32" else 3e-3)


def test_a_checkpoint_of_another_model_is_refused_with_a_sentence(dataset, tmp_path, device):
    _here(device, *_flags(dataset, tmp_path, "--max_steps=1"))
    said = r"step_0000001: the checkpoint is of another model: encoder\.\S+ is "
    for other in ("--num_hidden_layers=3", "--hidden_size=48", "--intermediate_size=80"):
        with pytest.raises(ValueError, match=said):
            _here(device, *_flags(dataset, tmp_path, "--max_steps=2", other))
    with pytest.raises(ValueError, match="--optimizer_type was adamw, and is sgd now"):
        _here(device, *_flags(dataset, tmp_path, "--max_steps=2", "--optimizer_type=sgd"))


@pytest.mark.parametrize(
    "length", [("--max_steps=40",), ("--lr_schedule=tokens", "--max_tokens=3000")]
)
def test_a_falling_masking_rate_survives_a_kill(tmp_path, device, length):
    dataset = write_unmasked(tmp_path / "dataset")
    flags = (*length, "--masked_lm_prob_end=0.1", "--train_micro_batch_size_per_gpu=4")
    _here(device, *_flags(dataset, tmp_path / "whole", *flags))
    killed = _flags(dataset, tmp_path / "killed", *flags)
    child = _start(*killed)
    _wait_for_step(child, 14)
    child.kill()
    child.wait()
    assert list_checkpoints(tmp_path / "killed" / "checkpoints")
    _here(device, *killed)
    _assert_same_end(tmp_path / "killed", tmp_path / "whole")
    total = 40 if "--max_steps=40" in length else 3000 / 16 / 8  # steps of 8 rows of 16 tokens
    trained = [line for line in _metrics(tmp_path / "whole") if line["kind"] == "train"]
    assert len(trained) > 2
    for line in trained:
        rate = 0.4 - 0.3 * min(1, line["step"] / total)
        assert line["masked_lm_prob"] == pytest.approx(rate, abs=1e-6)


def test_no_steps_export_the_initial_model(dataset, tmp_path, device):
    _here(device, *_flags(dataset, tmp_path, "--max_steps=0"))
    assert [line["kind"] for line in _metrics(tmp_path)] == ["validation"]
    assert (tmp_path / "model" / "config.json").exists()


def test_a_time_budget_is_kept_and_the_curve_follows_the_clock(dataset, tmp_path, device):
    seconds = 3.0
    time_flags = ("--lr_schedule=time", f"--total_training_time={seconds / 3600}")
    more = ("--validation_epochs=20", "--print_steps=1", "--curve=linear")
    _here(device, *_flags(dataset, tmp_path, *time_flags, *more, "--max_steps=1"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    # The validation after the last step may use up the time.
    last = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert read_sealed(last / RECORD)["state"]["elapsed"] >= seconds - 0.01
    assert all(line["elapsed_seconds"] <= seconds for line in trained[:-1])
    for before, line in pairwise(trained):
        expected = lr_multiplier("linear", before["elapsed_seconds"] / seconds, CurveShape())
        assert line["lr"] == pytest.approx(1e-3 * expected, abs=1e-3 * 0.1)
    validated = [line["step"] for line in lines if line["kind"] == "validation"]
    assert validated[-1] == trained[-1]["step"]
    assert trained[-1]["lr"] <= 1e-3 * 0.05  # at the curve's floor, but for a step or two


def test_a_hopeless_run_stops_early_and_stays_stopped(dataset, tmp_path, device, capsys):
    stop = ("--use_early_stopping", "--early_stop_time=0", "--early_stop_eval_loss=0.1")
    _here(device, *_flags(dataset, tmp_path, *stop))
    assert "stopped early" in capsys.readouterr().out
    assert _metrics(tmp_path)[-1]["step"] == 25
    _here(device, *_flags(dataset, tmp_path, *stop))
    assert _metrics(tmp_path)[-1]["step"] == 25
    assert "the run was stopped early there, and remains stopped" in capsys.readouterr().out
    _here(device, *_flags(dataset, tmp_path, "--no-use_early_stopping"))
    assert _metrics(tmp_path)[-1]["step"] == STEPS


def test_a_loss_that_is_not_a_number_stops_the_run(dataset, tmp_path, device):
    flags = _flags(dataset, tmp_path, "--checkpoint_steps=1", "--max_steps=9", "--print_steps=1")
    _here(device, *flags, "--max_steps=2")
    # Step 3 is taken with a finite loss, and ruins the weights.
    said = r"(is not finite|loss is .* at step \d+; the last good .*step_0000002(; .*delete|$))"
    with pytest.raises(FloatingPointError, match=said):
        _here(device, *flags, "--lr=1e30")


def test_what_the_data_tells_is_where_a_run_begins(dataset, tmp_path, device):
    from_data = ("--word_embedding_init=cooccurrence", "--output_bias_init=frequencies")
    begins = {}
    for name, flags in (("plain", ()), ("informed", from_data)):
        _here(device, *_flags(dataset, tmp_path / name, "--max_steps=0", *flags))
        begins[name] = (
            _metrics(tmp_path / name)[-1]["loss"],
            load_file(tmp_path / name / "model" / "model.safetensors"),
        )
    (plain_loss, plain), (loss, informed) = begins["plain"], begins["informed"]
    changed = {name for name in plain if not torch.equal(plain[name], informed[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"weight", "bias"}
    assert sum("embedding" in name for name in changed) == 1 and len(changed) == 2
    assert loss != plain_loss


def test_two_ranks_begin_where_one_does(dataset, tmp_path):
    few = (*NO_DROPOUT, "--precision=fp32", "--max_steps=4", "--print_steps=1")
    few += ("--word_embedding_init=cooccurrence", "--output_bias_init=frequencies")
    _one_rank(*_flags(dataset, tmp_path / "one", *few))
    _ranks(2, *_flags(dataset, tmp_path / "two", *few))
    for ours, theirs in zip(_metrics(tmp_path / "one"), _metrics(tmp_path / "two"), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)


def test_a_budget_of_tokens(dataset, tmp_path, device):
    flags = ("--lr_schedule=tokens", "--max_tokens=1000", "--print_steps=1")
    _here(device, *_flags(dataset, tmp_path, *flags))
    trained = [line for line in _metrics(tmp_path) if line["kind"] == "train"]
    assert trained[-2]["tokens"] < 1000 <= trained[-1]["tokens"]


def test_a_full_disk_ends_no_training(dataset, tmp_path, device, monkeypatch, capsys):
    """Neither between times nor at the end, where the model finds the room of an old checkpoint."""
    steps = ("--max_steps=8", "--checkpoint_steps=2", "--print_steps=1")
    _here(device, *_flags(dataset, tmp_path / "roomy", *steps))
    save, is_full = checkpoints.save_file, False

    def save_file(*args):
        if is_full:
            raise checkpoints.SafetensorError(NO_ROOM)
        save(*args)

    def watch(training):
        nonlocal is_full
        training.writer.wait()
        is_full = training.budget.step in (3, 7)  # when the next checkpoint is due

    monkeypatch.setattr(checkpoints, "save_file", save_file)
    args = parse_flags(_flags(dataset, tmp_path / "full", *steps))
    capsys.readouterr()
    run(args, device, MetricsLog(tmp_path / "full" / "metrics.jsonl"), watch=watch)
    said = [line for line in capsys.readouterr().out.splitlines() if parse_warning(line)]
    assert [line[:45] for line in said if "finds no room" in line] == [
        "WARNING: step_0000004 finds no room on the di",
        "WARNING: step_0000008 finds no room on the di",
    ]
    assert said[0].endswith("the newest checkpoint is that of step 2")
    saved = list_checkpoints(tmp_path / "full" / "checkpoints")
    assert saved[-1].name == "step_0000006"
    _assert_same_end(tmp_path / "full", tmp_path / "roomy")


def test_a_ramp_of_the_batch_size(dataset, tmp_path, device):
    ramp = ("--batch_size_ramp_start=2", "--batch_size_ramp_steps=6", "--max_steps=7")
    _here(device, *_flags(dataset, tmp_path, *ramp, "--print_steps=1"))
    trained = [line for line in _metrics(tmp_path) if line["kind"] == "train"]
    assert [line["samples"] for line in trained] == [2, 4, 8, 12, 18, 24, 32]


def test_models_on_the_way_and_checkpoints_by_the_clock(dataset, tmp_path, device):
    by_time = ("--checkpoint_steps=0", f"--checkpoint_minutes={0.05 / 60}", "--print_steps=1")
    marker = 0.2 / 3600
    _here(device, *_flags(dataset, tmp_path, *by_time, f"--finetune_time_markers={marker}"))
    assert (tmp_path / "models_at" / f"{marker:g}h" / "config.json").exists()
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 2


def test_an_fp16_scale_that_stays_at_1_stops_the_run(dataset, tmp_path):
    (tmp_path / "ds.json").write_text('{"fp16": {"initial_scale_power": 0}}')
    flags = ("--fp16", f"--deepspeed_config={tmp_path / 'ds.json'}", "--scale_cnt_limit=4")
    command = [sys.executable, SCRIPT, *_flags(dataset, tmp_path / "out", *flags)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
    assert done.returncode == 1
    said = "FloatingPointError: the fp16 loss scale was 1 or less for 4 steps, up to step 4; there "
    assert said in done.stderr


def test_a_loss_that_diverges_stops_the_run(dataset, tmp_path, device):
    flags = ("--lr=1", "--divergence_limit=0.5", "--print_steps=1")
    with pytest.raises(FloatingPointError, match=r"the loss diverges: its average is"):
        _here(device, *_flags(dataset, tmp_path, *flags))


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_stages_train_as_one_rank_does(dataset, tmp_path, stage):
    few = (*NO_DROPOUT, "--precision=fp32", "--max_steps=8", "--print_steps=1")
    _one_rank(*_flags(dataset, tmp_path / "one", *few))
    _ranks(2, *_flags(dataset, tmp_path / "two", *few, f"--zero_stage={stage}"))
    for ours, theirs in zip(_metrics(tmp_path / "one"), _metrics(tmp_path / "two"), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("optimizer", ["muon", "lamb", "adafactor", "stable-adamw"])
def test_optimizers_that_need_whole_matrices_in_fp16(dataset, tmp_path, optimizer):
    flags = ("--fp16", f"--optimizer_type={optimizer}", "--max_steps=30", "--print_steps=10")
    _one_rank(*_flags(dataset, tmp_path, *flags, "--lr=3e-3"))
    trained = [line for line in _metrics(tmp_path) if line["kind"] == "train"]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert {line["loss_scale"] for line in trained} == {65536.0}


def test_what_the_flags_name_is_looked_at_before_the_training(dataset, tmp_path):
    """Exit code 2 and a line; no traceback."""
    for flags, said in (
        (["--dataset_path=/nowhere"], "holds no train_*.hdf5"),
        (["--model_type=modernbrt"], "model_type: "),
        (["--train_batch_size=5", "--deepspeed_config=/nowhere"], "cannot be read"),
    ):
        command = [sys.executable, SCRIPT, *_flags(dataset, tmp_path / "out", *flags)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"error: {said}" in done.stderr or said in done.stderr.splitlines()[-1]


def test_without_a_compiler_training_goes_on(dataset, tmp_path, device, capsys, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    _here(device, *_flags(dataset, tmp_path / "compiled", "--compile", "--max_steps=8"))
    assert "torch.compile does not work here (InductorError" in capsys.readouterr().out
    _here(device, *_flags(dataset, tmp_path / "plain", "--max_steps=8"))
    assert _metrics(tmp_path / "compiled") == _metrics(tmp_path / "plain")


def test_tensorboard_gets_the_numbers_too(dataset, tmp_path, device):
    args = parse_flags(_flags(dataset, tmp_path, "--tensorboard", "--max_steps=2"))
    log = MetricsLog(tmp_path / "metrics.jsonl", None, start_tensorboard(True, tmp_path))
    run(args, device, log)
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_curve_is_drawn_without_training(tmp_path):
    picture = tmp_path / "lr.png"
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--plot_lr={picture}", "--curve=wsd"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
