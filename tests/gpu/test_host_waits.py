"""How often a step has the host wait for the device, and how often the ranks talk: budgets.

While the host waits it launches nothing, and the GPU runs dry before the next kernel. So between
two lines of metrics no step should wait. Counted on the real engine and loop, two micro batches a
step: tests/gpu/host_waits.py.
"""

from collections.abc import Iterator

import pytest

from pretrain.engine.ports import free_port
from tests.forked import start_ranks
from tests.gpu import host_waits
from tests.gpu.host_waits import RUNS

pytestmark = pytest.mark.slow

# --- budgets: {"kind place": times in a step}; what is not listed must not be there --------------

NONE: dict[str, int] = {}
# Only the host can skip a step whose gradient is not finite.
ONE = {"cpu pretrain/engine/overflow.py:read": 1}
WAITS = {
    "fp32": NONE,
    "fp16 ZeRO-1": ONE,
    "bf16 ZeRO-1": ONE,
    "bf16 Muon": NONE,
    "fp16 Muon": NONE,  # it skips on the device
}
# What a line of metrics takes besides: the losses, the gradient's norm, the loss scale.
LINE = {
    "tolist pretrain/training/losses.py:collect": 1,
    "tolist pretrain/training/losses.py:_on_host": 2,
    "cpu pretrain/engine/overflow.py:read": 1,
    "item pretrain/engine/engine.py:loss_scale": 2,
}
# Functions whose tensors are the host's on a GPU as well, and so is the group that adds them up.
HOST_FUNCTIONS = ("pretrain/engine/distributed.py:sum_numbers",)

DEEPSPEED = "deepspeed/comm/torch.py"
# The predictions and the clock of a step, and a signal after each micro batch but the last.
NUMBERS = {"host's allreduce pretrain/engine/distributed.py:sum_numbers": 3}
GRADIENTS = {**NUMBERS, f"device's allreduce {DEEPSPEED}:all_reduce": 1}
WEIGHTS = {**GRADIENTS, f"device's allgather_base {DEEPSPEED}:all_gather_into_tensor": 2}
UPDATES = {**GRADIENTS, "device's allgather_base pretrain/engine/distributed.py:gather": 2}
COLLECTIVES = {
    "fp32": GRADIENTS,
    "fp16 ZeRO-1": {**WEIGHTS, "device's allreduce pretrain/engine/overflow.py:scaled_norm": 1},
    "bf16 ZeRO-1": WEIGHTS,
    "bf16 Muon": UPDATES,
    "fp16 Muon": UPDATES,
}

# --- counting -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> Iterator[dict[int, dict]]:
    """Of one rank, and of the first of two; {ranks: {run: {step: counts by sort}}}."""
    children = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        arguments = (list(RUNS), folder)
        children[ranks] = start_ranks(
            host_waits.measure, ranks, free_port(), *arguments, folder=folder
        )
    try:
        results = {ranks: [one.result() for one in found] for ranks, found in children.items()}
        yield {ranks: found[0] for ranks, found in results.items()}
    finally:
        for child in (child for found in children.values() for child in found):
            child.kill()


def _excess(counts: dict[str, int], *budgets: dict[str, int]) -> dict[str, int]:
    allowed = {place: times for budget in budgets for place, times in budget.items()}
    return {place: times for place, times in counts.items() if times > allowed.get(place, 0)}


def _device_waits(counts: dict[str, int]) -> dict[str, int]:
    return {what: times for what, times in counts.items() if not what.endswith(HOST_FUNCTIONS)}


@pytest.mark.parametrize("run", RUNS)
def test_at_most_one_wait_in_a_step_between_two_lines_of_metrics(counts, run):
    for ranks in (1, 2):
        waits = _device_waits(counts[ranks][run]["plain"]["waits"])
        assert _excess(waits, WAITS[run]) == {} and sum(waits.values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_a_line_of_metrics_waits_for_its_numbers_alone(counts, run):
    for ranks in (1, 2):
        waits = _device_waits(counts[ranks][run]["line"]["waits"])
        assert _excess(waits, WAITS[run], LINE) == {}
        assert waits["tolist pretrain/training/losses.py:collect"] == 1  # it is counted


@pytest.mark.parametrize("run", RUNS)
def test_collectives_of_a_step(counts, run):
    collectives = counts[2][run]["plain"]["collectives"]
    assert _excess(collectives, COLLECTIVES[run]) == {}
    numbers = {what for what in collectives if what.endswith(HOST_FUNCTIONS)}
    assert numbers == NUMBERS.keys()  # none over the group of the device, for which they would wait
