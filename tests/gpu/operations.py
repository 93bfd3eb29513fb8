"""What a GPU would be given to do, from a pass over tensors without memory.

Tensors on torch's meta device, or fake ones (FakeTensorMode), have shapes and dtypes alone, so that
the largest model takes a second. Below autograd, each operator that computes stands for one kernel;
the true number is a little higher, as a few of torch's launch two or three.
"""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They return memory, or another view of it; `is_view` tells of the rest.
WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addbmm", "convolution")
ATTENTION_PRODUCTS = ("flash_attention", "efficient_attention", "varlen_attn")
HALF = (torch.float16, torch.bfloat16)
BIAS_ALIGNMENT = 8  # elements; of a row of the bias that efficient attention takes


class Operations(TorchDispatchMode):
    """Records the kernels of what runs within it.

    kernels: how many of each operator. written: bytes of all results. products: how many matrix
    products and attentions, by the dtypes of their first two factors. doubles: operators that
    computed in fp64. mixed: operators that were given tensors of several devices, but for numbers
    (tensors [] of the host).
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.written = 0
        self.products: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
        self.doubles: set[str] = set()
        self.mixed: set[str] = set()

    @property
    def num_kernels(self) -> int:
        return self.kernels.total()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = operator(*args, **kwargs)
        name = operator._schema.name.split("::")[1]
        if operator.is_view or name in WITHOUT_KERNEL:
            return results
        inputs, outputs = list(_tensors((args, kwargs))), list(_tensors(results))
        self.kernels[name] += 1
        self.written += sum(output.numel() * output.element_size() for output in outputs)
        if len({t.device for t in inputs if t.dim() or t.device.type != "cpu"}) > 1:
            self.mixed.add(name)
        if any(t.dtype == torch.float64 for t in outputs):
            self.doubles.add(name)
        if _is_product(name):
            self.products[inputs[0].dtype, inputs[1].dtype] += 1
        return results


def _tensors(tree) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _is_product(name: str) -> bool:
    return name in PRODUCTS or any(part in name for part in ATTENTION_PRODUCTS)


class Kept(saved_tensors_hooks):
    """Bytes that the forward passes within it keep for the backward pass, besides the weights."""

    def __init__(self, weights: list[Tensor]):
        self._weights = {weight.untyped_storage()._cdata for weight in weights}
        self._storages: dict[int, torch.UntypedStorage] = {}  # kept alive: addresses are used again
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages[storage._cdata] = storage
        return tensor

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


class KernelsOfCuda(TorchFunctionMode):
    """Has torch take the kernels that it takes on a GPU from sm_80 on.

    Without memory, and without a GPU, it takes formulas instead. Dropout is one kernel. Attention
    in half precision without a mask is flash attention; cuDNN's, on sm_90 and sm_100, is one kernel
    as well. With a mask, or in fp32, it is the memory-efficient one, for which each call makes a
    bias out of a boolean mask (aten/src/ATen/native/transformers/attention.cpp).
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        if function is functional.dropout:
            return _dropout(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _dropout(hidden: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False):
    return torch.native_dropout(hidden, p, training)[0] if training and p else hidden


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    if attn_mask is None and query.dtype in HALF:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    bias = attn_mask
    if bias is not None:
        bias = _bias(bias, query.dtype).expand(*query.shape[:3], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores; torch pads rows that are not aligned."""
    if mask.dtype == torch.bool:
        lowest = torch.scalar_tensor(float("-inf"), dtype=dtype, device=mask.device)
        mask = torch.where(mask, 0.0, lowest)
    if rest := -mask.shape[-1] % BIAS_ALIGNMENT:
        return functional.pad(mask, (0, rest))[..., : mask.shape[-1]]
    return mask
