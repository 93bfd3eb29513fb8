"""Section machine: the driver, torch and the card, and whether they do what the data sheet says."""

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.cards import Card, find_card
from benchmarks.gpu_check.outcome import Check, Outcome, failed, judged, passed
from pipeline.environment import pinned_requirements
from pipeline.runtime.nvidia import read_system
from pretrain.engine.distributed import start_ranks
from pretrain.training.flops import matmul_peak

# Of what the data sheet promises. Less than this has another reason than the card's power limit.
LEAST_SHARE = 0.5
COPY_BYTES = 1 << 30
SECONDS = 0.5
SLOW = "is another program on the GPU, or its clock low? `nvidia-smi -q -d CLOCK,PERFORMANCE`"


def why_no_gpu() -> str:
    """Why there is nothing to check; empty if there is a GPU."""
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
    yield "device", partial(check_device if bench.on_gpu else check_processor, bench)
    yield "packages", check_packages
    yield "matmul", partial(check_matmul, bench)
    yield "bandwidth", partial(check_bandwidth, bench)
    yield "start", partial(check_start, bench)


# --- what is there -----------------------------------------------------------------------------


def check_device(bench: Bench) -> Outcome:
    """Name, memory and versions; whether torch and DeepSpeed were made for this GPU."""
    from deepspeed.accelerator import get_accelerator

    gpu = torch.cuda.get_device_properties(bench.device)
    numbers = {
        "name": gpu.name,
        "memory_gb": round(gpu.total_memory / 1e9, 1),
        "capability": f"{gpu.major}.{gpu.minor}",
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "arch_list": torch.cuda.get_arch_list(),
        "driver": read_system().driver or "unknown",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "nccl": _nccl_version(),
        "cudnn": torch.backends.cudnn.version(),
        "deepspeed_accelerator": get_accelerator().device_name(),
    }
    seen = (
        f"{gpu.name}, {numbers['memory_gb']} GB, capability {numbers['capability']}, "
        f"{numbers['gpus']} of them; torch {torch.__version__} for CUDA {torch.version.cuda} "
        f"({' '.join(numbers['arch_list'])}), driver {numbers['driver']}, "
        f"bf16 {'yes' if numbers['bf16'] else 'no'}, NCCL {numbers['nccl']}"
    )
    if numbers["deepspeed_accelerator"] != "cuda":
        return failed(seen, "DeepSpeed does not take the GPU: unset DS_ACCELERATOR", **numbers)
    if numbers["nccl"] == "none":
        return failed(seen, "install a build of torch that has NCCL, for Linux", **numbers)
    ones = torch.ones(8, 8, device=bench.device)
    (ones @ ones).sum().item()  # raises where torch has no kernels for this GPU
    return passed(seen, **numbers)


def check_processor(bench: Bench) -> Outcome:
    return passed(f"the CPU, {os.cpu_count()} cores; torch {torch.__version__}; only a rehearsal")


def _nccl_version() -> str:
    if not torch.distributed.is_nccl_available():
        return "none"
    return ".".join(map(str, torch.cuda.nccl.version()))


def check_packages() -> Outcome:
    """Versions of the packages that this project needs; those that are not the tested ones."""
    pins = pinned_requirements()
    versions = {name: _version(name) for name in pins}
    others = [
        f"{name} {version} (tested: {pins[name]})"
        for name, version in versions.items()
        if version.partition("+")[0] != pins[name]
    ]
    return passed("; ".join(others) or "all as tested", **versions)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


# --- what it can do ----------------------------------------------------------------------------


def check_matmul(bench: Bench) -> Outcome:
    """TFLOP/s of large matrix products in each precision, beside the data sheet's."""
    card = _card(bench)
    sheet = {"fp16": card.half, "bf16": card.half, "tf32": card.tf32, "fp32": card.fp32}
    has_bf16 = not bench.on_gpu or "bf16" in bench.precisions
    measures: dict[str, Callable[[], float]] = {
        "fp16": partial(_peak, bench, torch.float16),
        **({"bf16": partial(_peak, bench, torch.bfloat16)} if has_bf16 else {}),
        **({"tf32": partial(_tf32_peak, bench)} if card.tf32 else {}),
        "fp32": partial(_peak, bench, torch.float32),
    }
    found = {name: measure() / 1e12 for name, measure in measures.items()}
    told = [f"{name} {value:,.1f}{_of(value, sheet[name])}" for name, value in found.items()]
    slow = [name for name, value in found.items() if value < LEAST_SHARE * sheet[name]]
    seen = f"{', '.join(told)} TFLOP/s{f'; data sheet of {card.name}' if card.half else ''}"
    return judged(seen, f"{', '.join(slow)}: {SLOW}" if slow else "", **found, sheet=sheet)


def _card(bench: Bench) -> Card:
    """The data sheet, of zeros for an unknown card."""
    name = torch.cuda.get_device_name(bench.device) if bench.on_gpu else "CPU"
    return find_card(name) or Card(name, 0, 0, 0, 0)


def _of(value: float, promised: float) -> str:
    return f" ({value / promised:.0%} of {promised:g})" if promised else ""


def _peak(bench: Bench, dtype: torch.dtype) -> float:
    seconds = SECONDS if bench.on_gpu else 0.05
    return matmul_peak(bench.device, dtype, seconds, lambda left, right: left @ right.mT)


def _tf32_peak(bench: Bench) -> float:
    settings = torch.backends.cuda.matmul
    before, settings.allow_tf32 = settings.allow_tf32, True
    try:
        return _peak(bench, torch.float32)
    finally:
        settings.allow_tf32 = before


def check_bandwidth(bench: Bench) -> Outcome:
    """GB/s, read and written, of a copy within the card's memory."""
    size = COPY_BYTES if bench.on_gpu else COPY_BYTES >> 6
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target, times, end = torch.empty_like(source), [], time.perf_counter() + SECONDS / 2
    while len(times) < 4 or time.perf_counter() < end:
        bench.synchronize()
        begin = time.perf_counter()
        target.copy_(source)
        bench.synchronize()
        times.append(time.perf_counter() - begin)
    found, sheet = 2 * size / min(times) / 1e9, _card(bench).bandwidth
    slow = found < LEAST_SHARE * sheet
    seen = f"{found:,.0f}{_of(found, sheet)} GB/s"
    return judged(seen, SLOW if slow else "", gb_per_second=found, sheet=sheet)


def check_start(bench: Bench) -> Outcome:
    """One rank starts as the launcher's ranks do, and adds up a number over all of one."""
    device = start_ranks()
    total = torch.ones(1, device=device)
    torch.distributed.all_reduce(total)
    works = device.type == bench.device.type and total.item() == 1
    seen = f"rank 0 is on {device}, by {torch.distributed.get_backend()}"
    if not works:
        seen += f"; the sum of one 1 is {total.item():g}"
    return judged(seen, "" if works else "see NCCL_DEBUG=INFO")
