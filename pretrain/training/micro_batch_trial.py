"""Which micro batch a GPU takes: found by forward and backward passes of a throwaway model.

On samples of the dataset, twice as many each time, until memory is short or more at once are no
faster. The limits that runs find out later (pretrain.engine.memory_limits) remain the safety net.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from pretrain.engine.deepspeed_config import zero_stage
from pretrain.engine.distributed import world_size
from pretrain.engine.engine import compute_dtype
from pretrain.engine.memory_limits import OutOfMemory, within_memory
from pretrain.model.model import build_model
from pretrain.training.data_loader import SampleOrder, ShardReader, collate

MOST_TRIED = 512
MEMORY_SHARE = 0.85  # of what is free: the rest is for fragments, NCCL and compiled code
WORTHWHILE = 1.05  # twice as many samples must come through at so many times the rate
REPEATS = 3


class Passes(NamedTuple):
    """Forward and backward pass of a micro batch: the most bytes they take besides the weights,
    and their seconds."""

    num_bytes: int
    seconds: float


def largest_useful(
    sizes: Sequence[int], measure: Callable[[int], Passes | None], room: float
) -> tuple[int, str]:
    """(the largest micro batch that fits and is worth it, why no larger one is taken).

    sizes: to try, rising. measure: None for one that runs out of memory. room: bytes for a pass.
    The smallest is taken even if it does not fit.
    """
    best, rate = sizes[0], 0.0
    for size in sizes:
        found = measure(size)
        if found is None or found.num_bytes > room:
            return best, f"{size} at once need too much memory"
        if size / found.seconds < WORTHWHILE * rate:
            return best, f"{size} at once are no faster"
        best, rate = size, size / found.seconds
    return best, "more are not tried"


def state_bytes(num_parameters: int, stage: int, num_ranks: int) -> float:
    """Bytes that weights, gradients and Adam's moments take on each rank; an upper estimate.

    Stage 0: all in fp32. ZeRO 1 and 2 in half precision: weights and gradients, the gradients' fp32
    sums and DeepSpeed's bucket of as many; of the fp32 weights and moments, a share. ZeRO 3: the
    bucket, and a share of all the rest.
    """
    whole, shared = {0: (16, 0), 1: (12, 12), 2: (12, 12), 3: (4, 20)}[stage]
    return num_parameters * (whole + shared / num_ranks)


class GpuMemory:
    """What the trial asks a GPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def free(self) -> int:
        """Bytes that this process may still take, after torch has given back what it cached."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]

    def peak_of(self, function: Callable[[], None]) -> int:
        """The most bytes that tensors took while the function ran, above those before it."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)


def find_by_trial(
    args: Namespace, precision: str, device: torch.device, shards, share: int
) -> tuple[int, str]:
    """`largest_useful` of the powers of two up to `share`, on this rank's GPU.

    args: run_pretraining's flags with vocab_size, special_ids and max_seq_length. The random
    numbers that the trial draws are put back.
    """
    memory = GpuMemory(device)
    sizes = [1 << n for n in range(min(share, MOST_TRIED).bit_length())]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        free = memory.free()
        trial = _Trial(args, precision, device, shards, sizes[-1], memory)
        state = state_bytes(trial.num_parameters, trial.stage, world_size())
        found = largest_useful(sizes, trial.measure, MEMORY_SHARE * free - state)
    del trial
    memory.free()
    return found


class _Trial:
    """A model as the engine would have it, and rows of the dataset."""

    def __init__(self, args, precision: str, device, shards, num_rows: int, memory: GpuMemory):
        self.device, self.memory = device, memory
        self.stage = zero_stage(args.zero_stage, precision, args.optimizer_type)
        self.dtype = compute_dtype(precision)
        self.model = build_model(args).to(device).train()
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if self.stage:
            self.model.to(self.dtype)
        order = SampleOrder([shard.num_samples for shard in shards], args.seed)
        self.rows = ShardReader(shards, args.seed).rows(order.slices(0, num_rows))

    def measure(self, size: int) -> Passes | None:
        batch = collate({name: array[:size] for name, array in self.rows.items()})
        inputs = batch.inputs(self.device)
        try:
            return within_memory(lambda: self._measured(inputs), "the trial", size)
        except OutOfMemory:
            self.model.zero_grad(set_to_none=True)
            return None

    def _measured(self, inputs: list) -> Passes:
        num_bytes = self.memory.peak_of(lambda: self._run(inputs))  # it also loads libraries
        seconds = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            self._run(inputs)
            self.memory.wait()
            seconds.append(time.perf_counter() - begin)
        return Passes(num_bytes, min(seconds))

    def _run(self, inputs: list) -> None:
        autocast = not self.stage and self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if autocast else None, enabled=autocast):
            loss = self.model(*inputs)
        loss.backward()
        self.model.zero_grad(set_to_none=True)
