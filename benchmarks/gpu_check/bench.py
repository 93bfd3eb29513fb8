"""What all checks work with: a device, sizes, samples of real text, and runs of the real loop."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import VOCAB_SIZE, Size
from benchmarks.real_loop import Enough, QuietLog
from benchmarks.stage_runs import PROJECT, PYTHON_DOCS, find_vocabulary, repeated_text
from pipeline.store.artifacts import MANIFEST
from pretrain.engine.interrupts import Interrupts
from pretrain.flags import parse_flags
from pretrain.launch import flag_words
from pretrain.run_pretraining import run
from pretrain.training.metrics_file import read_metrics

DATASET_ID = "gpu-check"
# Set by start_ranks, and not meant for other processes.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ON_CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    watched: the model whose steps are watched and whose attention is measured, with `batch` samples
    a step. small: where only the result counts. warm_up: steps before anything is measured; in fp16
    the first ones look for the scale of the loss. lengths: of rows, in tokens; tokens: of a batch
    of them. speeds: sizes and recipes by name. slice_seconds: that a speed is measured for.
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
# Everything is run, and nothing measured means anything.
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
    """folder: for all that is written, shared by all sections. deadline: of this one, by
    time.monotonic."""

    device: torch.device
    scale: Scale
    folder: Path
    deadline: float = float("inf")

    @cached_property
    def dataset(self) -> Path:
        return make_dataset(self.folder, self.scale.text_bytes)

    @property
    def on_gpu(self) -> bool:
        return self.device.type != "cpu"

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def precisions(self) -> list[str]:
        """Half precisions that this device computes in by itself; the default comes first."""
        if not self.on_gpu:
            return ["fp32"]
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["fp16", "bf16"] if has_bf16 else ["fp16"]

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.accelerator.synchronize(self.device)


# --- main.py and its dataset -------------------------------------------------------------------


def config_of(folder: Path, text: Path, vocabulary: Path, **sections: dict[str, Any]) -> Path:
    """A config file for main.py, about the dataset that all sections share."""
    config = {
        "INSTALL": {"ENABLED": False},  # this Python has what is there
        "TOKENIZER": {"NAME_OR_PATH": str(vocabulary)},
        "DATASET": {
            "ID": DATASET_ID,
            "CUSTOMIZED_DATASETS": [str(text)],
            "MASKING": "dynamic",
        },
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


def main_command(config: Path, root: Path, stages: str) -> list[str]:
    command = [sys.executable, str(PROJECT / "main.py"), "--config", str(config)]
    return [*command, "--stages", stages, "--output-root", str(root)]


def make_dataset(folder: Path, text_bytes: float) -> Path:
    """Samples of 128 tokens of Python's documentation, masked anew in each epoch.

    Another section may have made it already. Raises RuntimeError if main.py fails.
    """
    dataset = folder / "data" / DATASET_ID
    if (dataset / MANIFEST).exists():
        return dataset
    text = repeated_text([PYTHON_DOCS], folder / "text", text_bytes)
    vocabulary = as_large_as_berts(find_vocabulary(text, folder), folder / "large" / "vocab.txt")
    done = subprocess.run(
        main_command(config_of(folder, text, vocabulary), folder, "dataset"),
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    if done.returncode:
        raise RuntimeError(f"the dataset stage failed: {(done.stdout + done.stderr)[-1000:]}")
    return dataset


def as_large_as_berts(vocabulary: Path, path: Path) -> Path:
    """A copy of vocab.txt with entries that no text has, as the logits' width decides the speed."""
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    words += [f"[unused{number}]" for number in range(10_000, 10_000 + VOCAB_SIZE - len(words))]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def child_environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return kept | changes


# --- runs of the real loop ---------------------------------------------------------------------


def run_settings(bench: Bench, name: str, size: Size, **changes) -> dict[str, Any]:
    """run_pretraining's flags of a run in the folder `name`; the others have their defaults."""
    return {
        "dataset_path": bench.dataset,
        "output_dir": bench.folder / name,
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.hidden,
        "train_batch_size": bench.scale.batch,
        "train_micro_batch_size_per_gpu": bench.scale.batch,
        "max_steps": 10**6,
        "print_steps": 10**6,
        "checkpoint_steps": 0,
        "do_validation": False,
        **changes,
    }


class _SilentLog(QuietLog):
    def progress(self, now: bool, **numbers) -> None: ...


def run_loop(
    bench: Bench, settings: dict[str, Any], watch=None, interrupts: Interrupts | None = None
) -> list[dict[str, Any]]:
    """Runs the real loop in this process, and returns its lines of metrics.

    It goes to its end or until `watch` raises Enough. Raises Interrupted after a signal, which
    `watch` may have noted in `interrupts`.
    """
    args = parse_flags(flag_words(settings))
    log = _SilentLog(Path(args.output_dir) / "metrics.jsonl")
    try:
        with suppress(Enough):
            run(args, bench.device, log, interrupts, watch)
    finally:
        log.close()
    return read_metrics(log.path)


def watch_steps(bench: Bench, name: str, context, **changes):
    """Runs the real loop, with the watched steps inside of a context; returns the run after them.

    changes: of the run's flags.
    """
    watched = []
    with ExitStack() as stack:

        def watch(run_) -> None:
            if run_.budget.step == bench.scale.warm_up:
                stack.enter_context(context)
            elif run_.budget.step == bench.scale.warm_up + bench.scale.watched_steps:
                stack.close()
                watched.append(run_)
                raise Enough

        run_loop(bench, run_settings(bench, name, bench.scale.watched, **changes), watch)
    return watched[0]


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of a micro batch, or of a part of one."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(tuple(vars(value).values()))
