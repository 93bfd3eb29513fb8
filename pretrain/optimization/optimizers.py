"""Optimizers by name, over groups of parameters with and without weight decay.

To add an optimizer, write a function of (groups, settings) that builds it, and a row in OPTIMIZERS.
"""

import math
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pretrain.optimization.muon import MuonWithAdamW
from pretrain.settings import TrainingSettings

# Names of modules between the vocabulary and the layers, in our model and in transformers'.
EMBEDDINGS = r"\w*embeddings?"
HEADS = r"cls|decoder|\w*head|\w*predictions|vocab_\w+"
OUTSIDE_LAYERS = re.compile(rf"(^|\.)({EMBEDDINGS}|{HEADS})\.")
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


# --- groups of parameters --------------------------------------------------------------------


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Returns two parameter groups: matrices with weight decay, biases and norms without."""
    return _split_by_decay(_trainable(model).values(), weight_decay)


def muon_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Returns groups with `num_parts` of the layers' matrices, and decay groups of all the rest.

    num_parts: number of matrices stacked in each weight of the group.
    """
    matrices = layer_matrices(model)
    rest = [p for name, p in _trainable(model).items() if name not in matrices]
    groups = _split_by_decay(rest, weight_decay)
    for num_parts in (1, 3):
        found = [p for name, p in matrices.items() if _num_parts(name, p) == num_parts]
        groups.append({"params": found, "weight_decay": weight_decay, "num_parts": num_parts})
    return [group for group in groups if group["params"]]


def layer_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the weight matrices from hidden states to hidden states: no embeddings, no head."""
    # By identity: an embedding may be tied to a weight under another name.
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


def _split_by_decay(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    groups: list[dict] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in parameters:
        groups[parameter.ndim < 2]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _num_parts(name: str, matrix: Tensor) -> int:
    """3 for the combined weight of queries, keys and values, else 1."""
    return 3 if "qkv" in name.lower() and matrix.shape[0] == 3 * matrix.shape[1] else 1


# --- the table -------------------------------------------------------------------------------


def _fused(groups: list[dict]) -> bool:
    """True if one kernel can update all parameters, instead of a dozen passes over memory."""
    return all(p.device.type in FUSED_DEVICES for group in groups for p in group["params"])


def _betas(settings: TrainingSettings) -> tuple[float, float]:
    return settings.adam_beta1, settings.adam_beta2


def _of_adam(groups: list[dict], settings: TrainingSettings) -> dict:
    """Returns arguments of torch's Adam and AdamW."""
    betas, eps = _betas(settings), settings.adam_eps
    return {"lr": settings.lr, "betas": betas, "eps": eps, "fused": _fused(groups)}


def _adamw(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **_of_adam(groups, settings))


def _adam(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, **_of_adam(groups, settings))


def _sgd(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    momentum = settings.momentum if settings.optimizer_type == "sgd-momentum" else 0.0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, fused=_fused(groups))


def _lamb(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Algorithm 2 of You et al., "Large Batch Optimization for Deep Learning" (2020).

    As in Google's code, parameters without weight decay have a trust ratio of 1: the ratio of a
    bias, which starts at 0, would keep it there, and that of a padded vocabulary is huge.
    """
    from pytorch_optimizer import Lamb

    betas = _betas(settings)

    def correct_bias(optimizer, *_) -> None:
        # With these betas, each moving average is bias-corrected from its first step on. The
        # package does not correct the second moment, and corrects the first one outside the trust
        # ratio, so that its first step is 1 / (1 - beta1) times too long.
        for group in optimizer.param_groups:
            step = group.get("step", 0) + 1
            group["betas"] = tuple(optimizer.debias_beta(beta, step) for beta in betas)

    groups = [{**group, "adam": group["params"][0].ndim < 2} for group in groups]
    optimizer = Lamb(
        *(groups, settings.lr, betas),
        weight_decouple=False,
        adam_debias=True,
        eps=settings.adam_eps,
    )
    optimizer.clamp = math.inf  # the package limits the norm of a weight to 10
    optimizer.register_step_pre_hook(correct_bias)
    return optimizer


def _adafactor(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Shazeer and Stern (2018); steps are relative to the weights' size, at most the rate."""
    return torch.optim.Adafactor(groups, lr=settings.lr)


def _stable_adamw(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW with Adafactor's clipping of the update (Wortsman et al., 2023)."""
    from pytorch_optimizer import StableAdamW

    return StableAdamW(groups, settings.lr, _betas(settings), eps=settings.adam_eps)


def _muon(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    for group in groups:
        is_muons = "num_parts" in group
        group["lr"] = group["peak_lr"] = settings.muon_learning_rate if is_muons else settings.lr
        if is_muons:
            group["momentum"] = settings.muon_momentum
    return MuonWithAdamW(groups, **_of_adam(groups, settings))


# Those in configs.pretrain_rules.ELEMENTWISE_OPTIMIZERS work with ZeRO, which divides one vector of
# all weights anywhere: their update of a weight depends on no other weight.
OPTIMIZERS: dict[str, Callable[[list[dict], TrainingSettings], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "sgd-momentum": _sgd,
    "lamb": _lamb,
    "adafactor": _adafactor,
    "stable-adamw": _stable_adamw,
    "muon": _muon,
}


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Returns the optimizer at its peak rate; groups with another peak rate have it as `peak_lr`.

    Raises KeyError for an optimizer_type that is not in OPTIMIZERS.
    """
    groups_of = muon_groups if settings.optimizer_type == "muon" else decay_groups
    groups = groups_of(model, settings.weight_decay)
    return OPTIMIZERS[settings.optimizer_type](groups, settings)
