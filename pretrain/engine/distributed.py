"""The ranks of a run: starting them up and what little they say to each other.

Numbers that the host has go over gloo, also where gradients go over NCCL: the host would have to
wait for the GPU twice to send them that way.
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

# This process' part in what torch.distributed keeps for it, until `leave_ranks`.
_host_group: torch.distributed.ProcessGroup | None = None  # None: torch's default group
_peers: Peers | None = None  # None: there is one rank


def start_ranks() -> torch.device:
    """Joins the ranks that the `deepspeed` launcher started; without it, there is one rank.

    Returns the device of this rank. On the CPU the ranks share out the cores, unless
    OMP_NUM_THREADS says how many each of them gets. Of several ranks, one that ends before
    `leave_ranks` takes the others with it. Raises StageError where the device should be a GPU that
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
    _join()
    return device


def _join() -> None:
    """Meets the other ranks."""
    import deepspeed

    global _host_group, _peers
    on_several_servers = os.environ.get("LOCAL_SIZE", "1") != os.environ["WORLD_SIZE"]
    if on_several_servers and (interface := interface_to(os.environ["MASTER_ADDR"])):
        # gloo would take the address of this server's name, which may be 127.0.1.1.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    patience = timedelta(seconds=FOR_OTHER_RANKS)
    # NCCL's own watchdog would end a rank that hangs before it has written its stacks.
    os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(FOR_OTHER_RANKS))
    deepspeed.init_distributed(verbose=False, timeout=patience)
    # DeepSpeed reduces gradients in groups of its own, and would leave torch's time limit to them.
    deepspeed.comm.comm.cdb.new_group = partial(torch.distributed.new_group, timeout=patience)
    if world_size() == 1:
        return
    if torch.distributed.get_backend() != "gloo":
        _host_group = torch.distributed.new_group(timeout=patience, backend="gloo")
    _peers = connect_ranks(rank(), world_size(), from_first_rank)


def leave_ranks() -> None:
    """Ends what `start_ranks` began, when every rank has come to its end.

    When one has left after a signal, the launcher soon kills those that still save something.
    """
    import deepspeed

    global _host_group, _peers
    barrier()
    if _peers:
        _peers.leave()
    _host_group = _peers = None
    deepspeed.comm.destroy_process_group()  # which forgets its own groups too


def finish_before_ending(finish: Callable[[], None]) -> None:
    """Has `finish` called, in a thread, if this rank ends because another has died."""
    if _peers:
        _peers.finish = finish


def let_the_first_to_end_be_seen() -> None:
    """For a rank that has failed. Does not return if it failed because another has died."""
    if _peers:
        _peers.let_the_first_to_end_be_seen()


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
    """Waits for the other ranks; not for their GPUs."""
    sum_numbers(0.0)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of the ranks' tensors, in place."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The ranks' tensors, of one shape, behind each other along the first dimension."""
    gathered = tensor.new_empty((world_size() * len(tensor), *tensor.shape[1:]))
    torch.distributed.all_gather_into_tensor(gathered, tensor)
    return gathered


def sum_numbers(*values: float) -> list[float]:
    """The sum over the ranks of each of a few numbers that the host has; no GPU is waited for."""
    if world_size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(sums, group=_host_group)
    return sums.tolist()


def from_first_rank(value: Any) -> Any:
    """What rank 0 passed, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(
        values, src=0, group=_host_group, device=torch.device("cpu")
    )
    return values[0]
