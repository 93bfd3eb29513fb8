"""Counts, on each rank of a real run, what would have the host wait for a GPU, and collectives.

`measure` returns {run: {step: {"waits": counts, "collectives": counts}}}: step is "plain" or
"line", a step without and one with a line of metrics; counts are {"kind place": times}. A place is
a file and function of ours or DeepSpeed's. On a CPU nothing waits, and a tensor of the host looks
like one of the device; by its place a reader can tell them apart.
"""

import traceback
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.engine import distributed
from pretrain.engine.distributed import leave_ranks, rank, start_ranks
from pretrain.flags import parse_flags
from pretrain.run_pretraining import run
from pretrain.training.metrics_file import SilentLog
from tests.pretrain.shards import write_dataset

# Autocast comes last: DeepSpeed keeps in mind, for all engines to come, that one used it.
RUNS = {
    "fp32": ("--precision=fp32",),
    "fp16 ZeRO-1": ("--precision=fp16",),
    "bf16 ZeRO-1": ("--precision=bf16", "--zero_stage=1"),
    "bf16 Muon": ("--precision=bf16", "--zero_stage=0", "--optimizer_type=muon"),
    "fp16 Muon": ("--precision=fp16", "--zero_stage=0", "--optimizer_type=muon"),
}
MICRO_BATCHES = 2  # of a rank in a step
LINE_STEP = 4  # DeepSpeed's timers wait from the third step on
SMALL = (
    *("--hidden_size=32", "--num_hidden_layers=1", "--num_attention_heads=4"),
    *("--intermediate_size=64", f"--train_micro_batch_size_per_gpu={MICRO_BATCHES}"),
    *(f"--max_steps={LINE_STEP + 1}", f"--print_steps={LINE_STEP}", "--checkpoint_steps=0"),
    *("--checkpoint_minutes=0", "--no-do_validation", "--gradient_clipping=1"),
)
# Operators and methods that return what is on the device to the host, or whose result's size does.
WAITING_OPERATORS = {
    "_local_scalar_dense": "item",
    "lift_fresh": "upload",  # of Python's numbers: a copy from pageable memory waits as well
    **{name: name for name in ("nonzero", "equal", "masked_select", "bincount", "_unique2")},
    **{name: name for name in ("unique_dim", "repeat_interleave")},
}
WAITING_METHODS = ("tolist", "cpu")
OURS = ("pretrain", "deepspeed", "tests")


class Counting(TorchDispatchMode):
    """Counts operators that wait for the device, and collectives."""

    def __init__(self, counts: Counter):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.split("::")[1]
        if operator.namespace == "c10d":
            owner = "host" if is_hosts(operator, args) else "device"
            self.counts["collectives", f"{owner}'s {name.strip('_')} {place()}"] += 1
        elif name in WAITING_OPERATORS or (name == "index" and has_mask(args[1])):
            self.counts["waits", f"{WAITING_OPERATORS.get(name, 'mask')} {place()}"] += 1
        return operator(*args, **(kwargs or {}))


class CountingMethods(TorchFunctionMode):
    """Counts methods that read a tensor's memory without any operator."""

    def __init__(self, counts: Counter):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in WAITING_METHODS and args and isinstance(args[0], torch.Tensor):
            self.counts["waits", f"{name} {place()}"] += 1
        return function(*args, **(kwargs or {}))


def is_hosts(operator, arguments) -> bool:
    """True for a collective of the group that numbers of the host take, where ranks use NCCL."""
    names = [argument.name for argument in operator._schema.arguments]
    group = torch.distributed.ProcessGroup.unbox(arguments[names.index("process_group")])
    return distributed._host_group and group.group_name == distributed._host_group.group_name


def has_mask(indices) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def place() -> str:
    """File and function of the innermost frame in our code or DeepSpeed's."""
    for frame in reversed(traceback.extract_stack()):
        parts = Path(frame.filename).parts
        found = [i for i, part in enumerate(parts[:-1]) if part in OURS]
        if found and Path(frame.filename) != Path(__file__):
            return f"{'/'.join(parts[found[-1] :])}:{frame.name}"
    return "elsewhere"


class Enough(Exception):
    """All steps are counted."""


class Steps:
    """Counts the steps before LINE_STEP and LINE_STEP itself, then ends the run.

    Operators and methods in this thread, synchronizations in all.
    """

    def __init__(self) -> None:
        self.of_step: dict[int, Counter] = {}

    def __call__(self, run_) -> None:
        """To be called by the loop after each step."""
        step = run_.budget.step
        if step == LINE_STEP - 2:
            self._begin()
        elif step > LINE_STEP - 2:
            self.of_step[step] = Counter(self._counts)
            self._counts.clear()
        if step == LINE_STEP:
            self._patches.close()
            raise Enough

    def _begin(self) -> None:
        from deepspeed.accelerator import get_accelerator

        counts = self._counts = Counter()

        def synchronize(*_) -> None:
            counts["waits", f"synchronize {place()}"] += 1

        self._patches = ExitStack()
        for owner in (get_accelerator(), torch.cuda, torch.accelerator):
            self._patches.enter_context(mock.patch.object(owner, "synchronize", synchronize))
        self._patches.enter_context(Counting(counts))
        self._patches.enter_context(CountingMethods(counts))


def counts_of(flags: tuple[str, ...], dataset: Path, output: Path, device) -> dict[str, dict]:
    """{"plain": counts of a step without a line of metrics, "line": of one with}, of this rank."""
    batch = 2 * MICRO_BATCHES * torch.distributed.get_world_size()
    paths = (f"--dataset_path={dataset}", f"--output_dir={output}", f"--train_batch_size={batch}")
    args, steps = parse_flags([*paths, *SMALL, *flags]), Steps()
    with mock.patch("pretrain.training.throughput.matmul_peak", lambda *_: 1e12), suppress(Enough):
        run(args, device, SilentLog(), watch=steps)
    plain, line = (steps.of_step[step] for step in (LINE_STEP - 1, LINE_STEP))
    return {"plain": by_sort(plain), "line": by_sort(line)}


def by_sort(counts: Counter) -> dict[str, dict[str, int]]:
    return {
        sort: {what: times for (found, what), times in sorted(counts.items()) if found == sort}
        for sort in ("waits", "collectives")
    }


def measure(names: list[str], folder: Path) -> dict[str, dict]:
    """Runs on each rank; see above."""
    device = start_ranks()
    if torch.distributed.get_world_size() > 1:  # as with NCCL: a group beside that of the device
        distributed._host_group = torch.distributed.new_group(backend="gloo")
    folder = folder / f"rank{rank()}"
    dataset = write_dataset(folder / "dataset")
    counts = {name: counts_of(RUNS[name], dataset, folder / name, device) for name in names}
    leave_ranks()
    return counts
