"""Whether a step's gradient is finite, at the cost of one wait for the device.

Only the host can skip a step, so it has to wait once. DeepSpeed 0.19.8 waits two to four times: for
the overflow flag, for the norm and its sign, and once more where it clips.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor


def read(number: Tensor) -> float:
    """Waits for the device, and returns the number, a tensor [], as it is then."""
    return float(number.detach().cpu().numpy())


class OneWaitScaler(torch.amp.GradScaler):
    """GradScaler that waits by `read`; not at all for an optimizer that skips steps by itself."""

    def _maybe_opt_step(self, optimizer, optimizer_state: dict[str, Any], *args, **kwargs):
        (found,) = optimizer_state["found_inf_per_device"].values()  # a rank has one device
        return None if read(found) else optimizer.step(*args, **kwargs)


def wait_once(engine) -> None:
    """Has a DeepSpeed engine wait once per step: in half precision, and with ZeRO 1 and 2.

    Not with ZeRO 3, or with the optimizer offloaded by a user's JSON: those wait as DeepSpeed does.
    """
    from deepspeed.runtime import bf16_optimizer
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = engine.optimizer
    if engine.torch_autocast_z0_gradscaler:
        engine.torch_autocast_z0_gradscaler = OneWaitScaler(engine.device.type)
    elif isinstance(optimizer, bf16_optimizer.BF16_Optimizer):
        # Its step calls this by its name in that module. What it does with a float needs no device.
        bf16_optimizer.get_global_norm_of_tensors = _norm_on_host
    elif (
        isinstance(optimizer, DeepSpeedZeroOptimizer)
        and optimizer.compute_grad_norm
        and not optimizer.cpu_offload
    ):
        _ZeroSteps(optimizer)


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """2-norm of all of them together in fp32, []."""
    return torch.nn.utils.get_total_norm([tensor.float() for tensor in tensors])


def _norm_on_host(input_tensors: Iterable[Tensor], **_) -> float:
    return read(norm(input_tensors))


class _ZeroSteps:
    """Takes the place of three methods of ZeRO's optimizer, of stages 1 and 2.

    The norm is finite only if all of the gradient is, so that no other check is needed.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer
        optimizer.check_overflow = lambda partition_gradients=True: None
        optimizer.scaled_global_norm = self.scaled_norm
        optimizer.unscale_and_clip_grads = self.unscale_and_clip

    def scaled_norm(self) -> float:
        """Norm of the scaled gradient, of which each rank holds a part."""
        # DeepSpeed updates the scale before it divides by it: once in 1000 steps, by twice as much.
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
        """Divides by the scale, and by what the norm exceeds its limit by (gradient_clipping)."""
        limit = self.optimizer.clip_grad
        excess = (scaled_norm / self.scale + 1e-6) / limit if limit else 1.0
        factor = 1.0 / (self.scale * max(1.0, excess))
        for gradient in gradients if factor != 1.0 else ():
            gradient.mul_(factor)
