"""torch.compile, where it works."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from pretrain import distributed
from pretrain.data import MicroBatch


def compile_if_possible(
    engine, batch: MicroBatch, dtype: torch.dtype, say: Callable[[str], None]
) -> bool:
    """Compiles the engine's model in place if a forward and backward pass of `batch` work then.

    On all ranks or on none; says why not. dtype: what the engine computes in. Returns whether the
    model is compiled. Not for ZeRO-3, whose weights are only gathered within the engine's passes.
    """
    model, device = engine.module, engine.device
    model.compile()
    reason = ""
    try:
        _keep_code_private()
        autocast = engine.torch_autocast_enabled()
        with torch.autocast(device.type, dtype if autocast else None, enabled=autocast):
            loss = model(*batch.inputs(device))
        # Not backward(): the engine would take the gradients for those of a step.
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    except Exception as error:  # whatever a compiler may raise, training works without it
        reason = " ".join([type(error).__name__, *str(error).split("\n")[:1]])
    (failures,) = distributed.sum_numbers(float(bool(reason)))
    if failures:
        model._compiled_call_impl = None
        say(f"torch.compile does not work here ({reason or 'on another rank'}); going on without")
    return not failures


def _keep_code_private() -> None:
    """torch keeps compiled code to run it again, by default in a folder that others can make."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "torchinductor"))
