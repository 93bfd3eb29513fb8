"""Cross entropy over the vocabulary."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Logits per piece: in bf16 8 MiB, the size of a last-level cache.
PIECE = 1 << 22
SMALLEST = torch.finfo(torch.float32).tiny  # probability with a finite logarithm


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean in fp32, [], 0 without predictions."""
    total = functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total / max(1, len(labels))


def half_mean_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Returns mean_cross_entropy of hidden weight^T + bias, with bf16 products, on the CPU.

    hidden: fp32 [predictions, hidden_size]. weight: fp32 [vocabulary, hidden_size]. bias: fp32
    [vocabulary]. labels: int64 [predictions].
    """
    if not len(labels):
        return mean_cross_entropy(functional.linear(hidden, weight, bias), labels)
    return _HalfCrossEntropy.apply(hidden, weight, bias, labels) / len(labels)


class _HalfCrossEntropy(torch.autograd.Function):
    """Computes the sum, and with it the gradient of the logits: softmax, minus 1 at the label."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        half, half_weight, half_bias = hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()
        of_logits = torch.empty(len(half), len(weight), dtype=torch.bfloat16)
        step = max(1, PIECE // len(weight))
        for start in range(0, len(half), step):
            piece = slice(start, start + step)
            logits = functional.linear(half[piece], half_weight, half_bias)
            torch.softmax(logits, 1, out=of_logits[piece])  # in fp32 internally
        row = torch.arange(len(labels))
        of_label = of_logits[row, labels]
        total = -of_label.float().clamp(min=SMALLEST).log_().sum()
        of_logits[row, labels] = of_label - 1
        ctx.save_for_backward(half, half_weight, of_logits)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, of_logits = ctx.saved_tensors
        of_hidden = (of_logits @ weight).float().mul_(grad)
        of_weight = (of_logits.t() @ hidden).float().mul_(grad)
        of_bias = of_logits.sum(0).float().mul_(grad)  # summed in fp32 internally
        return of_hidden, of_weight, of_bias, None
