"""Optimizers by name, over parameters grouped by whether weight decay applies to them."""

from argparse import Namespace

import torch
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: matrices, which decay, and biases and norms, which do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _adam_settings(args: Namespace) -> dict:
    # One fused kernel over all parameters instead of a dozen passes over memory.
    return {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_eps, "fused": True}


OPTIMIZERS = {
    "adamw": lambda groups, args: torch.optim.AdamW(groups, lr=args.lr, **_adam_settings(args)),
    "adam": lambda groups, args: torch.optim.Adam(groups, lr=args.lr, **_adam_settings(args)),
    "sgd": lambda groups, args: torch.optim.SGD(groups, lr=args.lr),
    "sgd-momentum": lambda groups, args: torch.optim.SGD(
        groups, lr=args.lr, momentum=args.momentum
    ),
}


def build_optimizer(model: nn.Module, args: Namespace) -> torch.optim.Optimizer:
    """The optimizer named by args.optimizer_type (a key of OPTIMIZERS), at the peak rate args.lr.

    Reads weight_decay, adam_beta1, adam_beta2, adam_eps and momentum too.
    """
    return OPTIMIZERS[args.optimizer_type](decay_groups(model, args.weight_decay), args)
