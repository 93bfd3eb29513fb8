"""Real runs through DeepSpeed on the CPU: kill and resume, ranks, half precision, flags."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.checkpoints import list_checkpoints
from pretrain.distributed import start_ranks
from pretrain.flags import parse_flags
from pretrain.lr_curves import CurveShape, lr_multiplier
from pretrain.metrics import MetricsLog
from pretrain.ports import free_port
from pretrain.run_pretraining import run
from tests.pretrain.shards import write_dataset
from tests.pretrain.test_checkpoints import flip_byte

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = str(PROJECT / "pretrain" / "run_pretraining.py")
STEPS = 120
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
    return [f"--dataset_path={dataset}", f"--output_dir={output}", "--do_validation", *flags, *more]


def _one_rank(*flags, **environment):
    """Runs one rank without the launcher, which only costs time."""
    command = [sys.executable, SCRIPT, *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def device():
    """This process as the one rank of its own runs; its variables are not for its children."""
    before = set(os.environ)
    device = start_ranks()
    torch.set_num_threads(1)
    for name in os.environ.keys() - before - {"LOCAL_RANK"}:  # DeepSpeed asks for this one
        del os.environ[name]
    yield device
    torch.distributed.destroy_process_group()
    os.environ.pop("LOCAL_RANK", None)


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


def _metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    timed = ("samples_per_second", "elapsed_seconds")
    return [{key: line[key] for key in line if key not in timed} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    _one_rank(*_flags(dataset, output))
    return output


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


def test_killed_damaged_and_resumed_it_ends_bit_identically(dataset, undisturbed, tmp_path):
    flags = _flags(dataset, tmp_path)
    child = subprocess.Popen(
        [sys.executable, SCRIPT, *flags], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    for line in child.stdout:
        if line.startswith("step 35:"):
            break
    child.kill()
    child.communicate()
    assert not (tmp_path / "model").exists()
    saved = list_checkpoints(tmp_path / "checkpoints")
    assert len(saved) == 2
    flip_byte(next(saved[-1].glob("*.pt")))
    resumed = _one_rank(*flags)
    assert f"{saved[-1].name} is damaged" in resumed
    assert f"going on from the checkpoint of step {int(saved[0].name[5:])}\n" in resumed
    ours, expected = (folder / "model" / "model.safetensors" for folder in (tmp_path, undisturbed))
    assert ours.read_bytes() == expected.read_bytes()
    assert _metrics(tmp_path) == _metrics(undisturbed)


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
    few = (*NO_DROPOUT, "--max_steps=12", "--print_steps=1", "--gradient_clipping=1.0")
    _one_rank(*_flags(dataset, one, *few))
    command = _launcher(2, "--module", "pretrain.run_pretraining", *_flags(dataset, two, *few))
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=100, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]
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
    _one_rank(*flags, PATH=str(nowhere), TORCH_EXTENSIONS_DIR=str(built))
    assert list(built.iterdir()) == []
    trained = [line for line in _metrics(output) if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [7, 14, 21]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert {line["loss_scale"] for line in trained} == {65536.0 if precision == "fp16" else 1.0}


def test_a_checkpoint_of_another_layout_is_refused_with_a_sentence(dataset, tmp_path, device):
    _here(device, *_flags(dataset, tmp_path, "--max_steps=1"))
    with pytest.raises(RuntimeError, match=r"by 1 ranks at ZeRO stage 0, this run .* at stage 1"):
        _here(device, *_flags(dataset, tmp_path, "--max_steps=2", "--bf16"))


def test_no_steps_export_the_initial_model(dataset, tmp_path, device):
    _here(device, *_flags(dataset, tmp_path, "--max_steps=0"))
    assert [line["kind"] for line in _metrics(tmp_path)] == ["validation"]
    assert (tmp_path / "model" / "config.json").exists()


def test_a_time_budget_is_kept_and_the_curve_follows_the_clock(dataset, tmp_path, device):
    seconds = 3.0
    time_flags = ("--lr_schedule=time", f"--total_training_time={seconds / 3600}")
    more = ("--validation_steps=0", "--validation_epochs=2", "--print_steps=1", "--curve=linear")
    _here(device, *_flags(dataset, tmp_path, *time_flags, *more, "--max_steps=1000000"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained[-1]["elapsed_seconds"] >= seconds - 0.01
    assert all(line["elapsed_seconds"] <= seconds for line in trained[:-1])
    for before, line in pairwise(trained):
        expected = lr_multiplier("linear", before["elapsed_seconds"] / seconds, CurveShape())
        assert line["lr"] == pytest.approx(1e-3 * expected, abs=1e-3 * 0.1)
    validated = [line["step"] for line in lines if line["kind"] == "validation"]
    assert 1 <= len(validated) <= 1 + 2 + 1 and validated[-1] == trained[-1]["step"]


def test_a_hopeless_run_stops_early_and_stays_stopped(dataset, tmp_path, device, capsys):
    stop = ("--use_early_stopping", "--early_stop_time=0", "--early_stop_eval_loss=0.1")
    _here(device, *_flags(dataset, tmp_path, *stop))
    assert "stopped early" in capsys.readouterr().out
    assert _metrics(tmp_path)[-1]["step"] == 25
    _here(device, *_flags(dataset, tmp_path, *stop))
    assert _metrics(tmp_path)[-1]["step"] == 25


def test_a_loss_that_is_not_a_number_stops_the_run(dataset, tmp_path, device):
    flags = _flags(dataset, tmp_path, "--checkpoint_steps=1", "--max_steps=9", "--print_steps=1")
    _here(device, *flags, "--max_steps=2")
    with pytest.raises(FloatingPointError, match=r"loss is .* at step \d+; .*step_000000[23]$"):
        _here(device, *flags, "--lr=1e30")


def test_the_manuals_command_line_parses():
    manual = """--dataset_path d --output_dir o --model_type bert-mlm
        --tokenizer_name bert-large-uncased --hidden_act gelu --hidden_size 1024
        --num_hidden_layers 24 --num_attention_heads 16 --intermediate_size 4096
        --hidden_dropout_prob 0.1 --attention_probs_dropout_prob 0.1 --encoder_ln_mode pre-ln
        --lr 1e-3 --train_batch_size 4096 --train_micro_batch_size_per_gpu 32 --lr_schedule time
        --curve linear --warmup_proportion 0.06 --gradient_clipping 0.0 --optimizer_type adamw
        --weight_decay 0.01 --adam_beta1 0.9 --adam_beta2 0.98 --adam_eps 1e-6
        --total_training_time 24.0 --early_exit_time_marker 24.0 --print_steps 100
        --num_epochs_between_checkpoints 10000 --job_name pretraining_experiment
        --project_name budget-bert-pretraining --validation_epochs 3 --validation_epochs_begin 1
        --validation_epochs_end 1 --validation_begin_proportion 0.05
        --validation_end_proportion 0.01 --validation_micro_batch 16 --deepspeed
        --data_loader_type dist --do_validation --use_early_stopping --early_stop_time 180
        --early_stop_eval_loss 6 --seed 42 --fp16"""
    args = parse_flags(manual.split())
    assert args.fp16 and args.total_training_time == 24.0 and args.curve == "linear"


@pytest.mark.parametrize(
    "flags", [[], ["--lr_schedule=time"], ["--max_steps=1", "--fp16", "--bf16"]]
)
def test_flags_that_contradict_each_other_are_refused(flags):
    with pytest.raises(SystemExit):
        parse_flags(["--dataset_path=d", "--output_dir=o", *flags])
