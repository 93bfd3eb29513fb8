"""Section attention: time and memory by backend and length, alone and in our layers.

Tokens per batch are the same at all lengths, so that each time beside the one at 128 tokens tells
what a length costs.
"""

import math
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.correctness import synthetic_batch
from benchmarks.gpu_check.outcome import Check, Outcome, failed, judged
from benchmarks.models import model_args
from benchmarks.sizes import HEAD_DIM, Size
from pretrain.engine.engine import compute_dtype
from pretrain.flags import build_parser
from pretrain.model.model import BasePretrainModel
from pretrain.training.data_loader import MicroBatch

LAYERS = 2
WINDOW = 128
REAL_SHARE = 0.75  # of padded rows
DOCUMENT = 128  # tokens of a document in packed rows
REPEATS = 10
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
# A bias of [1, 1, length, length] in half precision; math keeps weights of all heads.
LONGEST_MATH = 2048


def checks(bench: Bench) -> Iterator[Check]:
    for length in bench.scale.lengths:
        yield f"layers {length}", partial(check_layers, bench, length)
    for length in bench.scale.lengths:
        yield f"backends {length}", partial(check_backends, bench, length)


def timed(bench: Bench, call: Callable[[], None]) -> dict[str, float]:
    """ms: of a call, the fastest of some; mb: that it allocates at most, besides what is there."""
    for _ in range(2):
        call()
    bench.synchronize()
    before = torch.cuda.memory_allocated(bench.device) if bench.on_gpu else 0
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    times = []
    for _ in range(REPEATS if bench.on_gpu else 1):
        bench.synchronize()
        begin = time.perf_counter()
        call()
        bench.synchronize()
        times.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated(bench.device) - before if bench.on_gpu else 0
    return {"ms": 1e3 * min(times), "mb": peak / 1e6}


def in_words(name: str, found: dict[str, Any]) -> str:
    if "why_not" in found:
        return f"{name}: {found['why_not'][:60]}"
    return f"{name} {found['ms']:.2f} ms {found['mb']:,.0f} MB"


# --- our layers --------------------------------------------------------------------------------


def check_layers(bench: Bench, length: int) -> Outcome:
    """Forward and backward of LAYERS of our layers: unpadded, padded, packed and with a window."""
    rows = max(1, bench.scale.tokens // length)
    parts = {
        "unpadded": (synthetic_batch(rows, length), {}),
        "padded": (synthetic_batch(rows, length, 1, REAL_SHARE), {}),
        "packed": (synthetic_batch(rows, length, max(2, length // DOCUMENT)), {}),
    }
    if window := window_flags():
        parts["window"] = (parts["unpadded"][0], window)
        parts["packed window"] = (parts["packed"][0], window)
    found = {name: _layers(bench, *part) for name, part in parts.items()}
    problems = [f"{name}: {one['why_not']}" for name, one in found.items() if "why_not" in one]
    told = [in_words(name, one) for name, one in found.items()]
    return judged(f"{rows} rows: {', '.join(told)}", "; ".join(problems), **found)


def window_flags() -> dict[str, Any]:
    """Flags of a model all of whose layers but the first have a window; empty if it knows none."""
    if not hasattr(build_parser().parse_args([]), "attention_window"):
        return {}
    return {"attention_window": WINDOW, "global_attention_every": LAYERS}


def _layers(bench: Bench, batch: MicroBatch, flags: dict[str, Any]) -> dict[str, Any]:
    size = bench.scale.watched
    args = model_args(Size(LAYERS, size.hidden), 0.0, gated=True)
    vars(args).update(flags, max_seq_length=batch.input_ids.shape[1])
    try:
        return timed(bench, _pass_of(bench, args, batch))
    except RuntimeError as error:  # of memory, say
        return {"why_not": str(error).splitlines()[0]}


def _pass_of(bench: Bench, args: Namespace, batch: MicroBatch) -> Callable[[], None]:
    dtype = compute_dtype(bench.precisions[-1])
    model = BasePretrainModel(args).to(bench.device, dtype)
    inputs = batch.inputs(bench.device)
    parameters = list(model.encoder.layers.parameters())

    def call() -> None:
        torch.autograd.grad(model(*inputs), parameters)

    return call


# --- torch's backends --------------------------------------------------------------------------


def check_backends(bench: Bench, length: int) -> Outcome:
    """Forward and backward of torch's attention alone, by each backend that torch can be told to
    take: without a mask, with a bias for padding, and packed by variable lengths."""
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
    found["varlen packed"] = _varlen(bench, query, max(2, length // DOCUMENT))
    works = {name: one for name, one in found.items() if "why_not" not in one}
    told = ", ".join(in_words(name, one) for name, one in works.items())
    if not works:
        return failed("no backend works", "see the numbers", **found)
    needed = "efficient padded" if bench.on_gpu else "math padded"
    advice = "" if needed in works or length > LONGEST_MATH else f"{needed} does not work"
    return judged(told, advice, **found)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.autograd.grad(attended.sum(), (query, key, value))


def by_backend(bench: Bench, call: Callable[[], None], backend: SDPBackend) -> dict[str, Any]:
    """Time and memory with that backend, or why_not: why it cannot."""
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(backend):
                return timed(bench, call)
        except RuntimeError as error:
            told = [str(reason.message).split(" (Triggered")[0] for reason in reasons]
            return {"why_not": "; ".join([str(error).splitlines()[0], *told[:3]])}


def _varlen(bench: Bench, like: Tensor, num_documents: int) -> dict[str, Any]:
    """torch.nn.attention.varlen on rows of equal documents, laid end to end."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return {"why_not": f"torch {torch.__version__} has no torch.nn.attention.varlen"}
    batch, heads, length, head_dim = like.shape
    longest = math.ceil(length / num_documents)
    ends = [*range(0, batch * length, longest), batch * length]
    bounds = torch.tensor(ends, dtype=torch.int32, device=bench.device)
    query, key, value = (
        torch.randn(
            batch * length, heads, head_dim, device=bench.device, dtype=like.dtype
        ).requires_grad_()
        for _ in range(3)
    )

    def call() -> None:
        attended = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        torch.autograd.grad(attended.sum(), (query, key, value))

    try:
        return timed(bench, call)
    except (RuntimeError, TypeError) as error:  # NotImplementedError is the former
        return {"why_not": str(error).splitlines()[0]}
