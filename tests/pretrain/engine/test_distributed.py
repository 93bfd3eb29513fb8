"""Numbers of the host go over gloo where the ranks' own group is another one, as with GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from pretrain.engine.ports import free_port

PROJECT = Path(__file__).resolve().parents[3]
# A rank whose default group moves nothing, as NCCL moves nothing that is not on a GPU.
RANK = """
import json, os, sys
from types import ModuleType, SimpleNamespace
import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg
from pretrain.engine import distributed

def init_distributed(verbose, timeout):
    here = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, rank == 0
    dist.init_process_group("fake", store=dist.TCPStore(*here), rank=rank, world_size=world_size)

rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
deepspeed = ModuleType("deepspeed")
deepspeed.init_distributed = init_distributed
deepspeed.comm = SimpleNamespace(
    comm=SimpleNamespace(cdb=SimpleNamespace()), destroy_process_group=dist.destroy_process_group
)
sys.modules["deepspeed"] = deepspeed
distributed._join()
found = [
    distributed.sum_numbers(rank + 1, 0.25),
    distributed.from_first_rank(f"from {rank}"),
    distributed.sum_over_ranks(torch.ones(1)).item(),
]
distributed.barrier()
print(json.dumps(found), flush=True)
distributed.leave_ranks()
os._exit(0)
"""


def test_numbers_of_the_host_need_no_gpu():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_SIZE": "2"}
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], text=True, env=environment | {"RANK": str(rank)}, **pipes
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, errors = rank.communicate(timeout=60)
        assert rank.returncode == 0, errors[-2000:]
        assert json.loads(out) == [[3.0, 0.5], "from 0", 1.0]
