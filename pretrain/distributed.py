"""The ranks of a run: starting them up and what little they say to each other."""

import os
from typing import Any

import torch
import torch.distributed

from pipeline.devices import device_type
from pipeline.errors import StageError
from pipeline.executor import num_cores
from pretrain.cpu_settings import keep_freed_memory
from pretrain.ports import free_port


def start_ranks() -> torch.device:
    """Joins the ranks that the `deepspeed` launcher started; without it, there is one rank.

    Returns the device of this rank. On the CPU the ranks share out the cores, unless
    OMP_NUM_THREADS says how many each of them gets. Raises StageError where it should be a GPU that
    torch cannot use: DeepSpeed would take the CPU and say nothing.
    """
    for name, value in _single_rank_environment().items():
        os.environ.setdefault(name, value)
    kind = device_type(int(os.environ["LOCAL_RANK"]))
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # An empty list of ops: without it DeepSpeed looks for compilers and builds its shared-memory
    # extension, which only inference uses, so that a machine without a compiler could not train.
    deepspeed.ops.__compatible_ops__ = {}
    accelerator = get_accelerator()
    if kind == "cuda" and accelerator.device_name() != "cuda":
        raise StageError(f"DeepSpeed computes on {accelerator.device_name()} where a GPU is given")
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, num_cores() // int(os.environ.get("LOCAL_SIZE", "1"))))
        # DeepSpeed asks for fp16 instructions; without them PyTorch computes the same, slowly.
        accelerator.is_fp16_supported = lambda: True
        keep_freed_memory()
        device = torch.device("cpu")
    else:
        accelerator.set_device(local_rank)
        device = torch.device(accelerator.device_name(local_rank))
    deepspeed.init_distributed(verbose=False)
    return device


def leave_ranks() -> None:
    """Ends what `start_ranks` began; every rank must have come to its end."""
    torch.distributed.destroy_process_group()


def _single_rank_environment() -> dict[str, str]:
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def barrier() -> None:
    if world_size() > 1:
        torch.distributed.barrier()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of the ranks' tensors, in place."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def sum_numbers(*values: float) -> list[float]:
    """The sum over the ranks of each of a few numbers, on the host."""
    if world_size() == 1:
        return list(values)
    device = "cpu" if torch.distributed.get_backend() == "gloo" else "cuda"
    return sum_over_ranks(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def from_first_rank(value: Any) -> Any:
    """What rank 0 passed, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
