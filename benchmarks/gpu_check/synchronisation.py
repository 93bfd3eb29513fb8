"""Host waits: the host never waits for the GPU in copying batches or in a step of the loop."""

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

from benchmarks.gpu_check.bench import Bench, watch_steps
from benchmarks.gpu_check.correctness import synthetic_batch
from benchmarks.gpu_check.outcome import Outcome, judged, skipped
from benchmarks.harness import PROJECT
from benchmarks.models import model_args, read_batches


@dataclass(frozen=True)
class Synchronisation:
    """place: file and line; owner: "ours" or "DeepSpeed"."""

    place: str
    owner: str


def attribute(frames: Sequence[tuple[str, int]]) -> Synchronisation:
    """Returns the origin of a wait: the innermost frame of this project or of DeepSpeed.

    frames: file and line, the innermost last. Waits in torch's backward pass are ours, even if
    DeepSpeed calls it.
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
    """Adds the host's waits for the device to `found`.

    torch warns of waits in its own operations, but not of torch.cuda.synchronize, and not of copies
    from memory that is not pinned; the former is patched.
    """
    synchronize = torch.cuda.synchronize

    def note() -> None:
        stack = traceback.extract_stack()[:-2]  # without this function and its caller
        found.append(attribute([(frame.filename, frame.lineno or 0) for frame in stack]))

    def on_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            note()

    def synchronize_and_note(*args: Any, **kwargs: Any) -> None:
        note()
        synchronize(*args, **kwargs)

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
    """Batches are in pinned memory and copied without a wait."""
    dataset = bench.dataset  # may take time to make
    begin = time.perf_counter()
    batches = read_batches(dataset, bench.scale.batch, count)
    rate = count * bench.scale.batch / (time.perf_counter() - begin)
    unpadded = sum(batch.attention_mask is None for batch in batches) / count
    if bench.on_gpu:
        batches.append(synthetic_batch(num_samples=3).pinned())
    num_pinned = sum(batch.input_ids.is_pinned() for batch in batches)
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


def check_error_mode(bench: Bench) -> Outcome:
    """Runs our model's forward and backward pass under set_sync_debug_mode("error")."""
    from pretrain.engine.engine import compute_dtype
    from pretrain.model.model import BasePretrainModel

    if not bench.on_gpu:
        return skipped("needs a GPU")
    for gated in (False, True):
        args = model_args(bench.scale.small, 0.1, gated)
        batches = [synthetic_batch(), synthetic_batch(num_samples=3), synthetic_batch(8, 1024)]
        args.max_seq_length = 1024
        for precision in bench.precisions:
            model = BasePretrainModel(args).to(bench.device, compute_dtype(precision))
            for batch in (batch.pinned() for batch in batches):
                model(*batch.inputs(bench.device)).backward()  # the first call allocates
                bench.synchronize()
                torch.cuda.set_sync_debug_mode("error")
                try:
                    model(*batch.inputs(bench.device)).backward()
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    return judged(f"none in {', '.join(bench.precisions)}, plain and packed, 128 and 1,024 tokens")


def check_waits(bench: Bench, name: str, flags: dict[str, Any]) -> Outcome:
    """Our code does not wait for the GPU in a step of the real loop; DeepSpeed's may.

    Steps with a line of metrics are not watched.
    """
    found: list[Synchronisation] = []
    context = recorded_synchronisations(bench.device, found)
    watch_steps(bench, f"waits-{name}", context, **flags)
    counts = {one: number / bench.scale.watched_steps for one, number in Counter(found).items()}
    words = [f"{n:g} by {one.owner} ({one.place})" for one, n in counts.items()]
    ours = sorted({one.place for one in counts if one.owner == "ours"})
    advice = f"report this as a bug, with: {', '.join(ours)}" if ours else ""
    seen = f"{sum(counts.values()):g} a step: {', '.join(words) or 'no waits'}"
    return judged(seen, advice, **{f"{one.owner} {one.place}": n for one, n in counts.items()})
