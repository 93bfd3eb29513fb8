"""What all checks work with: a device, samples of real text, and runs of the real loop on them."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import VOCAB_SIZE, Size
from benchmarks.real_loop import Enough, QuietLog
from benchmarks.stage_runs import PROJECT, PYTHON_DOCS, find_vocabulary, repeated_text
from pretrain.flags import parse_flags
from pretrain.interrupts import Interrupts
from pretrain.metrics import read_metrics
from pretrain.run_pretraining import run
from pretrain.stage import flag_words

TEXT_BYTES = 3e6
SMALL = Size(2, 128)  # where only the result counts, not the speed
# Set by start_ranks, and not meant for other processes.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Bench:
    """batch: samples per step; folder: for all that is written.

    warm_up: steps before anything is measured; in fp16 the first ones look for the scale of the
    loss. watched_steps: those that a check looks at more closely.
    """

    device: torch.device
    size: Size
    batch: int
    folder: Path
    warm_up: int = 12
    watched_steps: int = 8

    @cached_property
    def dataset(self) -> Path:
        return make_dataset(self.folder)

    @property
    def on_gpu(self) -> bool:
        return self.device.type != "cpu"

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


def make_dataset(folder: Path) -> Path:
    """Samples of 128 tokens of Python's documentation, masked anew in each epoch."""
    text = repeated_text([PYTHON_DOCS], folder / "text", TEXT_BYTES)
    vocabulary = as_large_as_berts(find_vocabulary(text, folder), folder / "large" / "vocab.txt")
    config = {
        "TOKENIZER": {"NAME_OR_PATH": str(vocabulary)},
        "DATASET": {"ID": "gpu-check", "CUSTOMIZED_DATASETS": [str(text)], "MASKING": "dynamic"},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, str(PROJECT / "main.py"), "--config", str(path)]
    command += ["--stages", "dataset", "--output-root", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        raise RuntimeError(f"the dataset stage failed: {(done.stdout + done.stderr)[-1000:]}")
    return folder / "data" / "gpu-check"


def as_large_as_berts(vocabulary: Path, path: Path) -> Path:
    """A copy of vocab.txt with entries that no text has, as the logits' width decides the speed."""
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    words += [f"[unused{number}]" for number in range(10_000, 10_000 + VOCAB_SIZE - len(words))]
    path.parent.mkdir()
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def child_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}


def run_settings(bench: Bench, name: str, size: Size, **changes) -> dict[str, Any]:
    """run_pretraining's flags of a run in the folder `name`; the others have their defaults."""
    return {
        "dataset_path": bench.dataset,
        "output_dir": bench.folder / name,
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.hidden,
        "train_batch_size": bench.batch,
        "train_micro_batch_size_per_gpu": bench.batch,
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
            if run_.budget.step == bench.warm_up:
                stack.enter_context(context)
            elif run_.budget.step == bench.warm_up + bench.watched_steps:
                stack.close()
                watched.append(run_)
                raise Enough

        run_loop(bench, run_settings(bench, name, bench.size, **changes), watch)
    return watched[0]
