"""The measure itself: what counts as a kernel, which bytes, which products."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.gpu.operations import Kept, KernelsOfCuda, Operations

META = torch.device("meta")
BATCH, INNER, OUTER = 32, 64, 256


def test_kernels_and_bytes_of_a_linear_layer_and_its_activation():
    layer = nn.Linear(INNER, OUTER, device=META, dtype=torch.float16)
    hidden = torch.empty(2, BATCH // 2, INNER, device=META, dtype=torch.float16, requires_grad=True)
    kept, forward, backward = Kept(list(layer.parameters())), Operations(), Operations()
    with kept, forward:
        result = functional.gelu(layer(hidden))
    with backward:
        result.backward(torch.empty_like(result))
    assert forward.kernels == {"addmm": 1, "gelu": 1}  # views of hidden and weight are none
    assert forward.written == 2 * BATCH * OUTER * 2
    # The input, for the weight's gradient, and what goes into the activation; not the weight.
    assert kept.num_bytes == BATCH * (INNER + OUTER) * 2
    assert backward.kernels == {"gelu_backward": 1, "mm": 2, "sum": 1}
    of_inputs, of_weights = BATCH * INNER, INNER * OUTER + OUTER
    assert backward.written == (BATCH * OUTER + of_inputs + of_weights) * 2
    assert forward.products + backward.products == {(torch.float16, torch.float16): 3}


@pytest.mark.parametrize(
    ("dtype", "masked", "expected"),
    [
        (torch.float16, False, {"_scaled_dot_product_flash_attention": 1}),
        (torch.float32, False, {"_scaled_dot_product_efficient_attention": 1}),
        (
            torch.bfloat16,
            True,
            {"scalar_tensor": 2, "where": 1, "_scaled_dot_product_efficient_attention": 1},
        ),
    ],
)
def test_attention_and_dropout_are_what_they_are_on_a_gpu(dtype, masked, expected):
    heads = torch.empty(2, 4, 16, 8, device=META, dtype=dtype)
    mask = torch.empty(2, 1, 1, 16, device=META, dtype=torch.bool) if masked else None
    with KernelsOfCuda(), Operations() as operations:
        functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask, dropout_p=0.1)
    assert operations.kernels == expected
    with KernelsOfCuda(), Operations() as operations:
        functional.dropout(functional.dropout(heads, 0.1), 0.1, training=False)
    assert operations.kernels == {"native_dropout": 1}


def test_tensors_of_two_devices_and_fp64_are_noted():
    host, device = torch.ones(3), torch.empty(3, device=META)
    with Operations() as operations:
        device * torch.tensor(2.0)  # a number may be the host's
        assert operations.mixed == operations.doubles == set()
        torch.index_select(device, 0, torch.tensor([0, 1]))
        host.double() * 2
    assert operations.mixed == {"index_select"} and operations.doubles == {"_to_copy", "mul"}
