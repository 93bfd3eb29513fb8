"""Rows that are updated when they are needed end where dense AdamW takes them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from finetune.training.optimizer import BETAS, EPS, FinetuningOptimizer, RowAdamW, sparse_embedding

NUM_ROWS, WIDTH, DECAY = 120, 8, 0.1


def _batches(num_steps: int, scale: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Words, common and rare ones, and the gradient of each; repeated words within a batch."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, NUM_ROWS + 1)
    batches = []
    for _ in range(num_steps):
        ids = random.choice(NUM_ROWS, 10, p=shares / shares.sum())
        sizes = scale * 10.0 ** random.normal(size=(10, 1))
        batches.append(
            (torch.from_numpy(ids), torch.from_numpy(random.normal(size=(10, 8)) * sizes))
        )
    return batches


def _dense(weight, batches, rates, dtype):
    weight = nn.Parameter(weight.to(dtype, copy=True))
    optimizer = torch.optim.AdamW([weight], betas=BETAS, eps=EPS, weight_decay=DECAY)
    for (ids, grads), rate in zip(batches, rates, strict=True):
        weight.grad = torch.zeros_like(weight).index_add_(0, ids, grads.to(dtype))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return weight.detach()


def _by_rows(weight, batches, rates):
    weight = nn.Parameter(weight.clone())
    rows = RowAdamW(weight, DECAY, len(batches))
    for (ids, grads), rate in zip(batches, rates, strict=True):
        rows.catch_up(ids.unique())
        grad = torch.zeros(NUM_ROWS, WIDTH).index_add_(0, ids, grads.float())
        weight.grad = grad.to_sparse(1)
        rows.gather_gradient()
        rows.step(rate)
    rows.flush()
    return weight.detach()


@pytest.mark.parametrize("peak", [5e-5, 1e-3])
@pytest.mark.parametrize("scale", [1e-2, 1e-5, 1e-7])  # down to where eps is what counts
def test_rows_end_where_dense_adamw_takes_them(peak, scale):
    num_steps = 300
    rates = [peak * min(1, i / 18) * (1 - i / num_steps) for i in range(num_steps)]
    weight = torch.randn(NUM_ROWS, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.05
    batches = _batches(num_steps, scale)
    exact = _dense(weight, batches, rates, torch.float64)
    ours = _by_rows(weight, batches, rates)
    error = (ours - exact).norm() / exact.norm()
    rounding = (_dense(weight, batches, rates, torch.float32) - exact).norm() / exact.norm()
    assert error < max(1e-6, 2 * rounding) if peak < 1e-4 else error < 1e-5
    moved = (exact - weight).norm() / exact.norm()
    assert moved > 1000 * error  # or nothing would have been tested


def test_rows_that_are_never_used_only_decay():
    weight = torch.ones(NUM_ROWS, WIDTH)
    batches = [(torch.zeros(10, dtype=torch.int64), torch.ones(10, WIDTH))] * 50
    ours = _by_rows(weight, batches, [1e-2] * 50)
    torch.testing.assert_close(ours[5], torch.full((WIDTH,), (1 - 1e-3) ** 50))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 6, padding_idx=0)
        self.positions = nn.Embedding(5, 6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 2)

    def get_input_embeddings(self):
        return self.words

    def forward(self, ids):
        hidden = self.words(ids) + self.positions(torch.arange(5))
        return self.out(self.norm(hidden).mean(1))


@pytest.mark.parametrize("max_norm", [0.0, 0.1, 100.0])
def test_a_model_is_trained_as_by_torch(max_norm):
    torch.manual_seed(0)
    ours = Model()
    theirs = copy.deepcopy(ours)
    optimizer = FinetuningOptimizer(ours, 1e-2, DECAY, max_norm, max_steps=30)
    decayed = [theirs.words.weight, theirs.positions.weight, theirs.out.weight]
    others = [theirs.norm.weight, theirs.norm.bias, theirs.out.bias]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=BETAS, eps=EPS)
    for number in range(30):
        ids = torch.randint(40, (4, 5), generator=torch.Generator().manual_seed(number))
        ids[0, 3:] = 0
        for model in (ours, theirs):
            if model is ours:
                optimizer.prepare([ids[:2], ids[2:]])
            for part in (ids[:2], ids[2:]):  # gradients add up, also sparse ones
                model(part).pow(2).sum().backward()
        optimizer.step()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        reference.step()
        reference.zero_grad()
    optimizer.flush()
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, atol=2e-5, rtol=1e-4)


def test_what_else_uses_the_words_makes_them_dense():
    model = Model()
    assert sparse_embedding(model) is model.words
    model.decoder = nn.Linear(6, 40)
    model.decoder.weight = model.words.weight
    assert sparse_embedding(model) is None
    model = Model()
    model.words.weight.requires_grad_(False)
    assert sparse_embedding(model) is None
    model.words = nn.Embedding(40, 6, max_norm=1.0)
    assert sparse_embedding(model) is None
