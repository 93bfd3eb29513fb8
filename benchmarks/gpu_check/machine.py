"""Section machine: driver, torch and card, and their speed beside the data sheet."""

import importlib.metadata
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.cards import Card, find_card
from benchmarks.gpu_check.outcome import Check, Outcome, judged
from benchmarks.harness import seconds_of
from pretrain.training.flops import matmul_peak

# Of the data sheet's figures; a lower share has other causes than the card's power limit.
LEAST_SHARE = 0.5
COPY_BYTES = 1 << 30
SECONDS = 0.5
SLOW = "is another program on the GPU, or its clock low? `nvidia-smi -q -d CLOCK,PERFORMANCE`"


def why_no_gpu() -> str:
    """Says why torch has no GPU; empty if it has one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install the build for it, as "
            "https://pytorch.org/get-started/locally says"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
    return f"torch sees no GPU; does nvidia-smi show one?{hint}"


def checks(bench: Bench) -> Iterator[Check]:
    yield "device", partial(check_device, bench)
    yield "packages", check_packages
    yield "matmul", partial(check_matmul, bench)
    yield "bandwidth", partial(check_bandwidth, bench)


# --- versions ----------------------------------------------------------------------------------


def check_device(bench: Bench) -> Outcome:
    """torch and DeepSpeed have kernels for this GPU."""
    from deepspeed.accelerator import get_accelerator

    from pipeline.runtime.nvidia import read_system

    if not bench.on_gpu:
        return judged(f"the CPU, {os.cpu_count()} cores; torch {torch.__version__}; a rehearsal")
    gpu = torch.cuda.get_device_properties(bench.device)
    has_nccl = torch.distributed.is_nccl_available()
    numbers = {
        "name": gpu.name,
        "memory_gb": round(gpu.total_memory / 1e9, 1),
        "capability": f"{gpu.major}.{gpu.minor}",
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "arch_list": " ".join(torch.cuda.get_arch_list()),
        "driver": read_system().driver or "unknown",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else "none",
        "cudnn": torch.backends.cudnn.version(),
        "deepspeed_accelerator": get_accelerator().device_name(),
    }
    seen = ", ".join(f"{name} {value}" for name, value in numbers.items())
    if numbers["deepspeed_accelerator"] != "cuda":
        return judged(seen, "DeepSpeed does not take the GPU: unset DS_ACCELERATOR", **numbers)
    if not has_nccl:
        return judged(seen, "install a build of torch that has NCCL, for Linux", **numbers)
    ones = torch.ones(8, 8, device=bench.device)
    (ones @ ones).sum().item()  # raises if torch has no kernels for this GPU
    return judged(seen, **numbers)


def check_packages() -> Outcome:
    """Compares the versions of the packages with the tested ones."""
    from pipeline.environment import pinned_requirements

    pins, versions = pinned_requirements(), {}
    for name in pins:
        versions[name] = "none"
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    others = [
        f"{name} {version} (tested: {pins[name]})"
        for name, version in versions.items()
        if version.partition("+")[0] != pins[name]
    ]
    return judged("; ".join(others) or "all as tested", **versions)


# --- speeds ------------------------------------------------------------------------------------


def check_matmul(bench: Bench) -> Outcome:
    """TFLOP/s of large matrix products in each precision reach the data sheet's half."""
    card = _card(bench)
    sheet = {"fp16": card.half, "bf16": card.half, "tf32": card.tf32, "fp32": card.fp32}
    found = {"fp16": _peak(bench, torch.float16)}
    if not bench.on_gpu or "bf16" in bench.precisions:
        found["bf16"] = _peak(bench, torch.bfloat16)
    if card.tf32:
        settings = torch.backends.cuda.matmul
        before, settings.allow_tf32 = settings.allow_tf32, True
        try:
            found["tf32"] = _peak(bench, torch.float32)
        finally:
            settings.allow_tf32 = before
    found["fp32"] = _peak(bench, torch.float32)
    told = [f"{name} {value:,.1f}{_of(value, sheet[name])}" for name, value in found.items()]
    slow = [name for name, value in found.items() if value < LEAST_SHARE * sheet[name]]
    seen = f"{', '.join(told)} TFLOP/s{f'; data sheet of {card.name}' if card.half else ''}"
    return judged(seen, f"{', '.join(slow)}: {SLOW}" if slow else "", **found, sheet=sheet)


def _card(bench: Bench) -> Card:
    """Returns the data sheet, with zeros for an unknown card."""
    name = torch.cuda.get_device_name(bench.device) if bench.on_gpu else "CPU"
    return find_card(name) or Card(name, 0, 0, 0, 0)


def _of(value: float, promised: float) -> str:
    return f" ({value / promised:.0%} of {promised:g})" if promised else ""


def _peak(bench: Bench, dtype: torch.dtype) -> float:
    seconds = SECONDS if bench.on_gpu else 0.05
    peak = matmul_peak(bench.device, dtype, seconds, lambda left, right: left @ right.mT)
    return peak / 1e12


def check_bandwidth(bench: Bench) -> Outcome:
    """GB/s, read and written, of a copy within the card's memory reach the data sheet's half."""
    size = COPY_BYTES if bench.on_gpu else COPY_BYTES >> 6
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    copy = partial(torch.empty_like(source).copy_, source)
    times: list[float] = []
    end = time.perf_counter() + SECONDS / 2
    while len(times) < 4 or time.perf_counter() < end:
        times.append(seconds_of(copy, bench.synchronize))
    found, sheet = 2 * size / min(times) / 1e9, _card(bench).bandwidth
    slow = found < LEAST_SHARE * sheet
    seen = f"{found:,.0f}{_of(found, sheet)} GB/s"
    return judged(seen, SLOW if slow else "", gb_per_second=found, sheet=sheet)
