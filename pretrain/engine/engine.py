"""The DeepSpeed engine around the model, and the batch that it is fed."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.engine.deepspeed_config import deepspeed_config
from pretrain.engine.overflow import norm, read, wait_once
from pretrain.settings import EngineSettings


def largest_micro_batch(
    batch_size: int, asked: int, world_size: int, name: str = "train_batch_size"
) -> int:
    """The largest micro batch, at most `asked`, that accumulates to the batch without rest.

    Raises ValueError if the batch, which the flag `name` says, cannot be shared out over the ranks.
    """
    share, rest = divmod(batch_size, world_size)
    if rest or not share:
        raise ValueError(
            f"{name}: expected a multiple of the number of ranks ({world_size}), got {batch_size}"
        )
    return next(size for size in range(min(asked, share), 0, -1) if share % size == 0)


def build_engine(settings: EngineSettings, model: torch.nn.Module, optimizer, world_size: int):
    """The engine around the model; rank 0's weights become everyone's."""
    import deepspeed
    from deepspeed.runtime import torch_autocast

    # DeepSpeed notes an engine with autocast for the whole process. A later one with ZeRO would
    # scale its loss with torch's scaler, and divide by two scales.
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    config = deepspeed_config(settings, world_size, sum(p.numel() for p in model.parameters()))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False  # how often that may happen is the loop's business
    # DeepSpeed's takes two kernels per weight, and waits for the device twice.
    engine.clip_fp32_gradients = lambda: torch.nn.utils.clip_grad_norm_(
        engine.module.parameters(), engine.gradient_clipping()
    )
    wait_once(engine)
    return engine


class Update(NamedTuple):
    """What a step did: whether it was skipped as its gradient was not finite, and the loss scale
    after it, 1 where the loss is not scaled. Tensors are [], on the device."""

    skipped: Tensor | bool
    scale: Tensor | float


def update_weights(engine) -> Update:
    """Takes the optimizer's step; does not wait for the device beyond what `wait_once` says."""
    scaler = engine.torch_autocast_z0_gradscaler
    if not scaler:
        engine.step()
        return Update(not engine.was_step_applied(), loss_scale(engine))
    before = scaler._get_scale_async().clone()
    engine.step()
    after = scaler._get_scale_async().clone()  # the next step changes it in place
    return Update(after < before, after)


def loss_scale(engine) -> float:
    """The present scale of the loss in fp16, 1 otherwise; may wait for the device."""
    if engine.torch_autocast_z0_gradscaler:
        return engine.torch_autocast_z0_gradscaler.get_scale()
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 1.0


def scales_loss(engine) -> bool:
    """Whether the loss is scaled at all, that is, in fp16."""
    return bool(engine.torch_autocast_z0_gradscaler) or engine.fp16_enabled()


def compute_dtype(precision: str) -> torch.dtype:
    """What matrix products are computed in, for fp16, bf16 or fp32."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def gradient_norm(engine) -> float | None:
    """2-norm of the gradient before clipping; None with ZeRO, which tells it after the step.

    Call it between the last backward pass of a batch and the step.
    """
    if engine.zero_optimization():
        return None
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return read(norm(gradients)) / loss_scale(engine)


def norm_of_last_step(engine) -> float | None:
    """2-norm of the gradient in the last step, before clipping; None without ZeRO."""
    if not engine.zero_optimization():
        return None
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def weights_cast_once(engine) -> AbstractContextManager:
    """Within it, torch's autocast, if the engine uses it, casts no weight twice.

    For all passes of a step, while the weights do not change. Autocast keeps what it has cast until
    the outermost of its contexts ends; the engine's own ends with each forward pass.
    """
    if not engine.torch_autocast_enabled():
        return nullcontext()
    return torch.autocast(engine.device.type, enabled=False)
