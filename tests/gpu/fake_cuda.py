"""CUDA tensors without memory, on machines without a GPU and in torch's builds without CUDA."""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA = torch.device("cuda", 0)
SLOTS = 24  # fewer than the kinds of devices that torch has
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # of c10/core/impl/DeviceGuardImplInterface


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Within it, a tensor can be made on CUDA, or sent there; it has shape, dtype and device alone.

    Torch itself raises where an operator gets tensors of several devices, and where a number is
    read. Only for forward passes: autograd wants streams of a real device.
    """
    with ExitStack() as stack:
        stack.enter_context(_device_guard())
        # Autocast switches itself off where there is no GPU.
        absent = "torch.cuda.amp.common.amp_definitely_not_available"
        stack.enter_context(mock.patch(absent, lambda: False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


@contextmanager
def _device_guard() -> Iterator[None]:
    """Builds without CUDA have no guard that selects a CUDA device; that of meta does nothing."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    slots = (ctypes.c_void_p * SLOTS).in_dll(library, REGISTRY)
    before = slots[DeviceType.CUDA.value]
    slots[DeviceType.CUDA.value] = before or slots[DeviceType.Meta.value]
    try:
        yield
    finally:
        slots[DeviceType.CUDA.value] = before


def move_to_cuda(model: nn.Module) -> nn.Module:
    """Gives a model of the meta device weights on fake CUDA; those that are tied stay so."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved.setdefault(id(tensor), _on_cuda(tensor))
    return model


def _on_cuda(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
    return nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
