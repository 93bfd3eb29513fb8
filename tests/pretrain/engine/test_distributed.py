"""Numbers of the host go over gloo where the ranks' own group is another one, as with GPUs."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from pretrain.engine import distributed
from pretrain.engine.ports import free_port
from tests.forked import start_ranks


def exchange():
    """On a rank whose default group moves nothing, as NCCL moves nothing that is not on a GPU."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 (registers the backend)

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def init_distributed(verbose, timeout):
        here = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, rank == 0
        store = dist.TCPStore(*here)
        dist.init_process_group("fake", store=store, rank=rank, world_size=world_size)

    deepspeed = ModuleType("deepspeed")
    deepspeed.init_distributed = init_distributed
    deepspeed.comm = SimpleNamespace(
        comm=SimpleNamespace(cdb=SimpleNamespace()),
        destroy_process_group=dist.destroy_process_group,
    )
    sys.modules["deepspeed"] = deepspeed
    distributed._join()
    found = [
        distributed.sum_numbers(rank + 1, 0.25),
        distributed.from_first_rank(f"from {rank}"),
        distributed.sum_over_ranks(torch.ones(1)).item(),
    ]
    distributed.barrier()
    distributed.leave_ranks()
    return found


@pytest.mark.slow
def test_numbers_of_the_host_need_no_gpu(tmp_path):
    for rank in start_ranks(exchange, 2, free_port(), folder=tmp_path):
        assert rank.result(60) == [[3.0, 0.5], "from 0", 1.0]
