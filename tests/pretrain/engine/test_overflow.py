"""Gradients that are not finite: one look at each step's, runs that go on, and runs that end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deepspeed.runtime import torch_autocast
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from pretrain.engine.engine import build_engine, update_weights
from pretrain.engine.overflow import OneWaitScaler
from pretrain.flags import parse_flags
from pretrain.model.model import BasePretrainModel
from pretrain.run_pretraining import run
from pretrain.settings import EngineSettings
from pretrain.training.metrics_file import MetricsLog, read_metrics
from tests.pretrain.shards import write_dataset

PROJECT = Path(__file__).resolve().parents[3]
INF = float("inf")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def spoil(steps, spoilt):
    """Has the loss of some training steps, of one micro batch each, go through a function."""
    forward, passes = BasePretrainModel.forward, []

    def spoiling(self, *inputs):
        loss = forward(self, *inputs)
        passes.append(None)
        return spoilt(loss) if len(passes) in steps else loss

    return spoiling


def overflows(loss):
    return loss * INF  # and so does its gradient


def is_infinite(loss):
    return loss + INF  # and its gradient is not


def flags(dataset, output, *more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "train_batch_size": 4, "train_micro_batch_size_per_gpu": 4}
    sizes |= {"max_steps": 10, "print_steps": 5, "checkpoint_steps": 0}
    words = [f"--{name}={value}" for name, value in sizes.items()]
    paths = (f"--dataset_path={dataset}", f"--output_dir={output}", "--no-do_validation")
    return [*paths, *words, *more]


def run_here(device, *words):
    args = parse_flags(words)
    run(args, device, MetricsLog(Path(args.output_dir) / "metrics.jsonl"))


def check_skipped(output, scale):
    first, second = read_metrics(output / "metrics.jsonl")
    assert first["skipped_steps"] == 2 and second["skipped_steps"] == 0
    assert 3.0 < first["loss"] < 5.0  # ln(61) = 4.1
    assert first["loss_scale"] == second["loss_scale"] == scale
    assert second["grad_norm"] > 0.0


@pytest.mark.slow
def test_a_loss_that_overflows_in_a_skipped_step_does_not_end_the_run(
    device, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(BasePretrainModel, "forward", spoil((2, 3), overflows))
    run_here(device, *flags(dataset, tmp_path, "--fp16"))
    check_skipped(tmp_path, scale=2.0**15)  # DeepSpeed forgives a first overflow


@pytest.mark.slow
def test_nor_does_it_with_torchs_scaler(dataset, tmp_path):
    """In a process of its own: DeepSpeed keeps in mind that an engine used autocast."""
    script = (
        "import sys; from tests.pretrain.engine import test_overflow as t; "
        "from pretrain.run_pretraining import main; "
        "t.BasePretrainModel.forward = t.spoil((2, 3), t.overflows); "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = flags(dataset, tmp_path, "--fp16", "--optimizer_type=muon")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK", None)
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        **{"cwd": PROJECT, "env": environment, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    check_skipped(tmp_path, scale=2.0**14)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "spoilt"), [("bf16", overflows), ("fp32", overflows), ("fp16", is_infinite)]
)
def test_a_loss_that_is_not_finite_in_any_other_step_ends_it(
    device, dataset, tmp_path, monkeypatch, precision, spoilt
):
    monkeypatch.setattr(BasePretrainModel, "forward", spoil((2, 3), spoilt))
    stage = int(precision != "fp32")
    words = flags(dataset, tmp_path, f"--precision={precision}", f"--zero_stage={stage}")
    with pytest.raises(
        FloatingPointError, match="the loss is inf at step 2; there is no good checkp"
    ):
        run_here(device, *words)


@pytest.mark.slow
def test_a_run_whose_steps_are_all_skipped_ends(device, dataset, tmp_path, monkeypatch, capsys):
    """After an overflow that DeepSpeed forgives and 16 halvings, the scale is 1.

    No finite loss has shown that the weights of the checkpoints, of steps 5, 10, ..., are good.
    """
    monkeypatch.setattr(BasePretrainModel, "forward", spoil(range(6, 99), overflows))
    words = flags(dataset, tmp_path, "--fp16", "--max_steps=40", "--scale_cnt_limit=4")
    said = "the fp16 loss scale was 1 or less for 4 steps, up to step 25; there is no good "
    with pytest.raises(FloatingPointError, match=f"{said}checkpoint"):
        run_here(device, *words, "--checkpoint_steps=5")
    assert "step 15: the last 10 steps were skipped in fp16\n" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5]


# --- the look at the gradient -----------------------------------------------------------------


def sgd_engine(precision, clipping=0.0, stage=1):
    settings = EngineSettings(
        train_batch_size=2,
        train_micro_batch_size_per_gpu=2,
        gradient_clipping=clipping,
        precision=precision,
        zero_stage=stage,
        deepspeed_config="",
        optimizer_type="sgd",
        validation_micro_batch=2,
        gradient_checkpointing=False,
        compile=False,
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.Linear(13, 5))
    return build_engine(settings, model, torch.optim.SGD(model.parameters(), lr=1.0), 1)


def backward(engine, factor=1.0):
    engine.set_gradient_accumulation_boundary(True)
    dtype = next(engine.module.parameters()).dtype
    inputs = torch.linspace(-1, 1, 14).view(2, 7).to(dtype)
    engine.backward((engine(inputs).float() ** 2).mean() * factor, scale_wrt_gas=False)


def master_weights(engine):
    """In fp32."""
    optimizer = engine.optimizer
    (flat,) = getattr(optimizer, "fp32_groups_flat_partition", None) or (
        optimizer.single_partition_of_fp32_groups
    )
    return flat.detach().clone()


def step_length(engine):
    """How far a step of SGD with a learning rate of 1 goes: the norm of its gradient."""
    before = master_weights(engine)
    backward(engine)
    update_weights(engine)
    return float((master_weights(engine) - before).norm())


def test_the_norm_is_deepspeeds(device):
    engine = sgd_engine("fp16")
    backward(engine)
    theirs = float(DeepSpeedZeroOptimizer.scaled_global_norm(engine.optimizer))
    assert engine.optimizer.scaled_global_norm() == pytest.approx(theirs, rel=1e-6)
    update_weights(engine)
    assert engine.get_global_grad_norm() == pytest.approx(theirs / 2**16, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("clipping", [0.0, 0.01, 100.0])
def test_a_step_is_as_long_as_the_clipped_gradient(device, precision, clipping):
    engine = sgd_engine(precision, clipping)
    length = step_length(engine)
    norm = engine.get_global_grad_norm()
    assert norm > 0.1
    assert length == pytest.approx(min(norm, clipping or norm), rel=1e-3)


def test_an_engine_after_one_with_autocast_divides_by_its_scale_once(device, monkeypatch):
    monkeypatch.setattr(torch_autocast, "TORCH_AUTOCAST_INITIALIZED", True)
    monkeypatch.setattr(torch_autocast, "TORCH_AUTOCAST_DTYPE", torch.float16)
    engine = sgd_engine("fp16")
    assert step_length(engine) == pytest.approx(engine.get_global_grad_norm(), rel=1e-3)


def test_the_step_in_which_the_scale_grows_is_no_shorter(device):
    lengths = []
    for window in (1000, 1):
        engine = sgd_engine("fp16")
        engine.optimizer.loss_scaler.scale_window = window
        engine.optimizer.loss_scaler.last_overflow_iter = -2
        lengths.append(step_length(engine))
        assert engine.optimizer.loss_scale == 2.0 ** (16 + (window == 1))
    assert lengths[0] == lengths[1] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_gradient_that_is_not_finite_is_no_step(device, precision):
    engine = sgd_engine(precision, clipping=1.0)
    before = master_weights(engine)
    for factor in (INF, float("nan")):
        backward(engine, factor)
        assert update_weights(engine).skipped is True
    assert torch.equal(master_weights(engine), before)
    assert engine.get_global_grad_norm() == INF
    backward(engine)
    scale = 2.0**15 if precision == "fp16" else 1.0
    assert update_weights(engine) == (False, scale, None)
    assert not torch.equal(master_weights(engine), before)


@pytest.mark.parametrize("fused", [True, False])
def test_torchs_scaler_skips_the_same_steps_with_any_optimizer(fused):
    """A fused optimizer looks at the gradient by itself."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5, fused=fused)
    scaler = OneWaitScaler("cpu", init_scale=8.0)
    for factor, expected in ((INF, 1.0), (2.0, 0.0)):
        scaler.scale(weight.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        weight.grad = None
        assert weight.tolist() == [expected] * 3
    assert scaler.get_scale() == 4.0
