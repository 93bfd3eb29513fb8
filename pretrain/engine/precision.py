"""What a run computes in, on the device that it is on."""

import torch

from pretrain.kernels.linear import prefers_bf16
from pretrain.model.model_types import OWN_TYPE


def resolve_precision(
    asked: str, device: torch.device, model_type: str, zero_stage: int = -1
) -> str:
    """fp16, bf16 or fp32: what "auto" stands for is the fastest that learns as well as fp32.

    On GPUs fp16; on the CPU fp32, or bf16 for our model where the processor is built for it and
    ZeRO, whose bf16 is that of the weights too, is at stage 0 or -1. Raises ValueError for a bf16
    that the GPU would only emulate, several times slower.
    """
    if asked == "bf16" and _only_emulates_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"--precision: {name} only emulates bf16, expected fp16 (or auto)")
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return "fp16"
    ours = model_type == OWN_TYPE and zero_stage <= 0
    return "bf16" if ours and prefers_bf16() else "fp32"


def _only_emulates_bf16(device: torch.device) -> bool:
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    return on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)


def set_tf32(allowed: bool) -> None:
    """Says whether GPUs may multiply fp32 matrices in TF32, whatever was set before.

    NVIDIA_TF32_OVERRIDE=0 in the environment, which the libraries read, still forbids it.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def multiplies_in_bf16(
    precision: str, device: torch.device, model_type: str, zero_stage: int
) -> bool:
    """True if our model computes in bf16 by itself: on the CPU, where autocast would be slower.

    precision: fp16, bf16 or fp32. zero_stage: as asked; from 1 on, bf16 is DeepSpeed's.
    """
    ours = device.type == "cpu" and model_type == OWN_TYPE
    return ours and precision == "bf16" and zero_stage <= 0
