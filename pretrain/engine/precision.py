"""The floating-point format of a run."""

import torch

from pretrain.kernels.linear import prefers_bf16
from pretrain.model.model_types import OWN_TYPE


def resolve_precision(
    asked: str, device: torch.device, model_type: str, zero_stage: int = -1
) -> str:
    """Returns fp16, bf16 or fp32; "auto" is the fastest one that learns as well as fp32.

    On GPUs fp16. On the CPU fp32, or bf16 for our model on processors with fast bf16 products and
    with ZeRO stage -1 or 0; at higher stages the weights would be bf16 too. Raises ValueError for
    bf16 on a GPU without it, since emulation is several times slower.
    """
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    emulates = on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "bf16" and emulates:
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"--precision: {name} only emulates bf16, expected fp16 (or auto)")
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return "fp16"
    ours = model_type == OWN_TYPE and zero_stage <= 0
    return "bf16" if ours and prefers_bf16() else "fp32"


def set_tf32(allowed: bool) -> None:
    """Allows or forbids TF32 products of fp32 matrices on GPUs.

    NVIDIA_TF32_OVERRIDE=0 in the environment, read by the libraries, still forbids them.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def multiplies_in_bf16(
    precision: str, device: torch.device, model_type: str, zero_stage: int
) -> bool:
    """True if our model itself multiplies in bf16: on the CPU, since autocast is slower there.

    precision: fp16, bf16 or fp32. zero_stage: as asked; from stage 1 on, bf16 is DeepSpeed's.
    """
    ours = device.type == "cpu" and model_type == OWN_TYPE
    return ours and precision == "bf16" and zero_stage <= 0
