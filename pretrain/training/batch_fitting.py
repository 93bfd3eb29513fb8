"""Fits the micro batches to a rank's memory: the size asked for, or the best one of a trial.

The trial runs forward and backward passes of a throwaway model on samples of the dataset, and
doubles their number until memory is short or more are no faster. Limits that a run discovers later
(pretrain.engine.memory_limits) still apply.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pretrain.engine import memory_limits
from pretrain.engine.deepspeed_config import zero_stage
from pretrain.engine.distributed import from_first_rank, rank, sum_numbers, world_size
from pretrain.engine.engine import compute_dtype, largest_micro_batch
from pretrain.model.model import build_model
from pretrain.optimization.masking_rate import MaskingRate
from pretrain.settings import Settings
from pretrain.training.data_loader import SampleOrder, Shard, ShardReader, collate
from pretrain.training.metrics_file import Log

ON_CPU = 32  # larger micro batches are no faster
MOST_TRIED = 512
MEMORY_SHARE = 0.85  # of the free memory: the rest is for fragments, NCCL and compiled code
WORTHWHILE = 1.05  # minimum speedup of twice as many samples
REPEATS = 3


def fit_micro_batches(
    asked: Settings,
    precision: str,
    device: torch.device,
    shards: Sequence[Shard],
    log: Log,
    masking_rate: MaskingRate | None = None,
) -> tuple[int, int]:
    """Returns the micro batches of training and validation. Every rank must call it.

    asked: settings as the flags give them. precision: fp16, bf16 or fp32. That of training divides
    each rank's share of the batch. masking_rate: if it changes over the run. Raises ValueError if
    the ranks cannot share the batch evenly.
    """
    engine, output_dir, ranks = asked.engine, Path(asked.training.output_dir), world_size()
    size = engine.train_micro_batch_size_per_gpu or (ON_CPU if device.type == "cpu" else 0)
    smallest = asked.training.batch_size_ramp_start
    name = "batch_size_ramp_start" if smallest else "train_batch_size"
    batch = smallest or asked.training.train_batch_size
    now = memory_limits.circumstances(engine, in_words(device), ranks)
    now["train_micro_batch_size_per_gpu"] = size
    if not size:
        now["batch"] = batch  # a trial goes no further
    limit = from_first_rank(memory_limits.known_limit(output_dir, now) if rank() == 0 else None)
    if size:
        limit = limit or max(size, engine.validation_micro_batch)
        fitted, message = largest_micro_batch(batch, min(size, limit), ranks, name), ""
        if size > limit:
            message = (
                f"micro batch {size} -> {fitted}: memory ran out with more; "
                f"without {output_dir / memory_limits.FILE}, {size} is tried again"
            )
        elif fitted != size:
            message = (
                f"micro batch {size} -> {fitted}, so that {ranks} rank(s) make up the batch of "
                f"{batch}"
            )
    else:
        share = largest_micro_batch(batch, batch, ranks, name)
        source = f"as {output_dir / memory_limits.FILE} says"
        if not limit:
            rate = masking_rate.largest if masking_rate else 0.0
            found = find_by_trial(asked, precision, device, shards, share, rate)
            limit, why = _on_all_ranks(*found)
            source = f"found by trial: {why}"
        fitted = largest_micro_batch(batch, limit, ranks, name)
        message = f"micro batch {fitted}, {source}"
    if message:
        log.say(message)
    if rank() == 0:
        memory_limits.remember(output_dir, now, fitted, limit)
    return fitted, min(engine.validation_micro_batch, limit)


def _on_all_ranks(size: int, why: str) -> tuple[int, str]:
    """Returns the smallest of the ranks' sizes, all powers of two, and the reason for it."""
    powers = [1 << n for n in range(MOST_TRIED.bit_length())]
    counts = sum_numbers(*(float(size == power) for power in powers))
    smallest = next(power for power, count in zip(powers, counts, strict=True) if count)
    return smallest, why if smallest == size else "larger ones do not fit on another rank"


def in_words(device: torch.device) -> str:
    """Describes a device, such as `cpu with 24102 MiB`."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{found.name} with {found.total_memory >> 20} MiB"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{device.type} with {memory >> 20} MiB"


# --- the trial -------------------------------------------------------------------------------


class Passes(NamedTuple):
    """Cost of a forward and a backward pass: peak memory without the weights, and seconds."""

    num_bytes: int
    seconds: float


def largest_useful(
    sizes: Sequence[int], measure: Callable[[int], Passes | None], room: float
) -> tuple[int, str]:
    """Returns the largest useful micro batch, and the reason to stop there.

    sizes: candidates, rising; the first is taken even if it does not fit. measure: None if it runs
    out of memory. room: bytes for a pass.
    """
    best, rate = sizes[0], 0.0
    for size in sizes:
        found = measure(size)
        if found is None or found.num_bytes > room:
            return best, f"{size} samples need too much memory"
        if size / found.seconds < WORTHWHILE * rate:
            return best, f"{size} samples are no faster"
        best, rate = size, size / found.seconds
    return best, "larger ones are not tried"


def state_bytes(num_parameters: int, stage: int, num_ranks: int) -> float:
    """Upper estimate of the bytes of weights, gradients and Adam's moments on each rank.

    Stage 0: all in fp32. ZeRO 1 and 2: weights and gradients in half precision, the fp32 sums of
    the gradients and DeepSpeed's bucket of the same size; of the fp32 weights and moments, a share.
    ZeRO 3: the bucket, and a share of the rest.
    """
    whole, shared = {0: (16, 0), 1: (12, 12), 2: (12, 12), 3: (4, 20)}[stage]
    return num_parameters * (whole + shared / num_ranks)


class GpuMemory:
    """Memory and synchronization of a GPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def free(self) -> int:
        """Empties torch's cache; returns the bytes available to this process."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]

    def peak_of(self, function: Callable[[], None]) -> int:
        """Calls the function; returns the peak of its allocations in bytes."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)


def find_by_trial(
    settings: Settings,
    precision: str,
    device: torch.device,
    shards: Sequence[Shard],
    share: int,
    rate: float = 0.0,
) -> tuple[int, str]:
    """Returns `largest_useful` of the powers of two up to `share` on this rank's GPU.

    rate: of masking, the largest of the run; 0: the dataset's. Restores torch's random state.
    """
    memory = GpuMemory(device)
    sizes = [1 << n for n in range(min(share, MOST_TRIED).bit_length())]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        free = memory.free()
        seed = settings.training.seed
        order = SampleOrder([shard.num_samples for shard in shards], seed)
        rates = (lambda numbers: rate) if rate else None
        rows = ShardReader(shards, seed, rates).rows(order.slices(0, sizes[-1]))
        trial = _Trial(settings, precision, rows, memory)
        state = state_bytes(trial.num_parameters, trial.stage, world_size())
        found = largest_useful(sizes, trial.measure, MEMORY_SHARE * free - state)
    del trial
    memory.free()
    return found


class _Trial:
    """A model in the engine's precision, and rows of the dataset."""

    def __init__(self, settings: Settings, precision: str, rows: dict, memory: GpuMemory):
        self.rows, self.memory, self.device = rows, memory, memory.device
        engine = settings.engine
        self.stage = zero_stage(engine.zero_stage, precision, engine.optimizer_type)
        self.dtype = compute_dtype(precision)
        self.model = build_model(settings.model).to(self.device).train()
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if self.stage:
            self.model.to(self.dtype)

    def measure(self, size: int) -> Passes | None:
        batch = collate({name: array[:size] for name, array in self.rows.items()})
        inputs = batch.inputs(self.device)
        try:
            return memory_limits.within_memory(lambda: self._measured(inputs), "the trial", size)
        except memory_limits.OutOfMemory:
            self.model.zero_grad(set_to_none=True)
            return None

    def _measured(self, inputs: list) -> Passes:
        num_bytes = self.memory.peak_of(lambda: self._run(inputs))  # also loads libraries
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
