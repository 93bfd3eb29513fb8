"""Decay groups, and that every optimizer steps as torch's own does."""

from argparse import Namespace

import pytest
import torch

from pretrain import flags
from pretrain.optimizers import OPTIMIZERS, build_optimizer, decay_groups

SETTINGS = Namespace(
    lr=0.1, weight_decay=0.01, adam_beta1=0.9, adam_beta2=0.98, adam_eps=1e-6, momentum=0.9
)


def _model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def test_matrices_decay_and_biases_and_norms_do_not():
    decayed, kept = decay_groups(_model(), 0.01)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 4)]
    assert [tuple(p.shape) for p in kept["params"]] == [(3,)] * 3


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda g: torch.optim.AdamW(g, lr=0.1, betas=(0.9, 0.98), eps=1e-6)),
        ("adam", lambda g: torch.optim.Adam(g, lr=0.1, betas=(0.9, 0.98), eps=1e-6)),
        ("sgd", lambda g: torch.optim.SGD(g, lr=0.1)),
        ("sgd-momentum", lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9)),
    ],
)
def test_steps_equal_torchs_own(name, reference):
    ours, theirs = _model(), _model()
    args = Namespace(**vars(SETTINGS), optimizer_type=name)
    optimizers = build_optimizer(ours, args), reference(decay_groups(theirs, 0.01))
    inputs = torch.randn(5, 4)
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_flags_offer_every_optimizer():
    assert tuple(OPTIMIZERS) == flags.OPTIMIZERS
