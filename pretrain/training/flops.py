"""FLOPs of a training step, and the machine's peak FLOP/s.

Counts the matrix products of forward and backward pass, two operations per multiplication and
addition. Products that gradient checkpointing repeats count once: the share of the peak then
measures the speed of training.
"""

import time
from collections.abc import Callable
from functools import partial

import torch

from pretrain.kernels.linear import linear
from pretrain.model.model import padded_vocab_size
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
    width, num_matrices = model.hidden_size, 3 if model.glu else 2  # of the feed-forward part
    layer_weights = width * (4 * width + num_matrices * model.intermediate_size)
    layers = model.num_hidden_layers * num_tokens * 2 * layer_weights
    num_logits = padded_vocab_size(model.vocab_size, model.pad_vocab_to_multiple_of)
    head = num_predictions * 2 * width * (width + num_logits)
    return float(PASSES * (layers + _attention_flops(model, num_tokens, num_pairs) + head))


def _attention_flops(model: ModelSettings, num_tokens: float, num_pairs: float) -> float:
    """Returns the FLOPs of query times key and of weight times value, for all pairs and layers.

    An upper bound with a window, since documents may be shorter.
    """
    window, layers = model.attention_window, model.num_hidden_layers
    num_global = -(-layers // model.global_attention_every) if window else layers
    num_near = min(num_pairs, num_tokens * (window + 1))
    pairs = num_global * num_pairs + (layers - num_global) * num_near
    return 2 * 2 * pairs * model.hidden_size


def matmul_peak(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float = 0.3,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """Returns the FLOP/s of the fastest product of two square matrices within these seconds.

    product: left right^T, by default with the model's own kernel.
    """
    size = CPU_SIZE if device.type == "cpu" else ACCELERATOR_SIZE
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    multiply = product or partial(linear, bias=None)
    return 2 * size**3 / _fastest(lambda: multiply(left, right), device, seconds)


def _fastest(compute: Callable[[], torch.Tensor], device: torch.device, seconds: float) -> float:
    """Returns the seconds of the fastest call; the first one may load libraries."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) <= MIN_REPEATS or time.perf_counter() < end:
        begin = time.perf_counter()
        compute()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)
