"""Each pattern computes what a mask over all pairs would, in memory linear in the row's length."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.kernels import attention
from pretrain.kernels.attention import (
    LONG_ROW,
    ByDocument,
    Dense,
    Documents,
    Flash,
    Windows,
    global_pattern,
    is_built_for_flash,
    local_pattern,
    takes_flash,
)
from pretrain.kernels.bf16_attention import half_attention
from pretrain.kernels.dropout import attention as attend
from pretrain.kernels.linear import multiply_in_bf16
from pretrain.model.model import BasePretrainModel
from pretrain.training.micro_batch import collate
from tests.pretrain.model.test_model import MODERN, every_variant, model_args, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS, HEAD_DIM = 2, 8
WINDOW = {"attention_window": 32, "global_attention_every": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CPU = torch.device("cpu")


def micro_batch(*rows, num_predictions=20):
    """Packed rows, each given by the lengths of its documents; what is left of it is padding."""
    length = max(map(sum, rows))
    sample = np.zeros((len(rows), length), np.uint16)
    for row, lengths in zip(sample, rows, strict=True):
        for number, end in enumerate(np.cumsum(lengths), 1):
            row[end - lengths[number - 1] : end] = number
    generator = np.random.default_rng(0)
    positions = [
        np.sort(generator.permutation(np.arange(1, sum(lengths)))[:num_predictions])
        for lengths in rows
    ]
    return collate(
        {
            "input_ids": generator.integers(5, 61, sample.shape).astype(np.uint16),
            "input_mask": sample,
            "segment_ids": 0 * sample,
            "masked_lm_positions": np.array(positions, np.uint16),
            "masked_lm_ids": generator.integers(5, 61, (len(rows), num_predictions)),
        }
    )


# --- whole models ----------------------------------------------------------------------------


def documents_alone(batch):
    """The forward arguments of each document in a batch of its own, with its predictions."""
    bounds = batch.attention_mask.bounds.tolist()
    for begin, end in pairwise(bounds):
        inside = (batch.prediction_index >= begin) & (batch.prediction_index < end)
        if inside.any():
            ids, segments = (
                part.flatten()[None, begin:end] for part in (batch.input_ids, batch.segment_ids)
            )
            yield ids, segments, None, batch.prediction_index[inside] - begin, batch.labels[inside]


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["global", "windows"])
def test_documents_of_long_rows_are_what_they_are_alone(changes, window):
    """Their logits, and the gradients of all of them together."""
    changes = {**changes, **window, **NO_DROPOUT, "max_seq_length": 600}
    packed, alone = seeded_model(**changes), seeded_model(**changes)
    batch = micro_batch([50, 1, 300, 150], [520], [200, 400])
    assert batch.input_ids.shape == (3, 600) and isinstance(batch.attention_mask, Documents)
    *inputs, labels, positions = batch.inputs(CPU)
    logits = packed(*inputs, None, positions)
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    found = []
    for *document, some_labels in documents_alone(batch):
        found.append(alone(*document))
        loss = torch.nn.functional.cross_entropy(found[-1], some_labels, reduction="sum")
        loss.backward()
    torch.testing.assert_close(logits, torch.cat(found), atol=1e-5, rtol=1e-5)
    others = dict(alone.named_parameters())
    for name, parameter in packed.named_parameters():
        expected = others[name].grad
        scale = expected.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected, atol=1e-5 * scale, rtol=1e-5, msg=name)


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["global", "windows"])
def test_in_bf16_too(window):
    changes = {**MODERN, **window, **NO_DROPOUT, "max_seq_length": 600}
    batch = micro_batch([50, 1, 300, 150], [200, 400])
    losses, gradients = [], []
    for half in (False, True):
        model = seeded_model(**changes)
        if half:
            multiply_in_bf16(model)
        loss = model(*batch.inputs(CPU))
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3) and losses[0] != losses[1]
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()


@pytest.mark.parametrize("length", [40, 600])
def test_padding_does_not_reach_windows(length):
    model = seeded_model(**MODERN, **WINDOW, max_seq_length=length).eval()
    ids = torch.randint(5, 61, (2, length), generator=torch.Generator().manual_seed(0))
    mask, index = torch.ones(2, length, dtype=torch.bool), torch.tensor([0, length // 2])
    mask[0, length - 10 :] = False
    padded = model(ids, 0 * ids, mask, index)
    alone = model(ids[:1, : length - 10], 0 * ids[:1, : length - 10], None, index)
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_windows_are_those_of_modernbert():
    """Half of the window to either side, and in the first and each n-th layer from there, all."""
    model = seeded_model(**MODERN, **WINDOW, num_hidden_layers=5, max_seq_length=40)
    patterns = model.encoder._patterns(None, torch.zeros(1, 40, 32))
    assert [pattern.bias is None for pattern in patterns] == [True, False, True, False, True]
    attends = patterns[1].bias[0, 0] == 0
    assert attends[20].nonzero().flatten().tolist() == list(range(4, 37))
    assert torch.equal(attends, attends.mT) and attends.diagonal().all()


@pytest.mark.parametrize("changes", [{}, WINDOW], ids=["global", "windows"])
def test_gradient_checkpointing_changes_no_gradient_of_long_rows(changes):
    batch, found = micro_batch([200, 400]), []
    for checkpointing in (False, True):
        model = seeded_model(
            **MODERN, **changes, max_seq_length=600, gradient_checkpointing=checkpointing
        )
        torch.manual_seed(1)
        model(*batch.inputs(CPU)).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(map(torch.equal, *found))


def test_the_bias_is_made_once_for_all_layers():
    ids = torch.randint(5, 61, (2, 16))
    mask = torch.arange(16).expand(2, 16) < torch.tensor([[16], [9]])
    model = seeded_model(**MODERN, **NO_DROPOUT)
    with Recorded() as recorded:
        model(ids, 0 * ids, mask, torch.tensor([3]), torch.tensor([7])).backward()
    assert recorded.calls["masked_fill_"] == 1 and "where" not in recorded.calls
    assert recorded.bytes_of["masked_fill_"] == 4 * 2 * 16  # no tokens times tokens


# --- patterns --------------------------------------------------------------------------------


def heads_of(length, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(batch, length, 3, HEADS, HEAD_DIM, generator=generator, dtype=dtype)
    product.requires_grad_()
    return product, product.unbind(2)


def plain_attention(query, key, value, attends):
    """attends: bool [batch, length, length]."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(HEAD_DIM)
    weights = scores.masked_fill(~attends[:, None], -math.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("length", [LONG_ROW - 1, LONG_ROW, 700])
@pytest.mark.parametrize("reach", [1, 64, 100])
@pytest.mark.parametrize("masked", ["none", "padded", "packed"])
def test_windows_against_the_formula(length, reach, masked):
    place = torch.arange(length)
    numbers = {
        "none": None,
        "padded": place < torch.tensor([[length], [length // 3]]),
        "packed": place * torch.tensor([[5], [11]]) // length,
    }[masked]
    attends = ((place[:, None] - place).abs() <= reach).expand(2, -1, -1)
    if numbers is not None:
        attends = attends & (numbers[:, :, None] == numbers[:, None])
    hidden = torch.zeros(2, length, 4, dtype=torch.float64)
    pattern = local_pattern(numbers, hidden, HEAD_DIM, reach)
    assert isinstance(pattern, Dense if length < LONG_ROW else Windows)
    product, heads = heads_of(length)
    output = pattern.attend(*heads, attend, 0.0)
    expected = plain_attention(*heads, attends)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn(output.shape, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(o, product, upstream)[0] for o in (output, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("batch", [1, 2])
def test_windows_are_laid_out_for_fused_attention(batch):
    """torch's fused kernels need vectors whose numbers are neighbours, on a GPU too."""
    strides = []

    def seen(query, key, value, bias, dropout):
        strides.extend(part.stride(-1) for part in (query, key, value))
        return attend(query, key, value, bias, dropout)

    hidden = torch.zeros(batch, 600, 4, dtype=torch.float64)
    _, heads = heads_of(600, batch)
    local_pattern(None, hidden, HEAD_DIM, 64).attend(*heads, seen, 0.0)
    assert strides == [1, 1, 1]


@pytest.mark.parametrize("masked", [False, True])
def test_a_window_wider_than_the_row_takes_what_attention_to_all_takes(masked):
    numbers = torch.arange(600).expand(2, -1) < 500 if masked else None
    hidden = torch.zeros(2, 600, 4)
    near = local_pattern(numbers, hidden, HEAD_DIM, 4096)
    wide = global_pattern(numbers, hidden, HEAD_DIM)
    assert isinstance(near, Dense)
    assert near.bias is None if wide.bias is None else torch.equal(near.bias, wide.bias)


@pytest.mark.parametrize("work", [attend, half_attention])
def test_what_is_dropped_is_dropped_in_the_backward_pass_too(work, monkeypatch):
    """Long documents are computed a second time there. Outputs are linear in the values."""
    monkeypatch.setattr(attention, "QUERIES", 16)
    dtype = torch.float32 if work is attend else torch.bfloat16
    product, heads = heads_of(60, 1, dtype)
    lengths = (10, 50)
    with Recorded() as recorded:
        output = ByDocument(lengths).attend(*heads, work, 0.3)
        (grad,) = torch.autograd.grad(output.float().sum(), product)
    assert recorded.calls["random_"] == 1 + 2 * 4
    by_values = (grad[:, :, 2].float() * heads[2].float()).sum().item()
    close = 1e-4 if work is attend else 0.1
    assert by_values == pytest.approx(output.float().sum().item(), rel=close)


@pytest.mark.parametrize("work", [attend, half_attention])
def test_dropout_in_windows_keeps_the_mean(work):
    torch.manual_seed(0)
    dtype = torch.float32 if work is attend else torch.bfloat16
    _, heads = heads_of(600, 1, dtype)
    pattern = local_pattern(None, torch.zeros(1, 600, 4), HEAD_DIM, 64)
    mean = sum(pattern.attend(*heads, work, 0.25).float() for _ in range(50)) / 50
    exact = pattern.attend(*heads, attend, 0.0).float()
    assert (mean - exact).abs().mean() < 0.1 * exact.abs().mean()


# --- memory ----------------------------------------------------------------------------------


class Recorded(TorchDispatchMode):
    """Calls of each operator, the bytes of its largest output, and those of what is saved."""

    def __enter__(self):
        self.calls, self.bytes_of, self.saved = {}, {}, {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)
        self.hooks.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.hooks.__exit__(*exception)

    def _save(self, tensor):
        self.saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        sizes = [
            tensor.untyped_storage().nbytes()
            for tensor in (result if isinstance(result, tuple | list) else [result])
            if isinstance(tensor, torch.Tensor)
        ]
        self.bytes_of[name] = max([*sizes, self.bytes_of.get(name, 0)])
        return result


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["global", "windows"])
def test_memory_is_linear_in_the_row(half, window):
    """Of documents of 100 tokens, in a row four times as long."""
    saved, largest = [], []
    for length in (600, 2400):
        model = seeded_model(**MODERN, **window, max_seq_length=length)
        if half:
            multiply_in_bf16(model)
        with Recorded() as recorded:
            model(*micro_batch([100] * (length // 100)).inputs(CPU)).backward()
        saved.append(sum(recorded.saved.values()))
        largest.append(max(recorded.bytes_of.values()))
    assert saved[1] < 4.1 * saved[0]
    assert largest[1] < 4.1 * largest[0] and largest[1] < 4 * 2400**2


def test_memory_is_linear_in_a_document(monkeypatch):
    """Of one document that fills its row, attention keeps no weights."""
    monkeypatch.setattr(attention, "QUERIES", 64)
    saved, largest = [], []
    for length in (600, 1200):
        model = seeded_model(**MODERN, max_seq_length=length, num_hidden_layers=1)
        with Recorded() as recorded:
            model(*micro_batch([length]).inputs(CPU)).backward()
        saved.append(sum(recorded.saved.values()))
        largest.append(max(recorded.bytes_of.values()))
    assert saved[1] < 2.1 * saved[0] < 4 * 4 * 600**2
    assert largest[1] < 2.1 * largest[0]


# --- on a GPU --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "fits"),
    [
        (torch.float16, 64, (8, 0), True),
        (torch.bfloat16, 64, (12, 0), True),
        (torch.float32, 64, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
        (torch.float16, 36, (9, 0), False),
        (torch.float16, 256, (8, 6), False),
        (torch.float16, 64, (0, 0), False),  # torch without it
    ],
)
def test_where_flash_attention_is_built_for_it(dtype, head_dim, capability, fits):
    assert is_built_for_flash(dtype, head_dim, capability) == fits


def test_cards_that_are_new_enough_take_it(monkeypatch):
    hidden = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float16)
    assert takes_flash(hidden, 64)
    monkeypatch.setattr(attention, "_capability", lambda device: (7, 5))
    assert not takes_flash(hidden, 64)
    assert not takes_flash(torch.zeros(1, dtype=torch.float16), 64)


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["global", "windows"])
def test_forward_and_backward_pass_of_long_rows_on_a_gpu(window, monkeypatch):
    """Without memory, and so without a number that the host could wait for."""
    monkeypatch.setattr(attention, "takes_flash", lambda hidden, head_dim: True)
    batch = micro_batch([100] * 6, [50, 500])
    with torch.device("meta"):
        args = model_args(**MODERN, **window, max_seq_length=600, num_hidden_layers=4)
        model = BasePretrainModel(args).half()
    with Recorded() as recorded:
        model(*batch.inputs(torch.device("meta"))).backward()
    assert recorded.calls["_flash_attention_forward"] == 4
    assert recorded.calls["_flash_attention_backward"] == 4
    assert "masked_fill_" not in recorded.calls
    assert recorded.calls["addcmul_"] == 2 * 2 * 4  # of the rotations: their only kernels but mul
    assert not any(name.startswith("_scaled_dot_product") for name in recorded.calls)
    assert max(recorded.bytes_of.values()) < 600 * 600


def test_what_flash_attention_is_asked_for(monkeypatch):
    asked = []

    def flash(query, key, value, *others, **named):
        asked.append((tuple(query.shape), others, named))
        return (query,)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    monkeypatch.setattr(attention, "takes_flash", lambda hidden, head_dim: True)
    documents = micro_batch([100, 300, 150], [400]).attention_mask
    hidden = torch.zeros(2, 550, HEADS * HEAD_DIM)
    _, heads = heads_of(550)
    wide = global_pattern(documents, hidden, HEAD_DIM)
    near = local_pattern(documents, hidden, HEAD_DIM, 64)
    assert isinstance(wide, Flash) and isinstance(near, Flash)
    for pattern, reach in ((wide, None), (near, 64)):
        assert pattern.attend(*heads, attend, 0.1).shape == heads[0].shape
        shape, (queries, keys, *others), named = asked.pop()
        assert shape == (2 * 550, HEADS, HEAD_DIM)
        assert queries.tolist() == [0, 100, 400, 550, 950, 1014, 1078, 1100] == keys.tolist()
        assert queries.dtype == torch.int32
        assert others == [512, 512, 0.1, False, False]
        assert named == {"window_size_left": reach, "window_size_right": reach}
