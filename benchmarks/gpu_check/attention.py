"""Section attention: time and memory by backend and length, alone and in our layers.

All lengths have the same number of tokens per batch, so that times show the cost of the length.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.correctness import synthetic_batch
from benchmarks.gpu_check.outcome import Check, Outcome, judged
from benchmarks.harness import seconds_of
from benchmarks.models import model_args
from benchmarks.sizes import HEAD_DIM, Size

LAYERS = 2
WINDOW = {"attention_window": 128, "global_attention_every": LAYERS}
REAL_SHARE = 0.75  # of padded rows
DOCUMENT = 128  # tokens of a document in packed rows
REPEATS = 10
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
LONGEST_MATH = 2048  # math stores [heads, length, length] weights


def checks(bench: Bench) -> Iterator[Check]:
    for length in bench.scale.lengths:
        yield f"layers {length}", partial(check_layers, bench, length)
    for length in bench.scale.lengths:
        yield f"backends {length}", partial(check_backends, bench, length)


def timed(bench: Bench, call: Callable[[], Any]) -> dict[str, float]:
    """Returns ms of the fastest call, and MB of its highest additional allocation."""
    for _ in range(2):
        call()
    bench.synchronize()
    before = torch.cuda.memory_allocated(bench.device) if bench.on_gpu else 0
    peak = bench.peak_bytes_of(call)
    repeats = range(REPEATS if bench.on_gpu else 1)
    times = [seconds_of(call, bench.synchronize) for _ in repeats]
    return {"ms": 1e3 * min(times), "mb": (peak - before) / 1e6}


def tried(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the result, or `why_not` with the error and its warnings."""
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            return make()
        except (RuntimeError, TypeError, ImportError) as error:
            told = [str(reason.message).split(" (Triggered")[0] for reason in reasons]
            return {"why_not": "; ".join([str(error).splitlines()[0], *told[:3]])}


def in_words(found: dict[str, dict[str, Any]]) -> str:
    return ", ".join(
        f"{name}: {one['why_not'][:60]}"
        if "why_not" in one
        else f"{name} {one['ms']:.2f} ms {one['mb']:,.0f} MB"
        for name, one in found.items()
    )


def check_layers(bench: Bench, length: int) -> Outcome:
    """Measures forward and backward pass of our layers: unpadded, padded, packed, with a window."""
    rows = max(1, bench.scale.tokens // length)
    plain, packed = (synthetic_batch(rows, length, n) for n in (1, max(2, length // DOCUMENT)))
    parts = {
        "unpadded": (plain, {}),
        "padded": (synthetic_batch(rows, length, 1, REAL_SHARE), {}),
        "packed": (packed, {}),
        "window": (plain, WINDOW),
        "packed window": (packed, WINDOW),
    }
    found = {name: tried(partial(_layers, bench, *part)) for name, part in parts.items()}
    problems = [f"{name}: {one['why_not']}" for name, one in found.items() if "why_not" in one]
    return judged(f"{rows} rows: {in_words(found)}", "; ".join(problems), **found)


def _layers(bench: Bench, batch: Any, flags: dict[str, Any]) -> dict[str, float]:
    from pretrain.engine.engine import compute_dtype
    from pretrain.model.model import BasePretrainModel

    args = model_args(Size(LAYERS, bench.scale.watched.hidden), 0.0, gated=True)
    vars(args).update(flags, max_seq_length=batch.input_ids.shape[1])
    model = BasePretrainModel(args).to(bench.device, compute_dtype(bench.precisions[-1]))
    inputs = batch.inputs(bench.device)
    parameters = list(model.encoder.layers.parameters())
    return timed(bench, lambda: torch.autograd.grad(model(*inputs), parameters))


def check_backends(bench: Bench, length: int) -> Outcome:
    """Measures torch's attention, forward and backward, by backend.

    Without a mask, with a bias for padding, and packed with variable lengths.
    """
    from pretrain.engine.engine import compute_dtype

    batch, heads = max(1, bench.scale.tokens // length), bench.scale.watched.heads
    dtype = compute_dtype(bench.precisions[-1])
    shape = batch, heads, length, HEAD_DIM
    query, key, value = (
        torch.randn(shape, device=bench.device, dtype=dtype).requires_grad_() for _ in range(3)
    )
    bias = torch.zeros(batch, 1, 1, length, device=bench.device, dtype=dtype)
    bias[..., int(REAL_SHARE * length) :] = torch.finfo(dtype).min
    found = {}
    for name, backend in BACKENDS.items():
        if name != "math" or length <= LONGEST_MATH:
            for kind, mask in (("", None), (" padded", bias)):
                call = partial(_attend, query, key, value, mask)
                found[name + kind] = by_backend(bench, call, backend)
    varlen = partial(_varlen, bench, query, max(2, length // DOCUMENT))
    found["varlen packed"] = tried(varlen)
    works = {name: one for name, one in found.items() if "why_not" not in one}
    needed = "efficient padded" if bench.on_gpu else "math padded"
    advice = "" if needed in works or length > LONGEST_MATH else f"{needed} does not work"
    if not works:
        return judged("no backend works", "see the numbers", **found)
    return judged(in_words(works), advice, **found)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.autograd.grad(attended.sum(), (query, key, value))


def by_backend(bench: Bench, call: Callable[[], None], backend: SDPBackend) -> dict[str, Any]:
    with sdpa_kernel(backend):
        return tried(partial(timed, bench, call))


def _varlen(bench: Bench, like: Tensor, num_documents: int) -> dict[str, float]:
    """Measures torch.nn.attention.varlen on rows of equal documents, laid end to end."""
    from torch.nn.attention.varlen import varlen_attn  # from torch 2.10 on

    batch, heads, length, head_dim = like.shape
    longest = math.ceil(length / num_documents)
    ends = [*range(0, batch * length, longest), batch * length]
    bounds = torch.tensor(ends, dtype=torch.int32, device=bench.device)
    shape = batch * length, heads, head_dim
    query, key, value = (
        torch.randn(shape, device=bench.device, dtype=like.dtype).requires_grad_() for _ in range(3)
    )

    def call() -> None:
        attended = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        torch.autograd.grad(attended.sum(), (query, key, value))

    return timed(bench, call)
