"""The ranks of a run: start, end and communication.

Numbers on the host go over gloo, even if gradients go over NCCL: that would need two waits for the
GPU.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed

from pipeline.errors import StageError
from pipeline.runtime.devices import device_type
from pipeline.runtime.executor import num_cores
from pretrain.engine.peers import Peers, connect_ranks
from pretrain.engine.ports import free_port, interface_to
from pretrain.engine.time_limits import FOR_OTHER_RANKS
from pretrain.kernels.cpu_settings import keep_freed_memory

# From `start_ranks` to `leave_ranks`.
_host_group: torch.distributed.ProcessGroup | None = None  # None: torch's default group
_peers: Peers | None = None  # None: a single rank


def start_ranks() -> torch.device:
    """Joins the ranks of the `deepspeed` launcher, or makes a single rank without it.

    Returns the device of this rank. On the CPU the ranks divide the cores, unless OMP_NUM_THREADS
    is set. If a rank ends before `leave_ranks`, so do the others. Raises StageError for a GPU that
    torch cannot use: DeepSpeed would silently take the CPU.
    """
    for name in ("RANK", "LOCAL_RANK"):
        os.environ.setdefault(name, "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    kind = device_type(int(os.environ["LOCAL_RANK"]))
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed would look for compilers and build its shared-memory extension for inference, and
    # fail on machines without a compiler.
    deepspeed.ops.__compatible_ops__ = {}
    accelerator = get_accelerator()
    if kind == "cuda" and accelerator.device_name() != "cuda":
        raise StageError(f"DeepSpeed computes on {accelerator.device_name()} where a GPU is given")
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, num_cores() // int(os.environ.get("LOCAL_SIZE", "1"))))
        # DeepSpeed demands fp16 instructions; PyTorch emulates them, slowly.
        accelerator.is_fp16_supported = lambda: True
        keep_freed_memory()
        device = torch.device("cpu")
    else:
        accelerator.set_device(local_rank)
        device = torch.device(accelerator.device_name(local_rank))
    _join()
    return device


def _join() -> None:
    """Connects to the other ranks."""
    import deepspeed

    global _host_group, _peers
    on_several_servers = os.environ.get("LOCAL_SIZE", "1") != os.environ["WORLD_SIZE"]
    if on_several_servers and (interface := interface_to(os.environ["MASTER_ADDR"])):
        # gloo would resolve this server's name, possibly to 127.0.1.1.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    patience = timedelta(seconds=FOR_OTHER_RANKS)
    # NCCL's watchdog would end a hanging rank before it has written its stacks.
    os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(FOR_OTHER_RANKS))
    deepspeed.init_distributed(verbose=False, timeout=patience)
    # DeepSpeed's own groups, for gradients, would have torch's default time limit.
    deepspeed.comm.comm.cdb.new_group = partial(torch.distributed.new_group, timeout=patience)
    if world_size() == 1:
        return
    if torch.distributed.get_backend() != "gloo":
        _host_group = torch.distributed.new_group(timeout=patience, backend="gloo")
    _peers = connect_ranks(rank(), world_size(), from_first_rank)


def leave_ranks() -> None:
    """Waits for all ranks, then undoes `start_ranks`.

    The launcher kills the other ranks soon after one has left on a signal, even while they save.
    """
    import deepspeed

    global _host_group, _peers
    barrier()
    if _peers:
        _peers.leave()
    _host_group = _peers = None
    deepspeed.comm.destroy_process_group()  # resets DeepSpeed's groups, too


def finish_before_ending(finish: Callable[[], None]) -> None:
    """Sets a function to call, in a thread, before this rank ends because another has died."""
    if _peers:
        _peers.finish = finish


def wait_for_earlier_death() -> None:
    """Waits briefly after a failure; does not return if another rank died before."""
    if _peers:
        _peers.wait_for_earlier_death()


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def barrier() -> None:
    """Waits for the other ranks, but not for their GPUs."""
    sum_numbers(0.0)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sums a tensor over the ranks, in place; returns it."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the ranks' tensors, of one shape, concatenated along the first dimension."""
    gathered = tensor.new_empty((world_size() * len(tensor), *tensor.shape[1:]))
    torch.distributed.all_gather_into_tensor(gathered, tensor)
    return gathered


def sum_numbers(*values: float) -> list[float]:
    """Returns the sum over the ranks of each number, without a wait for the GPU."""
    if world_size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(sums, group=_host_group)
    return sums.tolist()


def from_first_rank(value: Any) -> Any:
    """Broadcasts the value of rank 0."""
    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(
        values, src=0, group=_host_group, device=torch.device("cpu")
    )
    return values[0]
