"""What a run computes in, on the device that it is on."""

from argparse import Namespace

import torch

from pretrain.linear import prefers_bf16
from pretrain.model import OWN_TYPE


def resolve_precision(asked: str, device: torch.device, model_type: str) -> str:
    """fp16, bf16 or fp32: what "auto" stands for is the fastest that learns as well as fp32.

    On GPUs fp16; on the CPU bf16 for our model where the processor is built for it, else fp32.
    """
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return "fp16"
    return "bf16" if model_type == OWN_TYPE and prefers_bf16() else "fp32"


def multiplies_in_bf16(args: Namespace, device: torch.device) -> bool:
    """Whether bf16 is our model's own: on the CPU, where autocast would be slower.

    args: precision (not auto), model_type, and zero_stage, whose stages from 1 on are DeepSpeed's.
    """
    ours = device.type == "cpu" and args.model_type == OWN_TYPE
    return ours and args.precision == "bf16" and args.zero_stage <= 0
