"""What a training step computes, and how fast the machine could compute it at most.

Counted are the matrix products, two operations per multiplication and addition, that forward and
backward pass need. What gradient checkpointing computes twice counts once, so that the share of the
peak tells how fast a run learns.
"""

import time
from argparse import Namespace
from collections.abc import Callable

import torch

from pretrain.kernels.linear import linear

# Each product of the forward pass has two of its size in the backward pass: the gradients of both
# of its factors.
PASSES = 3
CPU_SIZE, ACCELERATOR_SIZE = 1024, 8192  # rows and columns; larger ones are no faster
MIN_REPEATS = 3


def training_flops(
    args: Namespace,
    num_sequences: int,
    num_tokens_per_sequence: int,
    num_predictions: int,
    num_pairs: int | None = None,
) -> float:
    """Floating point operations to train on that many sequences, padding included.

    args: a namespace with hidden_size, num_hidden_layers, intermediate_size, glu, attention_window,
    global_attention_every, vocab_size and pad_vocab_to_multiple_of; for another model_type than
    ours it is an estimate. num_predictions: of all sequences together. num_pairs: of tokens that
    attend to each other where there is no window; None: all of each sequence do.
    """
    num_tokens = num_sequences * num_tokens_per_sequence
    if num_pairs is None:
        num_pairs = num_tokens * num_tokens_per_sequence
    weights = args.num_hidden_layers * num_tokens * 2 * _layer_weights(args)
    head = num_predictions * 2 * _head_weights(args)
    return float(PASSES * (weights + _attention_flops(args, num_tokens, num_pairs) + head))


def _layer_weights(args: Namespace) -> int:
    """Elements of a layer's matrices: queries, keys, values, output, and the feed-forward part."""
    num_matrices = 3 if args.glu else 2
    return args.hidden_size * (4 * args.hidden_size + num_matrices * args.intermediate_size)


def _attention_flops(args: Namespace, num_tokens: int, num_pairs: int) -> int:
    """Of all layers: a query with a key, and a weight with a value, for each pair.

    With a window, at most: not all documents are as long as it is.
    """
    window, layers = args.attention_window, args.num_hidden_layers
    num_global = -(-layers // args.global_attention_every) if window else layers
    num_near = min(num_pairs, num_tokens * (window + 1))
    pairs = num_global * num_pairs + (layers - num_global) * num_near
    return 2 * 2 * pairs * args.hidden_size


def _head_weights(args: Namespace) -> int:
    multiple = args.pad_vocab_to_multiple_of
    num_logits = -(-args.vocab_size // multiple) * multiple
    return args.hidden_size * (args.hidden_size + num_logits)


def model_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left right^T, as the model computes it."""
    return linear(left, right, None)


def matmul_peak(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float = 0.3,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = model_product,
) -> float:
    """FLOP/s of the fastest of many products of two square matrices, tried for that long."""
    size = CPU_SIZE if device.type == "cpu" else ACCELERATOR_SIZE
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / _fastest(lambda: product(left, right), device, seconds)


def _fastest(compute: Callable[[], torch.Tensor], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call; the first one, which may load libraries, does not count."""
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
