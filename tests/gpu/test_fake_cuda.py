"""The forward pass on CUDA tensors without memory: devices, dtypes, and no number read."""

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


@pytest.mark.parametrize("length", [128, 512, 2048])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("run", RUNS)
def test_the_forward_pass_stays_on_the_gpu(run, rows, length):
    recipe, dtype, autocast = RUNS[run]
    model = model_without_memory(recipe_args(recipe, length, LAYERS), dtype)
    batch = micro_batch(rows, length)
    with (
        fake_cuda(),
        KernelsOfCuda(),
        torch.autocast("cuda", autocast, enabled=autocast is not None),
    ):
        move_to_cuda(model)
        with Operations() as operations:
            loss = model(*batch.inputs(CUDA))
    computed = autocast or dtype
    assert loss.device == CUDA and loss.dtype == torch.float32
    assert set(operations.products) == {(computed, computed)}
    # Four of a layer, its attention, the head and the product with the word embeddings.
    assert operations.products.total() == 5 * LAYERS + 2
    assert operations.mixed == operations.doubles == set()


def test_a_tensor_of_the_host_among_those_of_the_gpu_is_an_error():
    with fake_cuda(), pytest.raises(RuntimeError, match=r"cuda:0.* and cpu"):
        torch.empty(3, device=CUDA) + torch.ones(3)


def test_reading_a_number_of_the_gpu_is_an_error():
    with fake_cuda(), pytest.raises(Exception, match=r"_local_scalar_dense"):
        torch.empty(3, device=CUDA).sum().item()
