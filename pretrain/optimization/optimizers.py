"""Optimizers by name, over parameters grouped by whether weight decay applies to them.

To add an optimizer, write a function of (groups, args) that builds it, and a row in OPTIMIZERS.
"""

import math
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretrain.optimization.muon import MuonWithAdamW

# Names of modules between the vocabulary and the layers, in our model and in transformers'.
EMBEDDINGS = r"\w*embeddings?"
HEADS = r"cls|decoder|\w*head|\w*predictions|vocab_\w+"
OUTSIDE_LAYERS = re.compile(rf"(^|\.)({EMBEDDINGS}|{HEADS})\.")
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


# --- groups of parameters --------------------------------------------------------------------


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: matrices, which decay, and biases and norms, which do not."""
    return _split_by_decay(_trainable(model).values(), weight_decay)


def muon_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Decay groups of all but the matrices of the layers, and groups of those with `num_parts`.

    num_parts: how many matrices each of the group's weights stacks.
    """
    matrices = layer_matrices(model)
    rest = [p for name, p in _trainable(model).items() if name not in matrices]
    groups = _split_by_decay(rest, weight_decay)
    for num_parts in (1, 3):
        found = [p for name, p in matrices.items() if _num_parts(name, p) == num_parts]
        groups.append({"params": found, "weight_decay": weight_decay, "num_parts": num_parts})
    return [group for group in groups if group["params"]]


def layer_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weight matrices that map hidden states to hidden states: no embeddings, and no head."""
    # Wherever they stand, and under whatever other name they are tied to.
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        name: parameter
        for name, parameter in _trainable(model).items()
        if parameter.ndim == 2
        and name.endswith("weight")
        and id(parameter) not in embeddings
        and not OUTSIDE_LAYERS.search(name)
    }


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _split_by_decay(parameters, weight_decay: float) -> list[dict]:
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _num_parts(name: str, matrix: Tensor) -> int:
    """3 for the weight that makes queries, keys and values in one product, else 1."""
    return 3 if "qkv" in name.lower() and matrix.shape[0] == 3 * matrix.shape[1] else 1


# --- the table -------------------------------------------------------------------------------


def _fused(groups: list[dict]) -> bool:
    """One kernel over all parameters, instead of a dozen passes over memory, where there is one."""
    return all(p.device.type in FUSED_DEVICES for group in groups for p in group["params"])


def _adam_settings(groups: list[dict], args: Namespace) -> dict:
    betas = args.adam_beta1, args.adam_beta2
    return {"lr": args.lr, "betas": betas, "eps": args.adam_eps, "fused": _fused(groups)}


def _adamw(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **_adam_settings(groups, args))


def _adam(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, **_adam_settings(groups, args))


def _sgd(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=args.lr, fused=_fused(groups))


def _sgd_momentum(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, fused=_fused(groups))


def _lamb(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    """Algorithm 2 of You et al., "Large Batch Optimization for Deep Learning" (2020).

    As in Google's own code, what does not decay has no trust ratio either, that is, 1: a bias
    starts at 0, where its ratio would keep it, and that of a padded vocabulary is huge.
    """
    from pytorch_optimizer import Lamb

    betas = args.adam_beta1, args.adam_beta2

    def correct_bias(optimizer, *_) -> None:
        # With these betas a moving average is, from its first step on, the bias-corrected one.
        # The package has no correction of the second moment, and corrects the first one outside
        # the trust ratio, which makes the first step 1 / (1 - beta1) times as long.
        for group in optimizer.param_groups:
            step = group.get("step", 0) + 1
            group["betas"] = tuple(optimizer.debias_beta(beta, step) for beta in betas)

    groups = [{**group, "adam": group["params"][0].ndim < 2} for group in groups]
    optimizer = Lamb(
        groups, args.lr, betas, weight_decouple=False, adam_debias=True, eps=args.adam_eps
    )
    optimizer.clamp = math.inf  # the package cuts the norm of a weight off at 10
    optimizer.register_step_pre_hook(correct_bias)
    return optimizer


def _adafactor(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    """Shazeer and Stern (2018); steps are relative to the size of the weights, at most args.lr."""
    return torch.optim.Adafactor(groups, lr=args.lr)


def _stable_adamw(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    """AdamW with Adafactor's clipping of the update (Wortsman et al., 2023)."""
    from pytorch_optimizer import StableAdamW

    return StableAdamW(groups, args.lr, (args.adam_beta1, args.adam_beta2), eps=args.adam_eps)


def _muon(groups: list[dict], args: Namespace) -> torch.optim.Optimizer:
    for group in groups:
        is_muons = "num_parts" in group
        group["lr"] = group["peak_lr"] = args.muon_learning_rate if is_muons else args.lr
        if is_muons:
            group["momentum"] = args.muon_momentum
    return MuonWithAdamW(groups, **_adam_settings(groups, args))


@dataclass(frozen=True)
class OptimizerRow:
    """build: from parameter groups and run_pretraining's flags.

    elementwise: the update of a weight depends on no other weight, so that ZeRO may lay all
    weights out in one vector and cut it anywhere. groups: of a model, with this weight decay.
    """

    build: Callable[[list[dict], Namespace], torch.optim.Optimizer]
    elementwise: bool
    groups: Callable[[nn.Module, float], list[dict]] = decay_groups


OPTIMIZERS = {
    "adamw": OptimizerRow(_adamw, elementwise=True),
    "adam": OptimizerRow(_adam, elementwise=True),
    "sgd": OptimizerRow(_sgd, elementwise=True),
    "sgd-momentum": OptimizerRow(_sgd_momentum, elementwise=True),
    "lamb": OptimizerRow(_lamb, elementwise=False),
    "adafactor": OptimizerRow(_adafactor, elementwise=False),
    "stable-adamw": OptimizerRow(_stable_adamw, elementwise=False),
    "muon": OptimizerRow(_muon, elementwise=False, groups=muon_groups),
}


def build_optimizer(model: nn.Module, args: Namespace) -> torch.optim.Optimizer:
    """The optimizer named by args.optimizer_type (a key of OPTIMIZERS), at the peak rate args.lr.

    Reads weight_decay, adam_beta1, adam_beta2, adam_eps, momentum, muon_learning_rate and
    muon_momentum too. Groups whose peak rate is another have it as `peak_lr`.
    """
    row = OPTIMIZERS[args.optimizer_type]
    return row.build(row.groups(model, args.weight_decay), args)
