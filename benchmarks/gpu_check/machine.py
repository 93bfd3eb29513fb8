"""Is there a GPU that torch, DeepSpeed and NCCL can use, and does a rank start on it?"""

import os
import re
from pathlib import Path

import torch

from benchmarks.gpu_check.outcome import Outcome, failed, judged, passed
from benchmarks.gpu_check.runs import Bench
from pretrain.distributed import start_ranks


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


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", path.read_text())
    except OSError:
        found = None
    return found.group(1) if found else "unknown"


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
        "driver": driver_version(),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "nccl": _nccl_version(),
        "deepspeed_accelerator": get_accelerator().device_name(),
    }
    seen = (
        f"{gpu.name}, {numbers['memory_gb']} GB, capability {numbers['capability']}, "
        f"{numbers['gpus']} of them; torch {torch.__version__}, CUDA {torch.version.cuda}, driver "
        f"{numbers['driver']}, bf16 {'yes' if numbers['bf16'] else 'no'}, NCCL {numbers['nccl']}"
    )
    if numbers["deepspeed_accelerator"] != "cuda":
        return failed(seen, "DeepSpeed does not take the GPU: unset DS_ACCELERATOR", **numbers)
    if numbers["nccl"] == "none":
        return failed(seen, "install a build of torch that has NCCL, for Linux", **numbers)
    ones = torch.ones(8, 8, device=bench.device)
    (ones @ ones).sum().item()  # raises where torch has no kernels for this GPU
    return passed(seen, **numbers)


def _nccl_version() -> str:
    if not torch.distributed.is_nccl_available():
        return "none"
    return ".".join(map(str, torch.cuda.nccl.version()))


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
