"""Run by test_compiling.py in child processes: what a few real runs cast, compile and clip.

Returns {run: {"losses": of the steps, "casts": how often one weight is cast at most in a step,
"cast_weights": how many are, "graphs": that torch.compile made before the first step, "breaks": of
graphs, "recompiled": graphs made in the steps, "moved": 2-norm by which a step moved all weights}}.
"""

import json
from collections import Counter
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.store.paths import METRICS
from pretrain.engine.distributed import leave_ranks, start_ranks
from pretrain.flags import parse_flags
from pretrain.run_pretraining import run
from pretrain.training import preparation
from pretrain.training.compiling import compile_if_possible
from pretrain.training.metrics_file import MetricsLog
from tests.pretrain.shards import write_dataset

FP32 = ("--precision=fp32",)
AUTOCAST = ("--precision=fp16", "--zero_stage=0", "--optimizer_type=muon")
SGD = (
    "--optimizer_type=sgd",
    "--lr=0.5",
    "--weight_decay=0",
    "--curve=constant",
    "--warmup_proportion=0",
)
# Autocast comes last: DeepSpeed keeps in mind, for all engines to come, that one used it.
RUNS = {
    "clipped": (*FP32, *SGD, "--gradient_clipping=0.01"),
    "fp32": FP32,
    "compiled fp32": (*FP32, "--compile"),
    "autocast": AUTOCAST,
    "compiled autocast": (*AUTOCAST, "--compile"),
}
SMALL = (
    *("--hidden_size=32", "--num_hidden_layers=3", "--num_attention_heads=4"),
    *("--intermediate_size=64", "--train_batch_size=8", "--train_micro_batch_size_per_gpu=2"),
    *("--hidden_dropout_prob=0", "--attention_probs_dropout_prob=0", "--no-do_validation"),
    *("--max_steps=4", "--print_steps=1", "--checkpoint_steps=0", "--gradient_clipping=1"),
)


class Casts(TorchDispatchMode):
    """Counts how often each weight is cast to half precision."""

    def __init__(self):
        super().__init__()
        self.of_weight: Counter[int] = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.name() == "aten::_to_copy" and kwargs.get("dtype") == torch.float16:
            self.of_weight[id(args[0])] += isinstance(args[0], torch.nn.Parameter)
        return operator(*args, **(kwargs or {}))


def counts_of(flags, dataset: Path, output: Path, device) -> dict:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    graphs, casts, weights = [], [], []

    def watch(training) -> None:
        """Called before the first step and after each one."""
        graphs.append(counters["stats"]["unique_graphs"])
        casts.append(+mode.of_weight)
        mode.of_weight.clear()
        parameters = training.engine.module.parameters()
        weights.append(torch.cat([p.detach().flatten() for p in parameters]))

    args = parse_flags([f"--dataset_path={dataset}", f"--output_dir={output}", *SMALL, *flags])
    compile_quickly = partial(compile_if_possible, backend="aot_eager")
    with (
        mock.patch("pretrain.training.throughput.matmul_peak", lambda *_: 1e12),
        mock.patch.object(preparation, "compile_if_possible", compile_quickly),
        nullcontext(Casts()) if "--compile" in flags else Casts() as mode,  # with it, none compiles
    ):
        run(args, device, MetricsLog(output / METRICS), watch=watch)
    lines = map(json.loads, (output / METRICS).read_text().splitlines())
    return {
        "losses": [line["loss"] for line in lines if line["kind"] == "train"],
        "casts": max((times for step in casts[1:] for times in step.values()), default=0),
        "cast_weights": len(casts[-1]),
        "graphs": graphs[0],
        "breaks": sum(counters["graph_break"].values()),
        "recompiled": graphs[-1] - graphs[0],
        "moved": [(after - before).norm().item() for before, after in pairwise(weights)],
    }


def measure(names: list[str], folder: Path) -> dict[str, dict]:
    device = start_ranks()
    dataset = write_dataset(folder / "dataset")
    found = {name: counts_of(RUNS[name], dataset, folder / name, device) for name in names}
    leave_ranks()
    return found
