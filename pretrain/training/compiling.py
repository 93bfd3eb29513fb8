"""torch.compile, with a fallback to uncompiled code."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pretrain.engine import distributed
from pretrain.training.data_loader import MicroBatch


def compile_if_possible(
    engine,
    batch: MicroBatch,
    dtype: torch.dtype,
    say: Callable[[str], None],
    backend: str = "inductor",
) -> bool:
    """Compiles the model's layers if a forward and backward pass of `batch` works on all ranks.

    Layers of one kind share a graph, so that a deep model compiles as fast as a shallow one. The
    head and the loss, a few percent of the work, are not compiled: the number of predictions
    differs from batch to batch.

    dtype: of the engine's matrix products. Returns True if the layers are compiled; otherwise says
    why not. Not for ZeRO-3, which gathers weights only within the engine's passes.
    """
    model, device = engine.module, engine.device
    layers = repeated_layers(model)
    reason = ""
    try:
        # Not in the shared /tmp, since torch runs the cached code.
        private = Path.home() / ".cache" / "torchinductor"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private))
        for layer in layers:
            layer.compile(backend=backend)
        autocast = engine.torch_autocast_enabled()
        with torch.autocast(device.type, dtype if autocast else None, enabled=autocast):
            loss = model(*batch.inputs(device))
        # backward() would leave gradients for the engine's first step.
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    except Exception as error:  # a compiler may raise anything; training works without it
        reason = " ".join([type(error).__name__, *str(error).split("\n")[:1]])
    (failures,) = distributed.sum_numbers(float(bool(reason)))
    if failures:
        for layer in layers:
            layer._compiled_call_impl = None
        say(
            f"torch.compile does not work here ({reason or 'on another rank'}); training without it"
        )
    return not failures


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the longest list of modules of one class, or else the model itself."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    alike = [list(modules) for modules in lists if len(set(map(type, modules))) == 1]
    return max(alike, key=len, default=[model])
