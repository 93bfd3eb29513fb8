"""Common parts of all checks: device, sizes, samples of real text, and runs of the real loop."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks import trainings
from benchmarks.harness import DATASET_ID, run_dataset_stage
from benchmarks.models import VOCAB_SIZE
from benchmarks.sizes import Size
from benchmarks.texts import PYTHON_DOCS, find_vocabulary, repeated_text

ON_CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything.

    watched: the model for watching steps and measuring attention, with `batch` samples a step.
    small: the model where only the result counts. warm_up: steps before a measurement, in which
    fp16 finds its loss scale. lengths: of rows, in tokens; tokens: in a batch of them. speeds:
    names of sizes and recipes. slice_seconds: of measuring a speed.
    """

    watched: Size
    small: Size
    batch: int
    warm_up: int
    watched_steps: int
    text_bytes: float
    stage_model: Size
    stage_batch: int
    stage_steps: int
    lengths: tuple[int, ...]
    tokens: int
    speeds: tuple[str, ...]
    micro_batches: tuple[int, ...]
    slice_seconds: float


FULL = Scale(
    watched=Size(12, 768),
    small=Size(2, 128),
    batch=64,
    warm_up=12,
    watched_steps=8,
    text_bytes=3e6,
    stage_model=Size(4, 256),
    stage_batch=256,
    stage_steps=400,
    lengths=(128, 512, 2048, 8192),
    tokens=1 << 16,
    speeds=("12x768", "24x1024", "fast-base", "modernbert-base"),
    micro_batches=(128, 256, 32),
    slice_seconds=1.5,
)
# Runs everything; the measurements mean nothing.
REHEARSAL = Scale(
    watched=Size(1, 64),
    small=Size(1, 64),
    batch=4,
    warm_up=2,
    watched_steps=2,
    text_bytes=2e5,
    stage_model=Size(1, 64),
    stage_batch=16,
    stage_steps=60,
    lengths=(32, 512),
    tokens=1024,
    speeds=("1x64", "fast-base"),
    micro_batches=(4,),
    slice_seconds=0.1,
)


@dataclass(frozen=True)
class Bench:
    """folder: for the files of all sections; deadline: of this section, by time.monotonic."""

    device: torch.device
    scale: Scale
    folder: Path
    deadline: float = float("inf")

    @cached_property
    def dataset(self) -> Path:
        """Samples of 128 tokens from Python's documentation, made by the first section."""
        from pipeline.store.record_files import MANIFEST

        dataset = self.folder / "data" / DATASET_ID
        if not (dataset / MANIFEST).exists():
            text = repeated_text([PYTHON_DOCS], self.folder / "text", self.scale.text_bytes)
            vocabulary = find_vocabulary(text, self.folder)
            large = as_large_as_berts(vocabulary, self.folder / "large" / "vocab.txt")
            run_dataset_stage(text, large, self.folder, self.folder)
        return dataset

    @property
    def on_gpu(self) -> bool:
        return self.device.type != "cpu"

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def precisions(self) -> list[str]:
        """Half precisions with hardware support; the default comes first."""
        if not self.on_gpu:
            return ["fp32"]
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["fp16", "bf16"] if has_bf16 else ["fp16"]

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.accelerator.synchronize(self.device)

    def peak_bytes_of(self, call: Callable[[], Any]) -> int:
        """Returns the highest allocation in a call, with the memory in use before; 0 on the CPU."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self.device) if self.on_gpu else 0


def as_large_as_berts(vocabulary: Path, path: Path) -> Path:
    """Copies vocab.txt and adds unused entries, as the width of the logits affects the speed."""
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    words += [f"[unused{number}]" for number in range(10_000, 10_000 + VOCAB_SIZE - len(words))]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


# --- runs of the real loop ---------------------------------------------------------------------


class Enough(Exception):
    """Ends a run of the real loop."""


def run_settings(bench: Bench, name: str, size: Size, **changes: Any) -> dict[str, Any]:
    """Returns run_pretraining's flags for an endless run in the folder `name`.

    A step is one micro batch, without output between the first and the last.
    """
    batch = bench.scale.batch
    flags = {
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feed_forward(gated=False),
        "dataset_path": bench.dataset,
        "output_dir": bench.folder / name,
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch,
        "max_steps": 10**6,
        "print_steps": 10**6,
        "checkpoint_steps": 0,
        "do_validation": False,
    }
    return {**flags, **changes}


def run_loop(
    bench: Bench, settings: dict[str, Any], watch: Callable | None = None, interrupts: Any = None
) -> list[dict[str, Any]]:
    """Runs the real loop to its end, or until `watch` raises Enough; returns its metrics.

    Raises Interrupted after a signal, which `watch` may have noted in `interrupts`.
    """
    from pretrain.launch import flag_words

    with suppress(Enough):
        trainings.run_loop(flag_words(settings), bench.device, watch, interrupts)
    return metrics_in(Path(settings["output_dir"]))


def metrics_in(output_dir: Path) -> list[dict[str, Any]]:
    from pipeline.store.paths import METRICS
    from pretrain.training.metrics_file import read_metrics

    return read_metrics(output_dir / METRICS)


def watch_steps(bench: Bench, name: str, context: AbstractContextManager, **changes: Any) -> None:
    """Runs the real loop, with the watched steps within a context; changes: of its flags."""
    with ExitStack() as stack:

        def watch(run_: Any) -> None:
            if run_.budget.step == bench.scale.warm_up:
                stack.enter_context(context)
            elif run_.budget.step == bench.scale.warm_up + bench.scale.watched_steps:
                stack.close()
                raise Enough

        run_loop(bench, run_settings(bench, name, bench.scale.watched, **changes), watch)
