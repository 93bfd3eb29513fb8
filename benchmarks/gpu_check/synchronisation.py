"""Does the host ever wait for the GPU, in copying batches or in a step of the real loop?"""

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench, tensors_in, watch_steps
from benchmarks.gpu_check.correctness import synthetic_batch
from benchmarks.gpu_check.outcome import Outcome, judged, passed, skipped
from benchmarks.harness import PROJECT
from benchmarks.models import model_args, read_batches
from pretrain.engine.engine import compute_dtype
from pretrain.model.model import BasePretrainModel
from pretrain.training.data_loader import MicroBatch


@dataclass(frozen=True)
class Synchronisation:
    """place: file and line; owner: "ours" or "DeepSpeed"."""

    place: str
    owner: str


def attribute(frames: Sequence[tuple[str, int]]) -> Synchronisation:
    """Who waited for the device. frames: file and line, the innermost last.

    That is the innermost frame of ours or DeepSpeed's. What torch's own backward pass waits for
    is ours, though DeepSpeed has called it.
    """
    in_backward = False
    for file, line in reversed(frames):
        path = Path(file)
        if "deepspeed" in path.parts:
            if in_backward:
                return Synchronisation("backward pass", "ours")
            return Synchronisation("/".join(path.parts[-2:]) + f":{line}", "DeepSpeed")
        if path.is_relative_to(PROJECT) and "site-packages" not in path.parts:
            return Synchronisation(f"{path.relative_to(PROJECT)}:{line}", "ours")
        in_backward |= path.parts[-2:] in (("autograd", "__init__.py"), ("autograd", "graph.py"))
    return Synchronisation(f"{frames[-1][0]}:{frames[-1][1]}" if frames else "unknown", "ours")


@contextmanager
def recorded_synchronisations(device: torch.device, found: list[Synchronisation]) -> Iterator[None]:
    """Adds to `found` each time that the host waits for the device, as far as torch tells.

    torch warns of its own operations that wait, but not of torch.cuda.synchronize, and not of
    copies from memory that is not pinned.
    """
    synchronize = torch.cuda.synchronize

    def note() -> None:
        stack = traceback.extract_stack()[:-2]  # without this function and who called it
        found.append(attribute([(frame.filename, frame.lineno or 0) for frame in stack]))

    def on_warning(message, *_, **__) -> None:
        if "called a synchronizing" in str(message):
            note()

    def synchronize_and_note(*args, **kwargs):
        note()
        return synchronize(*args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = on_warning
        torch.cuda.synchronize = synchronize_and_note
        try:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize = synchronize


def check_data(bench: Bench, count: int = 32) -> Outcome:
    """Batches lie in pinned memory, from which they are copied while the host goes on."""
    dataset = bench.dataset  # made before the clock starts
    begin = time.perf_counter()
    batches = read_batches(dataset, bench.scale.batch, count)
    rate = count * bench.scale.batch / (time.perf_counter() - begin)
    unpadded = sum(batch.attention_mask is None for batch in batches) / count
    if bench.on_gpu:
        batches.append(synthetic_batch(num_samples=3).pinned())
    num_pinned = sum(map(is_pinned, batches))
    found: list[Synchronisation] = []
    with recorded_synchronisations(bench.device, found):
        for batch in batches:
            batch.inputs(bench.device)
    bench.synchronize()
    seen = (
        f"{num_pinned} of {len(batches)} batches pinned, {len(found)} waits in copying them, "
        f"{rate:,.0f} samples/s read; {unpadded:.0%} of the batches have no padding"
    )
    advice = ""
    if found or (bench.on_gpu and num_pinned < len(batches)):
        places = ", ".join(sorted({one.place for one in found})) or "MicroBatch.pinned"
        advice = f"report this as a bug, with: {places}"
    return judged(seen, advice, samples_per_second=rate, unpadded=unpadded)


def is_pinned(batch: MicroBatch) -> bool:
    return all(tensor.is_pinned() for tensor in tensors_in(batch))


def check_error_mode(bench: Bench) -> Outcome:
    """Forward and backward of our model, with set_sync_debug_mode("error"): nothing waits."""
    if not bench.on_gpu:
        return skipped("needs a GPU")
    dtypes = [compute_dtype(precision) for precision in bench.precisions]
    for gated in (False, True):
        args = model_args(bench.scale.small, 0.1, gated)
        batches = [synthetic_batch(), synthetic_batch(num_samples=3), synthetic_batch(8, 1024)]
        args.max_seq_length = 1024
        for dtype in dtypes:
            model = BasePretrainModel(args).to(bench.device, dtype)
            for batch in (batch.pinned() for batch in batches):
                model(*batch.inputs(bench.device)).backward()  # makes what is made once
                bench.synchronize()
                torch.cuda.set_sync_debug_mode("error")
                try:
                    model(*batch.inputs(bench.device)).backward()
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    return passed(f"none in {', '.join(bench.precisions)}, plain and packed, 128 and 1,024 tokens")


def check_waits(bench: Bench, name: str, flags: dict[str, Any]) -> Outcome:
    """In a step of the real loop, nothing of ours waits for the GPU; DeepSpeed may."""
    counts = waits_per_step(bench, name, flags)
    ours = sorted({one.place for one in counts if one.owner == "ours"})
    numbers = {f"{one.owner} {one.place}": number for one, number in counts.items()}
    advice = f"report this as a bug, with: {', '.join(ours)}" if ours else ""
    return judged(f"{sum(counts.values()):g} a step: {_waits_in_words(counts)}", advice, **numbers)


def waits_per_step(bench: Bench, name: str, flags: dict[str, Any]) -> dict[Synchronisation, float]:
    """How often per step the host waits for the device, by place, between lines of metrics."""
    found: list[Synchronisation] = []
    context = recorded_synchronisations(bench.device, found)
    watch_steps(bench, f"waits-{name}", context, **flags)
    return {one: number / bench.scale.watched_steps for one, number in Counter(found).items()}


def _waits_in_words(counts: dict[Synchronisation, float]) -> str:
    words = [f"{n:g} by {one.owner} ({one.place})" for one, n in counts.items()]
    return ", ".join(words) or "no waits"
