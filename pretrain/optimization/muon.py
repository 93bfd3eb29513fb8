"""Muon for the matrices of the layers, AdamW for all other parameters.

Updates matrices of one shape together, with few kernels and no wait for the device. Each of several
ranks, all with the same weights, orthogonalises a share of the stack for all of them.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.engine import distributed
from pretrain.kernels.linear import has_bf16_products

# Elements updated at a time: 57 matrices of 768 x 768 keep a GPU busy, with 0.7 GB of intermediate
# results.
CHUNK = 1 << 25


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximates U V^T of each U S V^T: all but the smallest singular values become 0.7 to 1.2.

    matrices: [n, rows, columns], rows <= columns; the result has `dtype`. Five Newton-Schulz
    iterations X <- aX + (bA + cA^2)X, A = X X^T, in `dtype`, with the coefficients of Jordan et
    al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(dtype)
    # The iteration needs singular values of at most 1.
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def newton_schulz_dtype(device: torch.device) -> torch.dtype:
    """Returns bf16 on devices with bf16 matrix products, else fp32.

    On one core with AVX512-BF16, for hidden sizes 256 and 768, bf16 takes a quarter of the time of
    fp32; without it, 1.3 times as long. Its error of 1 % is far below the iteration's distance of
    30 % from orthogonality in any precision.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and has_bf16_products()
    return torch.bfloat16 if has_bf16 else torch.float32


class _Matrix(NamedTuple):
    """Views of a weight, its gradient and the gradient's moving average, [rows, columns].

    rows <= columns: tall matrices are transposed, since X X^T of a wide one is smaller.
    stretch: factor of the step, so that tall matrices move as far, per row, as others.
    """

    weight: Tensor
    gradient: Tensor
    average: Tensor
    stretch: float


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for the groups with `num_parts`, AdamW for the others.

    Updates as torch.optim.Muon does, with Nesterov momentum and decoupled weight decay, but
    orthogonalises stacked matrices one by one, in the precision that suits the device. Groups with
    `num_parts` need lr, momentum and weight_decay.

    Like fused AdamW, it reads the tensors grad_scale and found_inf of torch's GradScaler: a step
    with an overflow changes nothing, and the host does not wait for the outcome.
    """

    def __init__(self, groups: list[dict], **adamw_settings):
        others = [group for group in groups if "num_parts" not in group]
        self._adamw: Any = torch.optim.AdamW(others, **adamw_settings)
        super().__init__(groups, {})
        self._step_supports_amp_scaling = bool(adamw_settings.get("fused"))

    @torch.no_grad()
    def step(self, closure=None):  # without closures
        grad_scale, found_inf = (getattr(self, n, None) for n in ("grad_scale", "found_inf"))
        # load_state_dict replaces our groups and our state, which AdamW shares.
        self._adamw.state = self.state
        self._adamw.param_groups = [g for g in self.param_groups if "num_parts" not in g]
        self._adamw.grad_scale, self._adamw.found_inf = grad_scale, found_inf
        self._adamw.step()
        for settings, matrices in self._matrices().items():
            for chunk in _chunks(matrices):
                _step(chunk, *settings, grad_scale, found_inf)

    def _matrices(self) -> dict[tuple[float, float, float], list[_Matrix]]:
        """All matrices with a gradient, by (lr, momentum, weight_decay)."""
        found: dict[tuple[float, float, float], list[_Matrix]] = defaultdict(list)
        for group in self.param_groups:
            if "num_parts" not in group:
                continue
            for weight in group["params"]:
                if weight.grad is not None:
                    settings = group["lr"], group["momentum"], group["weight_decay"]
                    found[settings] += self._parts(weight, weight.grad, group["num_parts"])
        return found

    def _parts(self, weight: Tensor, gradient: Tensor, num_parts: int) -> Iterator[_Matrix]:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        views = (t.chunk(num_parts) for t in (weight, gradient, state["momentum_buffer"]))
        for part in zip(*views, strict=True):
            rows, columns = part[0].shape
            wide = part if rows <= columns else tuple(view.mT for view in part)
            yield _Matrix._make((*wide, math.sqrt(max(1, rows / columns))))


def _chunks(matrices: list[_Matrix]) -> Iterator[list[_Matrix]]:
    """Yields matrices of one shape, at most CHUNK elements, if possible a multiple of the ranks."""
    by_shape = defaultdict(list)
    for matrix in matrices:
        by_shape[matrix.weight.shape].append(matrix)
    ranks = distributed.world_size()
    for shape, alike in by_shape.items():
        size = ranks * max(1, CHUNK // (ranks * shape.numel()))
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _step(
    chunk: list[_Matrix],
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Updates matrices of one shape."""
    weights, gradients, averages, stretches = map(list, zip(*chunk, strict=True))
    gradient, average = torch.stack(gradients), torch.stack(averages)
    if grad_scale is not None:
        gradient /= grad_scale
    keep: float | Tensor = 1.0
    if found_inf is not None:
        # A gradient equal to its average changes no average, and keeps the update finite.
        gradient = torch.where(found_inf == 0, gradient, average)
        keep = (found_inf == 0).float()
    average.lerp_(gradient, 1 - momentum)
    torch._foreach_copy_(averages, average.unbind())
    update = _orthogonalize_together(gradient.lerp_(average, momentum))  # Nesterov's
    updates = list((update.float() * keep).unbind())
    torch._foreach_mul_(updates, [-lr * stretch for stretch in stretches])
    torch._foreach_mul_(weights, 1 - lr * weight_decay * keep)
    torch._foreach_add_(weights, updates)


def _orthogonalize_together(matrices: Tensor) -> Tensor:
    """Runs `orthogonalize` distributed over the ranks; all of them get the same bits."""
    dtype = newton_schulz_dtype(matrices.device)
    ranks = distributed.world_size()
    if ranks == 1:
        return orthogonalize(matrices, dtype)
    share = -(-len(matrices) // ranks)
    mine = matrices[share * distributed.rank() :][:share]
    made = matrices.new_zeros((share, *matrices.shape[1:]), dtype=dtype)
    made[: len(mine)] = orthogonalize(mine, dtype)
    return distributed.gather(made)[: len(matrices)]
