"""torch.compile, where it works."""

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
    """Compiles the layers of the engine's model if a forward and backward pass of `batch` work.

    Layers of one kind share a graph, so that a deep model takes no longer than a shallow one. What
    surrounds them stays as it is: it is a few percent of the work, and the number of predictions,
    which differs from batch to batch, is known to nothing but the head and the loss.

    On all ranks or on none; says why not. dtype: what the engine computes in. Returns whether the
    layers are compiled. Not for ZeRO-3, whose weights are only gathered within the engine's passes.
    """
    model, device = engine.module, engine.device
    layers = repeated_layers(model)
    reason = ""
    try:
        _keep_code_private()
        for layer in layers:
            layer.compile(backend=backend)
        autocast = engine.torch_autocast_enabled()
        with torch.autocast(device.type, dtype if autocast else None, enabled=autocast):
            loss = model(*batch.inputs(device))
        # Not backward(): the engine would take the gradients for those of a step.
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    except Exception as error:  # whatever a compiler may raise, training works without it
        reason = " ".join([type(error).__name__, *str(error).split("\n")[:1]])
    (failures,) = distributed.sum_numbers(float(bool(reason)))
    if failures:
        for layer in layers:
            layer._compiled_call_impl = None
        say(f"torch.compile does not work here ({reason or 'on another rank'}); going on without")
    return not failures


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The modules of the longest list of modules of one class; the model itself, if it has none."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    alike = [list(modules) for modules in lists if len(set(map(type, modules))) == 1]
    return max(alike, key=len, default=[model])


def _keep_code_private() -> None:
    """torch keeps compiled code to run it again, by default in a folder that others can make."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "torchinductor"))
