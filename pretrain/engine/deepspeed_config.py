"""DeepSpeed's config: from the flags, with the user's JSON merged into it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.pretrain_rules import ELEMENTWISE_OPTIMIZERS
from pretrain.settings import EngineSettings

HALF_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
MOST_IN_BUCKET = 500_000_000  # DeepSpeed's default, in elements

# Settings reserved to flags -> the flag.
DECIDED_BY_FLAGS = {
    "train_batch_size": "train_batch_size",
    "train_micro_batch_size_per_gpu": "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps": "train_micro_batch_size_per_gpu",
    "gradient_clipping": "gradient_clipping",
    "fp16.enabled": "precision",
    "bf16.enabled": "precision",
    "bfloat16": "precision",
    "torch_autocast": "precision",
    "zero_optimization.stage": "zero_stage",
    "optimizer": "optimizer_type",
    "scheduler": "curve",
}


def zero_stage(asked: int, precision: str, optimizer: str) -> int:
    """Resolves the ZeRO stage -1: 1 in half precision with an elementwise optimizer, else 0."""
    if asked >= 0:
        return asked
    return int(precision != "fp32" and optimizer in ELEMENTWISE_OPTIMIZERS)


def deepspeed_config(
    settings: EngineSettings, world_size: int, num_parameters: int
) -> dict[str, Any]:
    """Returns DeepSpeed's config for a model with `num_parameters`.

    The micro batch must divide each rank's share of the batch, and the precision must not be auto.
    Raises ValueError naming the invalid settings of the user's JSON.
    """
    # ZeRO allocates the whole bucket, of an even size: by default 2 GB of fp32 gradients for any
    # model.
    bucket = min(MOST_IN_BUCKET, num_parameters + num_parameters % 2)
    precision = "fp32" if settings.multiplies_in_bf16 else settings.precision
    stage = zero_stage(settings.zero_stage, precision, settings.optimizer_type)
    micro = settings.train_micro_batch_size_per_gpu
    config = {
        "train_batch_size": settings.train_batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": settings.train_batch_size // (micro * world_size),
        "gradient_clipping": settings.gradient_clipping,
        **_precision(precision, stage),
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,  # the loop writes its own lines
        "wall_clock_breakdown": False,
        # They would wait for the device before each forward pass and after each step.
        "timers": {"throughput": {"enabled": False}},
    }
    return _with_user_config(config, settings.deepspeed_config)


def _precision(precision: str, stage: int) -> dict[str, Any]:
    """Returns DeepSpeed's own half precision with ZeRO, torch's autocast without.

    Without ZeRO, DeepSpeed 0.19 divides fp16 gradients by a loss scale, but never multiplies the
    loss by it. Optimizers of whole matrices need the model's own fp32 weights.
    """
    autocast = precision != "fp32" and stage == 0
    config: dict[str, Any] = {
        # loss_scale 0: dynamic, from 2^16; halved by overflow, doubled after 1000 steps without.
        "fp16": {
            "enabled": precision == "fp16" and not autocast,
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        "bf16": {"enabled": precision == "bf16" and not autocast},
    }
    if precision != "fp32" and not autocast:
        # The sum of 128 micro batches' gradients in half precision loses two digits.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if autocast:
        config["torch_autocast"] = {"enabled": True, "dtype": HALF_DTYPES[precision]}
    return config


def read_user_config(path: Path) -> dict[str, Any]:
    """Reads a user's DeepSpeed JSON. Raises ValueError naming the file if it is no JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, got {config!r}")
    return config


def conflicts(user: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (setting, flag) for each setting of a user's JSON in DECIDED_BY_FLAGS.

    "auto", as in the JSON files of transformers, leaves a setting to the flag.
    """
    for path, flag in DECIDED_BY_FLAGS.items():
        value: Any = user
        for name in path.split("."):
            value = value.get(name, "auto") if isinstance(value, dict) else "auto"
        if value != "auto":
            yield path, flag


def _with_user_config(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Merges the user's JSON, if any, into the config."""
    if not name:
        return config
    user = read_user_config(Path(name))
    found = [f"{path} is decided by --{flag}" for path, flag in conflicts(user)]
    if found:
        raise ValueError(f"{name}: {'; '.join(found)}; remove it from the JSON")
    if "torch_autocast" in config and "fp16" in user:
        raise ValueError(f"{name}: fp16 settings have no effect at ZeRO stage 0; remove them")
    return _deep_merge(config, user)


def _deep_merge(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in theirs.items():
        if value == "auto":
            continue
        both = isinstance(value, dict) and isinstance(ours.get(key), dict)
        merged[key] = _deep_merge(ours[key], value) if both else value
    return merged
