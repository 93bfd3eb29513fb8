"""Does torch take the kernels that are fast: for attention, and for the optimizer's step?"""

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.contestants import HEAD_DIM, LENGTH
from benchmarks.gpu_check.outcome import Outcome, judged
from benchmarks.gpu_check.runs import Bench, watch_steps
from pretrain.dropout import attention

FUSED_OPERATOR = "aten::_fused_adamw_"
FUSED_KERNEL = re.compile(r"fused_?(adam|optimizer)", re.IGNORECASE)

# --- attention ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attending:
    """Attention as a layer calls it, forward and backward, on random numbers.

    qkv: [batch, length, 3, heads, head_dim]; mask: bool, as pretrain.dropout.attention takes it.
    """

    qkv: torch.Tensor
    mask: torch.Tensor | None
    dropout: float

    def __call__(self) -> None:
        query, key, value = self.qkv.permute(2, 0, 3, 1, 4)
        attended = attention(query, key, value, self.mask, self.dropout)
        torch.autograd.grad(attended.sum(), self.qkv)


def attending_cases(bench: Bench, dtype: torch.dtype, dropout: float) -> dict[str, Attending]:
    """Batches without padding, with it, and packed with two samples a row."""
    shape = bench.batch, LENGTH, 3, bench.size.heads, HEAD_DIM
    qkv = torch.randn(shape, device=bench.device, dtype=dtype).requires_grad_()
    real = torch.ones(bench.batch, LENGTH, dtype=torch.bool, device=bench.device)
    real[:, LENGTH * 3 // 4 :] = False
    sample = torch.arange(LENGTH, device=bench.device).expand(bench.batch, -1) >= LENGTH // 2
    same = sample[:, None, :, None] == sample[:, None, None, :]
    return {
        "unpadded": Attending(qkv, None, dropout),
        "padded": Attending(qkv, real[:, None, None], dropout),
        "packed": Attending(qkv, same, dropout),
    }


def backend_of(attending: Attending) -> str:
    """The one that torch takes by itself: flash, efficient, cudnn, math, ..."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attending()
    names = " ".join(event.key for event in profile.key_averages())
    found = re.findall(r"aten::_scaled_dot_product_(?:attention_)?([a-z]+)\w*", names)
    return found[0] if found else "none"


def forced_seconds(bench: Bench, attending: Attending, backend: SDPBackend) -> tuple[float, str]:
    """Seconds of forward and backward by that backend, or nan and why it cannot."""
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(backend):
                return _seconds(bench, attending), ""
        except RuntimeError as error:
            told = [str(reason.message).split(" (Triggered")[0] for reason in reasons]
            return float("nan"), "; ".join([str(error).splitlines()[0], *told[:3]])


def _seconds(bench: Bench, call: Callable[[], None], repeats: int = 20) -> float:
    """Mean of a call, after some to warm up."""
    for _ in range(3):
        call()
    bench.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    bench.synchronize()
    return (time.perf_counter() - begin) / repeats


def check_attention(bench: Bench) -> Outcome:
    """Which backend attention takes, that those for the case work, and their speed."""
    has_flash = torch.cuda.get_device_capability(bench.device) >= (8, 0)
    told, problems, numbers = [], [], {}
    for name, attending in attending_cases(bench, torch.float16, dropout=0.1).items():
        fast = has_flash and attending.mask is None  # flash attention takes no mask
        backend = SDPBackend.FLASH_ATTENTION if fast else SDPBackend.EFFICIENT_ATTENTION
        short = "flash" if fast else "efficient"
        taken = backend_of(attending)
        seconds, reason = forced_seconds(bench, attending, backend)
        math, _ = forced_seconds(bench, attending, SDPBackend.MATH)
        numbers[name] = {"taken": taken, "math": math}
        if reason:
            problems.append(f"{name}: {short} does not work: {reason}")
            continue
        numbers[name][short] = seconds
        told.append(f"{name}: takes {taken}, {short} is {math / seconds:.1f} times math")
        if taken not in ("flash", "efficient", "cudnn"):
            problems.append(f"{name} takes {taken}, though {short} works")
    if not has_flash:
        told.append("flash needs capability 8.0")
    return judged("; ".join(told), "; ".join(problems), **numbers)


# --- the optimizer -----------------------------------------------------------------------------


def check_optimizer(bench: Bench) -> Outcome:
    """AdamW updates all weights in one kernel."""
    profile = torch.profiler.profile()  # of the host and, where there is one, the GPU
    optimizer = watch_steps(bench, "optimizer", profile).engine.optimizer
    groups = getattr(optimizer, "optimizer", optimizer).param_groups
    num_fused = sum(bool(group.get("fused")) for group in groups)
    events = profile.key_averages()
    kernels = {e.key: e.self_device_time_total for e in events if _is_kernel(e)}
    calls = sum(event.count for event in events if event.key == FUSED_OPERATOR)
    calls /= bench.watched_steps
    fused = [name for name in kernels if FUSED_KERNEL.search(name)]
    seen = (
        f"{num_fused} of {len(groups)} groups are fused, {calls:g} calls a step of "
        f"{FUSED_OPERATOR}; {_kernels_in_words(kernels, fused)}"
    )
    works = num_fused == len(groups) and calls and (fused or not kernels)
    advice = "" if works else "see pretrain/optimizers.py, FUSED_DEVICES"
    return judged(seen, advice, calls=calls, kernel=fused, kernels=_longest(kernels))


def _is_kernel(event) -> bool:
    on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
    return on_gpu and not event.is_user_annotation  # such as Optimizer.step


def _longest(kernels: dict[str, float], count: int = 12) -> dict[str, float]:
    """Share of the time of all kernels, of those that take the most."""
    total = sum(kernels.values()) or 1.0
    longest = sorted(kernels, key=kernels.__getitem__, reverse=True)[:count]
    return {name: round(kernels[name] / total, 4) for name in longest}


def _kernels_in_words(kernels: dict[str, float], fused: list[str]) -> str:
    if not kernels:
        return "the profiler shows no kernels here"
    share = sum(kernels[name] for name in fused) / (sum(kernels.values()) or 1.0)
    return f"{len(fused)} fused kernels take {share:.1%} of the GPU's time"
