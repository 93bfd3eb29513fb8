"""How often a step has the host wait for the device, and how often the ranks talk: budgets.

While the host waits it launches nothing, and the GPU runs dry before the next kernel. So between
two lines of metrics no step should wait. Counted on the real engine and loop, two micro batches a
step: tests/gpu/host_waits.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.ports import free_port
from tests.gpu.host_waits import RUNS

PROJECT = Path(__file__).resolve().parents[2]

# --- budgets: {"kind place": times in a step}; what is not listed must not be there --------------

TIMER = "deepspeed/utils/timer.py"
UTILS = "deepspeed/runtime/utils.py"
TIMERS = {f"synchronize {TIMER}:start": 2, f"synchronize {TIMER}:stop": 1}
ZERO = {
    f"item {UTILS}:is_invalid_grad_norm": 1,
    f"upload {UTILS}:mask_nan_or_inf_with_val_inplace": 1,
}
WAITS = {
    "fp32": TIMERS,
    "fp16 ZeRO-1": {
        **TIMERS,
        **ZERO,
        "item deepspeed/runtime/zero/stage_1_and_2.py:has_overflow": 1,
        f"upload {UTILS}:mask_nan_or_inf_with_val_inplace": 2,
    },
    "bf16 ZeRO-1": {**TIMERS, **ZERO},
    "bf16 Muon": TIMERS,
    "fp16 Muon": {
        **TIMERS,
        "item deepspeed/runtime/engine.py:_take_model_step": 1,
        "item pretrain/engine.py:loss_scale": 1,
    },
}
# What a line of metrics takes besides: the losses, the gradient's norm, the loss scale.
LINE = {
    "tolist pretrain/losses.py:collect": 1,
    "item pretrain/engine.py:gradient_norm": 1,
    "item pretrain/engine.py:norm_of_last_step": 1,
    "item pretrain/engine.py:loss_scale": 3,
}
# What two ranks take besides.
RANKS = {
    "tolist pretrain/distributed.py:sum_numbers": 2,
    "upload pretrain/distributed.py:sum_numbers": 2,
}
# Functions whose tensors are the host's on a GPU as well.
HOST_FUNCTIONS: tuple[str, ...] = ()

SUMS = {"allreduce pretrain/distributed.py:sum_over_ranks": 2}
GRADIENTS = {**SUMS, "allreduce deepspeed/comm/torch.py:all_reduce": 1}
GATHERED = {**GRADIENTS, "allgather_base deepspeed/comm/torch.py:all_gather_into_tensor": 2}
COLLECTIVES = {
    "fp32": GRADIENTS,
    # The norm, the overflow and, of both micro batches, the gradients.
    "fp16 ZeRO-1": {**GATHERED, "allreduce deepspeed/comm/torch.py:all_reduce": 4},
    "bf16 ZeRO-1": GATHERED,
    "bf16 Muon": GRADIENTS,
    "fp16 Muon": GRADIENTS,
}

# --- counting -----------------------------------------------------------------------------------


def _start(rank: int, world_size: int, port: int) -> subprocess.Popen:
    environment = {
        **os.environ,
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"},
        # Nothing is compiled; DeepSpeed would load the compiler all the same.
        **{"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"},
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.host_waits"],
        **{"cwd": PROJECT, "env": environment, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )


@pytest.fixture(scope="module")
def counts() -> dict[int, dict]:
    """Of one rank, and of the first of two; {ranks: {run: {step: counts by sort}}}."""
    children = {}
    for ranks in (1, 2):
        port = free_port()
        children[ranks] = [_start(rank, ranks, port) for rank in range(ranks)]
    found = {}
    try:
        for ranks, (first, *others) in children.items():
            output, errors = first.communicate(timeout=120)
            assert first.returncode == 0, errors[-2000:]
            assert [other.wait(20) for other in others] == [0] * len(others)
            found[ranks] = json.loads(output.splitlines()[-1])
    finally:
        for child in (child for started in children.values() for child in started):
            child.kill()
            child.communicate()
    return found


def _excess(counts: dict[str, int], *budgets: dict[str, int]) -> dict[str, int]:
    allowed = {place: times for budget in budgets for place, times in budget.items()}
    return {place: times for place, times in counts.items() if times > allowed.get(place, 0)}


def _device_waits(counts: dict[str, int]) -> dict[str, int]:
    return {what: times for what, times in counts.items() if not what.endswith(HOST_FUNCTIONS)}


@pytest.mark.parametrize("run", RUNS)
def test_no_wait_between_two_lines_of_metrics(counts, run):
    assert _excess(_device_waits(counts[1][run]["plain"]["waits"]), WAITS[run]) == {}
    assert _excess(_device_waits(counts[2][run]["plain"]["waits"]), WAITS[run], RANKS) == {}


@pytest.mark.parametrize("run", RUNS)
def test_a_line_of_metrics_waits_for_its_numbers_alone(counts, run):
    for ranks in (1, 2):
        waits = _device_waits(counts[ranks][run]["line"]["waits"])
        assert _excess(waits, WAITS[run], LINE, RANKS if ranks > 1 else {}) == {}
        assert waits["tolist pretrain/losses.py:collect"] == 1  # it is counted


@pytest.mark.parametrize("run", RUNS)
def test_collectives_of_a_step(counts, run):
    assert _excess(counts[2][run]["plain"]["collectives"], COLLECTIVES[run]) == {}
