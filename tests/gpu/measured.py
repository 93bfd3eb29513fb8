"""Kernels and bytes of each recipe's model at its real size, forward and backward.

python -m tests.gpu.measured        prints what test_kernels.py holds to its budgets
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import torch

from pretrain.kernels import attention
from tests.gpu.operations import Kept, KernelsOfCuda, Operations
from tests.gpu.recipes import TOKENS, micro_batch, model_without_memory, recipe_args

META = torch.device("meta")
CASES = (
    *(("classic", "full", 128), ("classic", "padded", 128)),
    *(("paper", "full", 128), ("paper", "padded", 128), ("paper", "packed", 2048)),
    *(("fast", "packed", 128), ("fast-base", "full", 128), ("fast-base", "packed", 128)),
    *(("fast-base", "packed", 512), ("fast-base", "packed", 2048), ("fast-large", "packed", 128)),
)


class Work(NamedTuple):
    """Kernels of a layer's forward and backward pass, and of both outside of the layers.

    written, kept: bytes that a layer's kernels write, and that it keeps for its backward pass, per
    token and unit of the hidden size.
    """

    forward: float
    backward: float
    outside: float
    written: float
    kept: float


class Pass(NamedTuple):
    """A forward and a backward pass, and the bytes kept in between."""

    forward: Operations
    backward: Operations
    kept: int

    @property
    def num_kernels(self) -> int:
        return self.forward.num_kernels + self.backward.num_kernels

    @property
    def written(self) -> int:
        return self.forward.written + self.backward.written


def run_pass(name: str, rows: str, length: int, layers: int | None = None) -> Pass:
    """Of a micro batch, in half precision; layers: None is the recipe's own number."""
    model = model_without_memory(recipe_args(name, length, layers), torch.float16)
    inputs = micro_batch(rows, length).inputs(META)
    kept, forward, backward = Kept(list(model.parameters())), Operations(), Operations()
    with KernelsOfCuda(), patterns_of_cuda():
        with kept, forward:
            loss = model(*inputs)
        with backward:
            loss.backward()
    return Pass(forward, backward, kept.num_bytes)


@contextmanager
def patterns_of_cuda() -> Iterator[None]:
    """Has tensors of the meta device, which autocast does not know, attend as on an A100."""

    def takes_flash(hidden: torch.Tensor, head_dim: int) -> bool:
        return attention.is_built_for_flash(hidden.dtype, head_dim, attention.AMPERE)

    with mock.patch.multiple(
        attention, takes_flash=takes_flash, compute_dtype=lambda hidden: hidden.dtype
    ):
        yield


def work(one: Pass, three: Pass, hidden_size: int) -> Work:
    """From passes through one layer and through three: all but the first are alike."""
    forward = (three.forward.num_kernels - one.forward.num_kernels) / 2
    backward = (three.backward.num_kernels - one.backward.num_kernels) / 2
    outside = one.num_kernels - forward - backward
    unit = 2 * TOKENS * hidden_size
    written, kept = (three.written - one.written) / unit, (three.kept - one.kept) / unit
    return Work(forward, backward, outside, written, kept)


def main() -> None:
    for name, rows, length in CASES:
        one, three = (run_pass(name, rows, length, layers) for layers in (1, 3))
        found = work(one, three, recipe_args(name, length).hidden_size)
        print(f"{(name, rows, length)}: Work({', '.join(f'{n:.4g}' for n in found)}),")


if __name__ == "__main__":
    main()
