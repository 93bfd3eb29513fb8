"""torch.compile, where it works."""

from collections.abc import Callable

import torch

from pretrain import distributed
from pretrain.data import MicroBatch


def compile_if_possible(
    model: torch.nn.Module, batch: MicroBatch, device: torch.device, say: Callable[[str], None]
) -> bool:
    """Compiles the model in place if a forward and backward pass of `batch` work then, on all
    ranks; else says why not and leaves it as it was. Returns whether it is compiled.
    """
    model.compile(dynamic=None)
    reason = ""
    try:
        model(*batch.inputs(device)).backward()
    except Exception as error:  # whatever a compiler may raise, training works without it
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    model.zero_grad(set_to_none=True)
    (failures,) = distributed.sum_numbers(float(bool(reason)))
    if failures:
        model._compiled_call_impl = None
        say(f"torch.compile does not work here ({reason or 'on another rank'}); going on without")
    return not failures
