"""What the flags make of DeepSpeed's config, and a user's JSON in it."""

import json

import pytest

from pretrain.engine.deepspeed_config import (
    conflicts,
    deepspeed_config,
    read_user_config,
    zero_stage,
)
from pretrain.flags import parse_flags
from pretrain.settings import EngineSettings


def _config(*flags, ranks=1, num_parameters=1001):
    batch = ("--train_batch_size=8", "--train_micro_batch_size_per_gpu=2")
    args = parse_flags(["--dataset_path=d", "--output_dir=o", *batch, *flags])
    args.precision = args.precision.replace("auto", "fp32")
    return deepspeed_config(EngineSettings.from_args(args), ranks, num_parameters)


def test_the_batch_is_shared_out():
    config = _config(ranks=2)
    assert config["train_batch_size"] == 8 and config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 2


@pytest.mark.parametrize(
    ("flags", "stage", "engine"),
    [
        (["--precision=fp32"], 0, None),
        (["--fp16"], 1, "fp16"),
        (["--bf16"], 1, "bf16"),
        (["--fp16", "--zero_stage=3"], 3, "fp16"),
        (["--fp16", "--zero_stage=0"], 0, "torch_autocast"),
        (["--fp16", "--optimizer_type=muon"], 0, "torch_autocast"),
        (["--bf16", "--optimizer_type=lamb"], 0, "torch_autocast"),
    ],
)
def test_half_precision_is_deepspeeds_with_zero_and_autocast_without(flags, stage, engine):
    config = _config(*flags)
    assert config["zero_optimization"]["stage"] == stage
    kinds = ("fp16", "bf16", "torch_autocast")
    on = [kind for kind in kinds if config.get(kind, {}).get("enabled")]
    assert on == ([engine] if engine else [])


@pytest.mark.parametrize(("num_parameters", "expected"), [(1001, 1002), (10**9, 500_000_000)])
def test_zeros_bucket_is_no_larger_than_the_model(num_parameters, expected):
    config = _config("--fp16", num_parameters=num_parameters)["zero_optimization"]
    assert config["reduce_bucket_size"] == config["allgather_bucket_size"] == expected


def test_deepspeed_does_not_time_steps():
    assert _config()["timers"] == {"throughput": {"enabled": False}}
    assert not _config()["wall_clock_breakdown"]


def test_the_stage_that_is_asked_for():
    assert zero_stage(-1, "fp32", "adamw") == 0 and zero_stage(2, "fp32", "adamw") == 2


def test_a_users_json_is_merged(tmp_path):
    path = tmp_path / "ds.json"
    theirs = {
        "train_batch_size": "auto",
        "fp16": {"enabled": "auto", "loss_scale_window": 50},
        "zero_optimization": {"reduce_bucket_size": 1000},
        "comms_logger": {"enabled": True},
    }
    path.write_text(json.dumps(theirs))
    config = _config(f"--deepspeed_config={path}")
    assert config["train_batch_size"] == 8
    assert config["fp16"]["loss_scale_window"] == 50 and config["fp16"]["hysteresis"] == 2
    buckets = {"reduce_bucket_size": 1000, "allgather_bucket_size": 1002}
    assert config["zero_optimization"] == {"stage": 0, **buckets}
    assert config["comms_logger"] == {"enabled": True}


def test_settings_that_would_be_of_no_use_are_named(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"fp16": {"initial_scale_power": 4}}')
    with pytest.raises(ValueError, match="fp16 settings have no effect at ZeRO stage 0"):
        _config(f"--deepspeed_config={path}", "--fp16", "--zero_stage=0")
    assert dict(conflicts({"bfloat16": {"enabled": True}})) == {"bfloat16": "precision"}


def test_what_the_flags_decide_is_named(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"train_batch_size": 64, "zero_optimization": {"stage": 3}}')
    said = r"train_batch_size is decided by --train_batch_size; zero_optimization.stage .*--zero_st"
    with pytest.raises(ValueError, match=said):
        _config(f"--deepspeed_config={path}")
    assert dict(conflicts({"optimizer": {"type": "Adam"}})) == {"optimizer": "optimizer_type"}


@pytest.mark.parametrize(("text", "said"), [("[1]", "JSON object"), ("{", "not JSON")])
def test_a_file_that_is_no_config(tmp_path, text, said):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_user_config(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_user_config(tmp_path / "none.json")
