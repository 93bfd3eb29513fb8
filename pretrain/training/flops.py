"""FLOPs of a training step, and the machine's peak FLOP/s.

Counts the matrix products of forward and backward pass, two operations per multiplication and
addition. Products that gradient checkpointing repeats count once: the share of the peak then
measures the speed of training.
"""

import time
from collections.abc import Callable

import torch

from pretrain.kernels.linear import linear
from pretrain.settings import ModelSettings

# Each product of the forward pass has two in the backward pass: the gradients of its two factors.
PASSES = 3
CPU_SIZE, ACCELERATOR_SIZE = 1024, 8192  # rows and columns; larger ones are no faster
MIN_REPEATS = 3


def training_flops(
    model: ModelSettings,
    num_sequences: float,
    num_tokens_per_sequence: int,
    num_predictions: float,
    num_pairs: float | None = None,
) -> float:
    """Returns the FLOPs to train on these sequences, padding included.

    An estimate for architectures of transformers. num_predictions: of all sequences together.
    num_pairs: pairs of tokens that attend to each other in a layer without a window; None: all
    pairs of each sequence.
    """
    num_tokens = num_sequences * num_tokens_per_sequence
    if num_pairs is None:
        num_pairs = num_tokens * num_tokens_per_sequence
    weights = model.num_hidden_layers * num_tokens * 2 * _layer_weights(model)
    head = num_predictions * 2 * _head_weights(model)
    return float(PASSES * (weights + _attention_flops(model, num_tokens, num_pairs) + head))


def _layer_weights(model: ModelSettings) -> int:
    """Elements of a layer's matrices: queries, keys, values, output, and the feed-forward part."""
    num_matrices = 3 if model.glu else 2
    return model.hidden_size * (4 * model.hidden_size + num_matrices * model.intermediate_size)


def _attention_flops(model: ModelSettings, num_tokens: float, num_pairs: float) -> float:
    """FLOPs of query times key and of weight times value, for each pair in all layers.

    An upper bound with a window, which may be longer than a document.
    """
    window, layers = model.attention_window, model.num_hidden_layers
    num_global = -(-layers // model.global_attention_every) if window else layers
    num_near = min(num_pairs, num_tokens * (window + 1))
    pairs = num_global * num_pairs + (layers - num_global) * num_near
    return 2 * 2 * pairs * model.hidden_size


def _head_weights(model: ModelSettings) -> int:
    multiple = model.pad_vocab_to_multiple_of
    num_logits = -(-model.vocab_size // multiple) * multiple
    return model.hidden_size * (model.hidden_size + num_logits)


def model_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Computes left right^T with the model's own kernel."""
    return linear(left, right, None)


def matmul_peak(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float = 0.3,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = model_product,
) -> float:
    """Returns the FLOP/s of the fastest product of two square matrices within these seconds."""
    size = CPU_SIZE if device.type == "cpu" else ACCELERATOR_SIZE
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / _fastest(lambda: product(left, right), device, seconds)


def _fastest(compute: Callable[[], torch.Tensor], device: torch.device, seconds: float) -> float:
    """Returns the seconds of the fastest call after the first one, which may load libraries."""
    compute()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_REPEATS or time.perf_counter() < end:
        _synchronize(device)
        begin = time.perf_counter()
        compute()
        _synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
