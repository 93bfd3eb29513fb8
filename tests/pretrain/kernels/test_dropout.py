"""What is dropped, how often, and from which random state; attention against its plain formula."""

import math

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.kernels import dropout
from pretrain.kernels.dropout import Dropout, attention, draw_kept

SHAPE = (3, 4, 10, 8)  # batch, heads, length, head_dim


def _heads(*shape, dtype=torch.float64, seed=0):
    """Query, key and value as the model makes them: views of one product."""
    batch, heads, length, width = shape
    generator = torch.Generator().manual_seed(seed)
    product = torch.randn(batch, length, 3, heads, width, generator=generator).to(dtype)
    product.requires_grad_()
    return product, product.permute(2, 0, 3, 1, 4)


def _masks(batch, length):
    """None; padding [batch, 1, 1, length]; packed samples [batch, 1, length, length]."""
    lengths = torch.arange(batch)[:, None] * 2 + length - 2 * batch
    padding = (torch.arange(length) <= lengths)[:, None, None]
    sample = torch.arange(length) * 3 // length
    packed = (sample[:, None] == sample).expand(batch, 1, length, length)
    return {"none": None, "padding": padding, "packed": packed}


def _plain_attention(query, key, value, mask, kept, scale):
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) * kept * scale) @ value


# --- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 65536])
def test_share_of_dropped_elements(p):
    size = 1 << 20
    share = 1 - draw_kept(torch.Size((size,)), p).double().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / size) + 1 / 65536


def test_elements_are_dropped_independently_of_their_neighbours():
    kept = draw_kept(torch.Size((1 << 20,)), 0.3).double() - 0.7
    for distance in (1, 2, 3, 4, 5, 64, 312, 624, 2496):
        correlation = (kept[distance:] * kept[:-distance]).mean().item() / (0.3 * 0.7)
        assert abs(correlation) < 5 / math.sqrt(1 << 20), distance


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0, 4), (5, 7, 3)])
def test_any_shape_can_be_drawn(shape):
    kept = draw_kept(torch.Size(shape), 0.5)
    assert kept.shape == shape and kept.dtype == torch.int16
    assert set(kept.unique().tolist()) <= {0, 1}


def test_calls_differ_and_the_seed_repeats_them():
    torch.manual_seed(5)
    first, second = (draw_kept(torch.Size((1000,)), 0.5) for _ in range(2))
    assert 300 < (first != second).sum() < 700
    torch.manual_seed(5)
    assert torch.equal(draw_kept(torch.Size((1000,)), 0.5), first)


# --- hidden states ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kept_elements_are_scaled_so_that_the_mean_stays(dtype):
    torch.manual_seed(0)
    ones = torch.ones(1000, 100, dtype=dtype)
    result = Dropout(0.25).train()(ones)
    assert result.dtype == dtype
    torch.testing.assert_close(result.unique(), torch.tensor([0, 4 / 3], dtype=dtype))
    assert result.double().mean().item() == pytest.approx(1.0, abs=0.01)


def test_gradient_passes_where_elements_were_kept():
    hidden = torch.randn(50, 20, dtype=torch.float64).requires_grad_()
    result = Dropout(0.3).train()(hidden)
    upstream = torch.randn(50, 20, dtype=torch.float64)
    (grad,) = torch.autograd.grad(result, hidden, upstream)
    factor = (result / hidden).detach()
    torch.testing.assert_close(grad, upstream * factor)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_identity_draws_nothing(p, training):
    state, hidden = torch.get_rng_state(), torch.randn(3, generator=torch.Generator())
    assert Dropout(p).train(training)(hidden) is hidden
    assert torch.equal(torch.get_rng_state(), state)


def test_everything_can_be_dropped():
    assert not Dropout(1.0).train()(torch.ones(100)).any()


def test_input_need_not_be_contiguous():
    hidden = torch.ones(20, 30).t()
    assert Dropout(0.5).train()(hidden).count_nonzero() < 450


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_drops_the_same_when_it_is_computed_again(reentrant):
    module, weight = Dropout(0.5).train(), torch.randn(40, 40)

    def layer(hidden):
        query = module(hidden @ weight).view(2, 2, 10, 40)
        return module(attention(query, query, query, None, 0.5))

    grads = []
    for through in (layer, lambda hidden: checkpoint(layer, hidden, use_reentrant=reentrant)):
        hidden = torch.ones(40, 40).requires_grad_()
        torch.manual_seed(7)
        through(hidden).sum().backward()
        grads.append(hidden.grad)
    assert torch.equal(*grads)


def test_compiled_code_has_torchs_own_dropout():
    compiled = torch.compile(Dropout(0.5).train(), backend="eager", fullgraph=True)
    share = (compiled(torch.ones(1000)) == 0).double().mean().item()
    assert 0.4 < share < 0.6


# --- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "padding", "packed"])
def test_without_dropout_it_is_torchs_attention(mask):
    _, heads = _heads(*SHAPE)
    mask = _masks(SHAPE[0], SHAPE[2])[mask]
    expected = functional.scaled_dot_product_attention(*heads, attn_mask=mask)
    assert torch.equal(attention(*heads, mask, 0.0), expected)


@pytest.mark.parametrize("mask", ["none", "padding", "packed"])
@pytest.mark.parametrize("num_heads", [1, 3, 8, 100])  # of 3 rows of 4; at a time
def test_attention_and_its_gradients_are_those_of_the_formula(mask, num_heads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(dropout, "PIECE", num_heads * SHAPE[2] ** 2)
    mask = _masks(SHAPE[0], SHAPE[2])[mask]
    upstream = torch.randn(SHAPE, dtype=torch.float64)
    product, heads = _heads(*SHAPE)
    torch.manual_seed(3)
    result = attention(*heads, mask, 0.3)
    (grad,) = torch.autograd.grad(result, product, upstream)
    torch.manual_seed(3)
    kept = draw_kept(torch.Size((3, 4, 10, 10)), 0.3)
    same, heads = _heads(*SHAPE)
    expected = _plain_attention(*heads, mask, kept, 65536 / (65536 - round(0.3 * 65536)))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, same, upstream)[0])


def test_pieces_do_not_change_what_is_dropped(monkeypatch):
    results = []
    for piece in (1, 1 << 20):
        monkeypatch.setattr(dropout, "PIECE", piece)
        torch.manual_seed(0)
        results.append(attention(*_heads(*SHAPE)[1], None, 0.5))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mask", ["none", "padding", "packed"])
def test_on_average_dropout_changes_nothing(mask):
    mask = _masks(2, 6)[mask]
    _, heads = _heads(2, 2, 6, 4)
    many = [part.detach().repeat(2000, 1, 1, 1) for part in heads]
    spread = None if mask is None else mask.repeat(2000, 1, 1, 1)
    mean = attention(*many, spread, 0.2).view(2000, 2, 2, 6, 4).mean(0)
    expected = attention(*heads, mask, 0.0)
    torch.testing.assert_close(mean, expected.detach(), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [
        (torch.bfloat16, False),
        (torch.float16, False),
        (torch.bfloat16, True),
        (torch.float32, True),
    ],
)
def test_half_precision_and_autocast(dtype, autocast):
    product, heads = _heads(*SHAPE, dtype=dtype)
    exact, same = _heads(*SHAPE)
    with torch.autocast("cpu", enabled=autocast):
        torch.manual_seed(1)
        result = attention(*heads, None, 0.1)
        result.sum().backward()
    torch.manual_seed(1)
    expected = attention(*same, None, 0.1)
    expected.sum().backward()
    assert result.dtype == dtype and product.grad.dtype == dtype
    for ours, theirs in ((result, expected), (product.grad, exact.grad)):
        torch.testing.assert_close(ours.double(), theirs, atol=0.05, rtol=0.02)


def test_no_gradient_is_made_for_what_needs_none():
    _, (query, key, value) = _heads(*SHAPE)
    result = attention(query.detach(), key.detach(), value, None, 0.5)
    (grad,) = torch.autograd.grad(result.sum(), value)
    assert grad.shape == value.shape


def test_a_query_without_any_key_makes_no_nan():
    _, heads = _heads(*SHAPE, dtype=torch.float32)
    nothing = torch.zeros(SHAPE[0], 1, 1, SHAPE[2], dtype=torch.bool)
    assert attention(*heads, nothing, 0.1).isfinite().all()
