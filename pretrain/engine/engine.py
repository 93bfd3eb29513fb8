"""DeepSpeed's engine around the model: construction, steps and gradient norms."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.engine.deepspeed_config import deepspeed_config
from pretrain.engine.overflow import norm, read, wait_once
from pretrain.settings import EngineSettings


def largest_micro_batch(
    batch_size: int, asked: int, world_size: int, name: str = "train_batch_size"
) -> int:
    """Returns the largest divisor, up to `asked`, of each rank's share of the batch.

    name: flag of the batch size. Raises ValueError if the ranks cannot share the batch evenly.
    """
    share, rest = divmod(batch_size, world_size)
    if rest or not share:
        raise ValueError(
            f"{name}: expected a multiple of the number of ranks ({world_size}), got {batch_size}"
        )
    return next(size for size in range(min(asked, share), 0, -1) if share % size == 0)


def build_engine(settings: EngineSettings, model: torch.nn.Module, optimizer, world_size: int):
    """Returns DeepSpeed's engine around the model; broadcasts the weights of rank 0."""
    import deepspeed
    from deepspeed.runtime import torch_autocast

    # DeepSpeed sets this for the whole process with an engine with autocast. A later engine with
    # ZeRO would also scale its loss with torch's scaler.
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    config = deepspeed_config(settings, world_size, sum(p.numel() for p in model.parameters()))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    scaler: Any = getattr(engine.optimizer, "loss_scaler", None)
    if hasattr(scaler, "raise_error_at_min_scale"):
        scaler.raise_error_at_min_scale = False  # LossWindow counts such steps
    # DeepSpeed's version needs two kernels per weight and two waits for the device.
    engine.clip_fp32_gradients = lambda: torch.nn.utils.clip_grad_norm_(
        engine.module.parameters(), engine.gradient_clipping()
    )
    wait_once(engine)
    return engine


class Update(NamedTuple):
    """Outcome of a step. Tensors are [], on the device.

    skipped: True if the gradient was not finite. scale: loss scale afterwards, 1 without scaling.
    grad_norm: 2-norm of the gradient before clipping, None unless asked for.
    """

    skipped: Tensor | bool
    scale: Tensor | float
    grad_norm: float | None = None


def update_weights(engine, with_norm: bool = False) -> Update:
    """Takes the optimizer's step; without the norm, with at most the wait of `wait_once`."""
    grad_norm = None
    if with_norm and not engine.zero_optimization():
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        grad_norm = read(norm(gradients)) / loss_scale(engine)
    scaler = engine.torch_autocast_z0_gradscaler
    before = scaler._get_scale_async().clone() if scaler else None
    engine.step()
    if with_norm and engine.zero_optimization():
        found = engine.get_global_grad_norm()
        grad_norm = None if found is None else float(found)
    if not scaler:
        return Update(not engine.was_step_applied(), loss_scale(engine), grad_norm)
    after = scaler._get_scale_async().clone()  # the next step changes it in place
    return Update(after < before, after, grad_norm)


def loss_scale(engine) -> float:
    """Returns the current loss scale in fp16, else 1; may wait for the device."""
    if engine.torch_autocast_z0_gradscaler:
        return engine.torch_autocast_z0_gradscaler.get_scale()
    return float(engine.optimizer.loss_scale) if engine.fp16_enabled() else 1.0


def scales_loss(engine) -> bool:
    """True in fp16."""
    return bool(engine.torch_autocast_z0_gradscaler) or engine.fp16_enabled()


def compute_dtype(precision: str) -> torch.dtype:
    """Returns the dtype of matrix products for fp16, bf16 or fp32."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def weights_cast_once(engine) -> AbstractContextManager:
    """Returns a context in which torch's autocast, if any, casts each weight once.

    For the passes of one step, between changes of the weights. Autocast caches casts until its
    outermost context ends; the engine's own context ends with each forward pass.
    """
    if not engine.torch_autocast_enabled():
        return nullcontext()
    return torch.autocast(engine.device.type, enabled=False)
