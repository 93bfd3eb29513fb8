"""The DeepSpeed engine: its config, and the batch that it is fed."""

from argparse import Namespace
from typing import Any

import torch


def largest_micro_batch(batch_size: int, asked: int, world_size: int) -> int:
    """The largest micro batch, at most `asked`, that accumulates to the batch without rest.

    Raises ValueError if the batch cannot be shared out over the ranks.
    """
    share, rest = divmod(batch_size, world_size)
    if rest or not share:
        raise ValueError(
            f"train_batch_size: expected a multiple of the number of ranks ({world_size}), "
            f"got {batch_size}"
        )
    return next(size for size in range(min(asked, share), 0, -1) if share % size == 0)


def deepspeed_config(args: Namespace, world_size: int) -> dict[str, Any]:
    """DeepSpeed's config for run_pretraining's flags.

    Reads train_batch_size, train_micro_batch_size_per_gpu (which must divide the batch),
    gradient_clipping, fp16 and bf16.
    """
    half = args.fp16 or args.bf16
    return {
        "train_batch_size": args.train_batch_size,
        "train_micro_batch_size_per_gpu": args.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": args.train_batch_size
        // (args.train_micro_batch_size_per_gpu * world_size),
        "gradient_clipping": args.gradient_clipping,
        # loss_scale 0: dynamic, from 2^16 down on overflow, up after 1000 steps without.
        "fp16": {
            "enabled": args.fp16,
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        "bf16": {"enabled": args.bf16},
        # Half precision needs stage 1: with stage 0, DeepSpeed 0.19 divides the gradients by a
        # loss scale that it never multiplied the loss with.
        "zero_optimization": {"stage": 1 if half else 0},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,  # the loop writes its own lines
        "wall_clock_breakdown": False,
    }


def build_engine(args: Namespace, model: torch.nn.Module, optimizer, world_size: int):
    """The engine around the model; rank 0's weights become everyone's."""
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(args, world_size)
    )
    return engine


def loss_scale(engine) -> float:
    """The present scale of the loss in fp16, 1 otherwise."""
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 1.0
