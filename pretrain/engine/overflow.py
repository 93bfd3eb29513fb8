"""Detects overflow of the gradient with a single wait for the device.

The host must wait once, since only the host can skip a step. DeepSpeed 0.19.8 waits two to four
times: for the overflow flag, for the norm and its sign, and once more to clip.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor


def read(number: Tensor) -> float:
    """Waits for the device; returns the number, a tensor []."""
    return float(number.detach().cpu().numpy())


class OneWaitScaler(torch.amp.GradScaler):
    """GradScaler with one wait per step; none for an optimizer with its own overflow check."""

    def _maybe_opt_step(self, optimizer, optimizer_state: dict[str, Any], *args, **kwargs):
        (found,) = optimizer_state["found_inf_per_device"].values()  # a rank has one device
        return None if read(found) else optimizer.step(*args, **kwargs)


def wait_once(engine) -> None:
    """Makes a DeepSpeed engine wait once per step, in half precision and with ZeRO 1 and 2.

    ZeRO 3, and an optimizer offloaded by the user's JSON, keep DeepSpeed's waits.
    """
    from deepspeed.runtime import bf16_optimizer
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = engine.optimizer
    if engine.torch_autocast_z0_gradscaler:
        engine.torch_autocast_z0_gradscaler = OneWaitScaler(engine.device.type)
    elif isinstance(optimizer, bf16_optimizer.BF16_Optimizer):
        # Its step looks up this name in that module, and accepts a float.
        bf16_optimizer.get_global_norm_of_tensors = lambda input_tensors, **_: read(
            norm(input_tensors)
        )
    elif (
        isinstance(optimizer, DeepSpeedZeroOptimizer)
        and optimizer.compute_grad_norm
        and not optimizer.cpu_offload
    ):
        _ZeroSteps(optimizer)


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """Returns the joint 2-norm in fp32, []."""
    return torch.nn.utils.get_total_norm([tensor.float() for tensor in tensors])


class _ZeroSteps:
    """Replaces three methods of the optimizer of ZeRO 1 and 2.

    Needs no other check for overflow: the norm is finite only if all of the gradient is.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer
        optimizer.check_overflow = lambda partition_gradients=True: None
        optimizer.scaled_global_norm = self.scaled_norm
        optimizer.unscale_and_clip_grads = self.unscale_and_clip

    def scaled_norm(self) -> float:
        """Returns the norm of the scaled gradient, over the parts of all ranks."""
        # DeepSpeed divides by the scale of the next step, twice as large once in 1000 steps.
        self.scale = float(self.optimizer.loss_scale)
        groups = self.optimizer.averaged_gradients.values()
        whole = norm(gradient for group in groups for gradient in group if gradient is not None)
        group = self.optimizer.dp_process_group
        if torch.distributed.get_world_size(group) > 1:
            whole = whole.square()
            torch.distributed.all_reduce(whole, group=group)
            whole = whole.sqrt()
        return read(whole)

    def unscale_and_clip(self, gradients: list[Tensor], scaled_norm: float) -> None:
        """Divides by the scale, and by the norm's excess over its limit (gradient_clipping)."""
        limit = self.optimizer.clip_grad
        excess = (scaled_norm / self.scale + 1e-6) / limit if limit else 1.0
        factor = 1.0 / (self.scale * max(1.0, excess))
        for gradient in gradients if factor != 1.0 else ():
            gradient.mul_(factor)
