"""AdamW for finetuning: fused, and on the CPU without work for words that a batch does not have.

A vocabulary's embeddings are half of the weights of a small model, and a batch has one in fifty of
its words. Dense AdamW updates them all in each step: it decays them, and lets them drift on with
what is left of the mean of their gradients. `RowAdamW` does for a row what it has missed just
before the row is used again, all steps at once, and ends with the weights of dense AdamW.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8
# Steps after which what is left of a gradient moves a weight no more: 0.9^220 is below 1e-10.
DRIFT_STEPS = 220


class FinetuningOptimizer:
    """AdamW over all weights of a model, with a clipped gradient.

    Weights decay, biases and norms (all that is no matrix) do not. In a training step call
    `prepare`, run forward and backward, then `step()`. Before anything else reads the
    weights, `flush()`.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float,
        max_steps: int,
    ):
        """max_grad_norm: 0 for no clipping. max_steps: how many there will be at most."""
        self.max_grad_norm = max_grad_norm
        self.rows: RowAdamW | None = None
        embedding = sparse_embedding(model)
        if embedding is not None:
            embedding.sparse = True
            self.rows = RowAdamW(embedding.weight, weight_decay, max_steps)
        dense = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (embedding is None or parameter is not embedding.weight)
        ]
        decayed = [parameter for name, parameter in dense if decays(name, parameter)]
        others = [parameter for name, parameter in dense if not decays(name, parameter)]
        self.parameters = decayed + others
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.dense = torch.optim.AdamW(
            groups, lr=learning_rate, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True
        )

    @property
    def learning_rate(self) -> float:
        return self.dense.param_groups[0]["lr"]

    def prepare(self, ids: Sequence[Tensor]) -> None:
        """Brings the rows of these words up to date. ids: int64 of any shapes."""
        if self.rows is not None:
            self.rows.catch_up(torch.cat([some.flatten() for some in ids]).unique())

    def step(self, scaler: "torch.amp.GradScaler | None" = None) -> None:
        """Clips, updates and drops the gradients. scaler: of a loss scaled for fp16."""
        if self.rows is not None:
            self.rows.gather_gradient()
        if scaler is not None:
            scaler.unscale_(self.dense)
        if self.max_grad_norm > 0:
            self._clip()
        if self.rows is not None:
            self.rows.step(self.learning_rate)
        if scaler is None:
            self.dense.step()
        else:
            scaler.step(self.dense)
            scaler.update()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        self.dense.zero_grad(set_to_none=True)
        if self.rows is not None:
            self.rows.weight.grad = None

    def flush(self) -> None:
        """Brings all weights up to date."""
        if self.rows is not None:
            self.rows.flush()

    def _clip(self) -> None:
        """Scales all gradients so that their common norm is at most the largest one allowed."""
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        if self.rows is not None:
            gradients.append(self.rows.gradient)
        norm = torch.nn.utils.get_total_norm(gradients)
        factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
        # On the CPU the factor is known at once. A GPU need not be waited for.
        if norm.device.type != "cpu" or factor != 1:
            torch._foreach_mul_(gradients, factor)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay holds for it."""
    return parameter.ndim >= 2 and "bias" not in name


def sparse_embedding(model: nn.Module) -> nn.Embedding | None:
    """The word embeddings, if they are on the CPU and nothing but a look-up of rows uses them."""
    embedding = model.get_input_embeddings()
    if type(embedding) is not nn.Embedding or embedding.weight.device.type != "cpu":
        return None
    users = sum(
        weight is embedding.weight
        for module in model.modules()
        for weight in module.parameters(recurse=False)
    )
    plain = embedding.max_norm is None and not embedding.scale_grad_by_freq
    return embedding if users == 1 and plain and embedding.weight.requires_grad else None


class RowAdamW:
    """AdamW of a matrix that only some rows have a gradient for, as if all were updated each step.

    With b = BETAS, a row that was last updated at step s has at step t been multiplied by
    1 - lr_i * weight_decay for each i from s + 1 to t, its moments m and v have become b1^(t-s) m
    and b2^(t-s) v, and step i has taken from it

        lr_i b1^(i-s) m / (1 - b1^i) / (sqrt(b2^(i-s) v / (1 - b2^i)) + eps)

    times the decay of the steps after i. See `MissedSteps` for their sum.
    """

    def __init__(self, weight: nn.Parameter, weight_decay: float, max_steps: int):
        self.weight, self.weight_decay = weight, weight_decay
        self.mean = torch.zeros_like(weight, requires_grad=False)
        self.square = torch.zeros_like(weight, requires_grad=False)
        self.missed = MissedSteps(weight_decay, max_steps)
        self.last_step = np.zeros(len(weight), np.int64)
        self.with_gradient = torch.empty(0, dtype=torch.int64)
        self.gradient = torch.empty(0)

    @torch.no_grad()
    def catch_up(self, rows: Tensor) -> None:
        """Does what these rows (int64, different ones) have missed."""
        last = self.last_step[rows.numpy()]
        is_late = last < self.missed.num_steps
        rows, last = rows[torch.from_numpy(is_late)], last[is_late]
        if not len(rows):
            return
        factors = torch.from_numpy(self.missed.factors(last).astype(np.float32))
        decay, of_mean, of_square, *drift = factors[:, :, None]
        mean, square = self.mean[rows], self.square[rows]
        weights = self.weight[rows].mul_(decay).sub_(_drift(mean, square, *drift))
        self._put(rows, weights, mean.mul_(of_mean), square.mul_(of_square))

    def gather_gradient(self) -> None:
        """Takes the gradient from the weight; `gradient` has a row for each of some words."""
        gradient = self.weight.grad.coalesce()
        self.with_gradient, self.gradient = gradient.indices()[0], gradient.values()
        self.weight.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Updates the rows with a gradient, all of which have caught up."""
        self.missed.add_step(learning_rate)
        rows, gradient, step = self.with_gradient, self.gradient, self.missed.num_steps
        mean = self.mean[rows].lerp_(gradient, 1 - BETAS[0])
        square = self.square[rows].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = square.sqrt().div_((1 - BETAS[1] ** step) ** 0.5).add_(EPS)
        weights = self.weight[rows].mul_(1 - learning_rate * self.weight_decay)
        weights.addcdiv_(mean, root, value=-learning_rate / (1 - BETAS[0] ** step))
        self._put(rows, weights, mean, square)

    def flush(self) -> None:
        for rows in torch.arange(len(self.weight)).split(4096):  # which stay in the caches
            self.catch_up(rows)

    def _put(self, rows: Tensor, weights: Tensor, mean: Tensor, square: Tensor) -> None:
        self.weight.index_copy_(0, rows, weights)
        self.mean.index_copy_(0, rows, mean)
        self.square.index_copy_(0, rows, square)
        self.last_step[rows.numpy()] = self.missed.num_steps


def _drift(mean: Tensor, square: Tensor, *parts: Tensor) -> Tensor:
    """What steps without gradient have taken. parts: factor, node, factor, node, all [rows, 1]."""
    root, total = square.sqrt(), torch.zeros_like(mean)
    for factor, node in zip(parts[::2], parts[1::2], strict=True):
        total += factor / (root + node)
    return total.mul_(mean)


class MissedSteps:
    """What a row has missed, by the step that it was last updated at.

    With h_i = sqrt((1 - b2^i) / b2^(i-s)), step i takes g_i m / (sqrt(v) + eps h_i) from a row,
    where g_i depends on the steps alone. The sum over i is an integral over h with the weights g:
    two nodes that share the first four moments of h stand for all steps (Gauss quadrature). Where
    eps is small beside sqrt(v) that is exact; elsewhere its error is of the fourth order in the
    spread of h, a few percent after the first steps.
    """

    def __init__(self, weight_decay: float, max_steps: int):
        self.weight_decay = weight_decay
        self.num_steps = 0
        # By step: product of the decays, and the sums of g, g h, g h^2 and g h^3 since.
        self.decay = np.ones(max_steps + 1)
        self.sums = np.zeros((4, max_steps + 1))

    def add_step(self, learning_rate: float) -> None:
        """A step that rows without gradient miss."""
        self.num_steps = step = self.num_steps + 1
        kept = 1 - learning_rate * self.weight_decay
        self.decay[:step] *= kept
        self.sums[:, :step] *= kept
        recent = np.arange(max(0, step - DRIFT_STEPS), step)
        height = np.sqrt((1 - BETAS[1] ** step) / BETAS[1] ** (step - recent))
        weight = learning_rate * BETAS[0] ** (step - recent) / (1 - BETAS[0] ** step) * height
        self.sums[:, recent] += weight * height ** np.arange(4)[:, None]

    def factors(self, last: Iterable[int]) -> np.ndarray:
        """[7, rows] of rows last updated at `last`: of the weights, of both moments, `_drift`'s."""
        gap = self.num_steps - np.asarray(last)
        total, *sums = self.sums[:, last]
        total_or_one = np.where(total > 0, total, 1.0)  # learning rates may have been 0
        first, second, third = (part / total_or_one for part in sums)
        variance = np.maximum(second - first**2, 0.0)
        skewness = third - 3 * first * second + 2 * first**3
        # The nodes are first + d for both roots d of d^2 - lean d - variance.
        lean = np.divide(skewness, variance, out=np.zeros_like(first), where=variance > 1e-12)
        root = np.sqrt(lean**2 / 4 + variance)
        low, high = first + lean / 2 - root, first + lean / 2 + root
        share = np.divide(high - first, high - low, out=np.ones_like(first), where=high > low)
        decays = self.decay[last], BETAS[0] ** gap, BETAS[1] ** gap
        # A node above 0 keeps 0 / 0 away from rows that never had a gradient.
        low, high = (EPS * np.maximum(node, 1e-4) for node in (low, high))
        return np.stack([*decays, total * share, low, total * (1 - share), high])
