"""Section speed: samples/s by size, micro batch and compilation, and the GPU's idle share."""

import gc
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.cards import find_card
from benchmarks.gpu_check.outcome import Check, Outcome, judged, skipped
from benchmarks.gpu_check.profiling import profiled
from benchmarks.harness import PROJECT
from benchmarks.models import LENGTH, VOCAB_SIZE, model_args, read_batches
from benchmarks.sizes import Size, parse_size

WARM_UP_STEPS = 3
DISTINCT_BATCHES = 4
# ModernBERT-base: rotary positions, a gate, no biases (Warner et al., 2024, table 4).
MODERNBERT, MODERNBERT_WIDTH = Size(22, 768), 1152


def checks(bench: Bench) -> Iterator[Check]:
    from pretrain.engine.distributed import start_ranks

    start_ranks()
    for name in bench.scale.speeds:
        runs: dict[str, Any] = {}
        for compiled in (False, True):
            for micro in bench.scale.micro_batches:
                how = "compiled" if compiled else "eager"
                yield f"{name} {how} {micro}", partial(measure, bench, name, micro, compiled, runs)
        runs.clear()
        gc.collect()


# --- models ------------------------------------------------------------------------------------


def flags_of(bench: Bench, name: str) -> Namespace:
    """Returns the complete flags of a size, of ModernBERT-base's shape, or of a recipe."""
    if "x" in name:
        return engine_args(bench, parse_size(name))
    if name == "modernbert-base":
        args = engine_args(bench, MODERNBERT, gated=True)
        args.intermediate_size, args.use_bias = MODERNBERT_WIDTH, False
        return args
    return _recipe_args(bench, PROJECT / "configs" / "recipes" / f"{name}.yaml")


def _recipe_args(bench: Bench, recipe: Path) -> Namespace:
    """Returns the flags of a recipe's model and optimizer, without its batch and its dataset."""
    from configs.loading import load_config
    from pretrain.launch import training_flags

    text = ["DATASET.CUSTOMIZED_DATASETS", "[builtin:python-docs]"]
    flags = training_flags(load_config(recipe, text, ("pretrain",)), Path(), Path())
    args = engine_args(bench, Size(1, 64))
    vars(args).update({name: value for name, value in flags.items() if name in vars(args)})
    args.vocab_size, args.max_seq_length = VOCAB_SIZE, LENGTH
    args.dataset_path = args.output_dir = ""
    if not bench.on_gpu:
        args.num_hidden_layers, args.hidden_size, args.num_attention_heads = 1, 64, 1
        args.intermediate_size = 128
    return _fitted(bench, args)


def engine_args(bench: Bench, size: Size, gated: bool = False) -> Namespace:
    """Returns the complete flags of an engine for this device."""
    args = model_args(size, dropout=0.1, gated=gated)
    args.precision = "auto"
    return _fitted(bench, args)


def _fitted(bench: Bench, args: Namespace) -> Namespace:
    """Sets the precision for this device; a step is one micro batch of any size."""
    from pretrain.engine.precision import resolve_precision

    args.train_batch_size = args.train_micro_batch_size_per_gpu = bench.scale.batch
    args.precision = resolve_precision(args.precision, bench.device, args.model_type)
    if args.precision not in (*bench.precisions, "fp32"):
        args.precision = bench.precisions[0]
    args.multiplies_in_bf16 = False
    return args


def new_engine(bench: Bench, args: Namespace) -> Any:
    """Returns the real engine with a new model, always with the same weights."""
    from pretrain.engine.engine import build_engine
    from pretrain.model.model import build_model
    from pretrain.optimization.optimizers import build_optimizer

    torch.manual_seed(0)
    with bench.device:  # draws the initial weights there, several times faster
        model = build_model(args)
    engine = build_engine(args, model.to(bench.device), build_optimizer(model, args), 1)
    engine.train()
    return engine


def take_steps(engine: Any, batches: Sequence[Any]) -> None:
    """Takes a step of the engine on each batch, without the loop; does not synchronize."""
    for batch in batches:
        engine.set_gradient_accumulation_boundary(True)
        loss = engine(*batch.inputs(engine.device))
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()


def peak_memory(bench: Bench, engine: Any, micro: int) -> int:
    """Returns the peak of the allocated bytes in steps with this micro batch."""
    batches = read_batches(bench.dataset, micro, 2)
    take_steps(engine, batches)
    bench.synchronize()
    return bench.peak_bytes_of(lambda: take_steps(engine, batches))


# --- measurements ------------------------------------------------------------------------------


def measure(bench: Bench, name: str, micro: int, compiled: bool, kept: dict[str, Any]) -> Outcome:
    """Measures the engine's steps, with the GPU's idle share and its longest kernels.

    kept: the engine of that name, for all its measurements.
    """
    from pipeline.runtime.oom import is_out_of_memory

    try:
        return _measure(bench, name, micro, compiled, kept)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    kept.clear()  # a failed backward pass leaves gradients in the engine
    return skipped("does not fit into memory")


def _measure(bench: Bench, name: str, micro: int, compiled: bool, kept: dict[str, Any]) -> Outcome:
    from pretrain.engine.engine import compute_dtype
    from pretrain.training.compiling import compile_if_possible

    if "engine" not in kept:
        kept["args"] = flags_of(bench, name)
        kept["engine"] = new_engine(bench, kept["args"])
    args, engine = kept["args"], kept["engine"]
    batches = read_batches(bench.dataset, micro, DISTINCT_BATCHES)
    begin = time.perf_counter()
    said: list[str] = []
    if compiled and "compiled" not in kept:
        kept["compiled"] = compile_if_possible(
            engine, batches[0], compute_dtype(args.precision), said.append
        )
    if compiled and not kept["compiled"]:
        advice = "training works without it; it needs a C compiler and Python's headers"
        return judged("; ".join(said) or "torch.compile does not work here", advice)
    take_steps(engine, [*batches, *batches[:WARM_UP_STEPS]])
    bench.synchronize()
    numbers: dict[str, Any] = {"warm_up_seconds": time.perf_counter() - begin}
    rates: list[float] = []
    peak = bench.peak_bytes_of(
        lambda: rates.append(micro * steps_per_second(bench, engine, batches))
    )
    numbers |= _numbers(bench, name, args, batches, rates[0]) | {"memory_gb": peak / 1e9}
    numbers |= profiled(lambda: take_steps(engine, batches[:3]), bench)
    return judged(_in_words(numbers), **numbers)


def steps_per_second(bench: Bench, engine: Any, batches: Sequence[Any]) -> float:
    """Repeats steps on the batches for slice_seconds or more."""
    begin, num_steps = time.perf_counter(), 0
    while True:
        take_steps(engine, batches)
        bench.synchronize()
        num_steps += len(batches)
        seconds = time.perf_counter() - begin
        if seconds >= min(bench.scale.slice_seconds, max(0.0, bench.seconds_left)):
            return num_steps / seconds


def _numbers(
    bench: Bench, name: str, args: Namespace, batches: Sequence[Any], rate: float
) -> dict[str, Any]:
    """Returns rates, and shares of the data sheet's and the expected ones."""
    from pretrain.training.flops import training_flops

    micro, length = batches[0].input_ids.shape
    predictions = sum(batch.num_predictions for batch in batches) / len(batches)
    flops = training_flops(args, micro, length, round(predictions)) / micro
    card = find_card(torch.cuda.get_device_name(bench.device)) if bench.on_gpu else None
    return {
        "model": name,
        "micro_batch": micro,
        "precision": args.precision,
        "samples_per_second": rate,
        "positions_per_second": rate * length,
        "tflops": rate * flops / 1e12,
        "share_of_sheet": rate * flops / 1e12 / card.half if card else 0.0,
        "expected": card.samples_per_second.get(name, 0.0) if card else 0.0,
    }


def _in_words(numbers: dict[str, Any]) -> str:
    expected, idle = numbers["expected"], numbers["idle_share"]
    return (
        f"{numbers['samples_per_second']:,.0f} samples/s"
        + (f" (expected {expected:,.0f})" if expected else "")
        + f", {numbers['positions_per_second']:,.0f} tokens/s, {numbers['tflops']:,.1f} TFLOP/s in "
        f"{numbers['precision']}, {numbers['memory_gb']:.1f} GB"
        + ("" if idle is None else f", GPU idle {idle:.0%}")
    )
