"""The forward pass on CUDA tensors without memory: devices, dtypes, and no number read."""

from argparse import Namespace

import pytest
import torch

from tests.gpu.fake_cuda import CUDA, fake_cuda, move_to_cuda
from tests.gpu.operations import KernelsOfCuda, Operations
from tests.gpu.recipes import ROWS, micro_batch, model_without_memory, recipe_args

LAYERS = 2
# (recipe, dtype of the weights, of autocast).
RUNS = {
    "paper fp16 ZeRO-1": ("paper", torch.float16, None),
    "fast-base bf16 Muon": ("fast-base", torch.float32, torch.bfloat16),
    "paper fp32": ("paper", torch.float32, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 512, 2048])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("run", RUNS)
def test_the_forward_pass_stays_on_the_gpu(run, rows, length):
    recipe, weights, autocast = RUNS[run]
    operations = _forward(recipe_args(recipe, length, LAYERS), rows, weights, autocast)
    if run != "paper fp32":  # long rows of which attend document by document
        # Four of a layer, its attention, the head and the product with the word embeddings.
        assert operations.products.total() == 5 * LAYERS + 2


@pytest.mark.parametrize("length", [128, 2048])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_windows_stay_on_the_gpu(dtype, length):
    windows = {"attention_window": 64, "global_attention_every": 2}
    _forward(recipe_args("fast-base", length, LAYERS, **windows), "packed", dtype, None)


def _forward(
    args: Namespace, rows: str, weights: torch.dtype, autocast: torch.dtype | None
) -> Operations:
    """The operations of a forward pass, after checks of devices and dtypes."""
    model, batch = model_without_memory(args, weights), micro_batch(rows, args.max_seq_length)
    with fake_cuda(), KernelsOfCuda():
        move_to_cuda(model)
        on_cuda = torch.autocast("cuda", autocast, enabled=autocast is not None)
        with on_cuda, Operations() as operations:
            loss = model(*batch.inputs(CUDA))
    computed = autocast or weights
    assert loss.device == CUDA and loss.dtype == torch.float32
    assert set(operations.products) == {(computed, computed)}
    assert operations.mixed == operations.doubles == set()
    return operations


def test_a_tensor_of_the_host_among_those_of_the_gpu_is_an_error():
    with fake_cuda(), pytest.raises(RuntimeError, match=r"cuda:0.*cpu"):
        torch.empty(3, device=CUDA) + torch.ones(3)


def test_reading_a_number_of_the_gpu_is_an_error():
    with fake_cuda(), pytest.raises(Exception, match=r"_local_scalar_dense"):
        torch.empty(3, device=CUDA).sum().item()
