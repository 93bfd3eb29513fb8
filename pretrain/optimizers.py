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


# --- Muon ------------------------------------------------------------------------------------


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly U V^T of a matrix U S V^T: all but the smallest singular values become 0.7 to 1.2.

    Five Newton-Schulz iterations X <- aX + (bA + cA^2)X, A = X X^T, computed in `dtype`, with the
    coefficients of Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrix.shape[0] > matrix.shape[1]  # X X^T is the smaller product of a wide one
    x = (matrix.T if is_tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)  # the iteration needs singular values of at most 1
    for _ in range(5):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if is_tall else x


def newton_schulz_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device multiplies in it, else fp32.

    Measured on one core for hidden sizes 256 and 768: with AVX512-BF16, bf16 takes a quarter of the
    time of fp32; without, 1.3 times as long. Its error of 1 % is far below the 30 % by which the
    iteration misses orthogonality in any precision.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = device.type == "cpu" and (
            capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        )
    return torch.bfloat16 if has_bf16 else torch.float32


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for the groups with `num_parts`, AdamW for the others.

    It steps as torch.optim.Muon does, with Nesterov momentum and decoupled weight decay, but a
    weight of several stacked matrices is orthogonalised matrix by matrix, and in the precision that
    suits the device. Groups with `num_parts` need lr, momentum and weight_decay.
    """

    def __init__(self, groups: list[dict], **adamw_settings):
        others = [group for group in groups if "num_parts" not in group]
        self._adamw = torch.optim.AdamW(others, **adamw_settings)
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # AdamW works on our groups and our state, which load_state_dict replaces.
        self._adamw.state = self.state
        self._adamw.param_groups = [g for g in self.param_groups if "num_parts" not in g]
        self._adamw.step()
        for group in self.param_groups:
            if "num_parts" in group:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict) -> None:
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            parts = self._with_momentum(matrix, group["momentum"]).chunk(group["num_parts"])
            dtype = newton_schulz_dtype(matrix.device)
            update = torch.cat([orthogonalize(part, dtype) for part in parts])
            rows, columns = parts[0].shape
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            # The same size of step, per row, for tall matrices as for square ones.
            matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))

    def _with_momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the gradient, mixed with its moving average after this step."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


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
