"""Idle share and longest kernels of the GPU, from torch's profiler."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench

MOST_KERNELS = 10


def profiled(call: Callable[[], None], bench: Bench) -> dict[str, Any]:
    """Profiles a call. idle_share: None without a GPU; kernels: shares of the GPU's busy time."""
    with torch.profiler.profile() as profile:
        call()
        bench.synchronize()
    kernels = [event for event in profile.events() if _is_kernel(event)]
    times: Counter[str] = Counter()
    for event in kernels:
        times[event.name] += event.time_range.end - event.time_range.start
    total = times.total() or 1.0
    longest = {name: round(time / total, 4) for name, time in times.most_common(MOST_KERNELS)}
    spans = [(event.time_range.start, event.time_range.end) for event in kernels]
    return {"idle_share": idle_share(spans), "kernels": longest, "num_kernels": len(kernels)}


def _is_kernel(event: Any) -> bool:
    on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
    return on_gpu and not event.is_user_annotation  # such as Optimizer.step


def idle_share(spans: Iterable[tuple[float, float]]) -> float | None:
    """Returns the share of uncovered time between the first start and the last end."""
    ordered = sorted(spans)
    if not ordered:
        return None
    begin = covered_until = ordered[0][0]
    busy = 0.0
    for start, end in ordered:
        busy += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return 1 - busy / (covered_until - begin) if covered_until > begin else 0.0
