"""Optimizers against torch's own and against their papers' formulas, and what ZeRO asks of them."""

import math
from argparse import Namespace
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from configs.defaults import OPTIMIZERS as OPTIMIZER_NAMES
from configs.pretrain_rules import ELEMENTWISE_OPTIMIZERS
from pretrain.model.model import build_model
from pretrain.optimization.lr_curves import CurveShape, LearningRateSchedule
from pretrain.optimization.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    decay_groups,
    layer_matrices,
)
from tests.forked import start
from tests.pretrain.model.test_model import model_args

PROJECT = Path(__file__).resolve().parents[3]
IDS = torch.arange(16)
TARGETS = (IDS * 7 + 3) % 16
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def settings(name, **changes):
    values = {
        "optimizer_type": name,
        "lr": 0.02,
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_eps": 1e-6,
        "momentum": 0.9,
        "muon_learning_rate": 0.05,
        "muon_momentum": 0.95,
    }
    return Namespace(**{**values, **changes})


class Tiny(nn.Module):
    """An embedding, a layer with stacked queries, keys and values, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Embedding(16, 8)
        parts = {"qkv": nn.Linear(8, 24), "norm": nn.LayerNorm(8), "output": nn.Linear(24, 8)}
        self.layers = nn.ModuleList([nn.ModuleDict(parts)])
        self.head = nn.Linear(8, 16)

    def forward(self, ids, targets):
        """Mean cross entropy, in nats."""
        hidden, layer = self.embeddings(ids), self.layers[0]
        inner = layer["qkv"](layer["norm"](hidden)).relu()
        return nn.functional.cross_entropy(self.head(hidden + layer["output"](inner)), targets)


def train(model, optimizer, num_steps):
    losses = []
    for _ in range(num_steps):
        loss = model(IDS, TARGETS)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same(ours, theirs):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def parameter(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(shape, generator=generator) * scale)


def gradient(p, seed, scale=1.0):
    return torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) * scale


def model_of(parameters):
    """As much of a model with these parameters as optimizers look at."""
    return Namespace(named_parameters=parameters.items, modules=list)


# --- groups ----------------------------------------------------------------------------------


def test_matrices_decay_and_biases_and_norms_do_not():
    decayed, kept = decay_groups(Tiny(), 0.01)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    shapes = [tuple(p.shape) for p in decayed["params"]]
    assert shapes == [(16, 8), (24, 8), (8, 24), (16, 8)]
    assert [tuple(p.shape) for p in kept["params"]] == [(24,), (8,), (8,), (8,), (16,)]


@every_optimizer
def test_every_trained_parameter_is_in_one_group_and_vectors_never_decay(name):
    model = Tiny()
    model.head.bias.requires_grad_(False)
    groups = build_optimizer(model, settings(name)).param_groups
    found = [id(p) for group in groups for p in group["params"]]
    wanted = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(found) == sorted(wanted)
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.01}


LAYER_PARTS = {
    "bert-mlm": ("attention.qkv", "attention.output", "feed_forward.input", "feed_forward.output"),
    "bert": (
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    ),
    "modernbert": ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
    "distilbert": (
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        *("ffn.lin1", "ffn.lin2"),
    ),
}
LAYER_PARTS["ibert"] = LAYER_PARTS["roberta"] = LAYER_PARTS["electra"] = LAYER_PARTS["bert"]


@pytest.mark.parametrize("model_type", LAYER_PARTS)
def test_muons_matrices_are_those_of_the_layers(model_type):
    special_ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    model = build_model(model_args(model_type=model_type, special_ids=special_ids))
    expected = [f"{n}.{part}.weight" for n in range(3) for part in LAYER_PARTS[model_type]]
    found = [name.partition("layer")[2].partition(".")[2] for name in layer_matrices(model)]
    assert sorted(found) == sorted(expected)


def test_muon_splits_queries_keys_and_values_and_has_a_peak_of_its_own():
    model = Tiny()
    optimizer = build_optimizer(model, settings("muon"))
    layer = model.layers[0]
    stacked = {group["num_parts"]: group["params"] for group in optimizer.param_groups[2:]}
    assert [list(map(id, stacked[n])) for n in (1, 3)] == [
        [id(layer["output"].weight)],
        [id(layer["qkv"].weight)],
    ]
    LearningRateSchedule(optimizer, 0.02, "linear", CurveShape(warmup=0.0)).set_progress(0.5)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.01, 0.01, 0.025, 0.025])


# --- against torch's own ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda g: torch.optim.AdamW(g, lr=0.02, betas=(0.9, 0.98), eps=1e-6)),
        ("adam", lambda g: torch.optim.Adam(g, lr=0.02, betas=(0.9, 0.98), eps=1e-6)),
        ("sgd", lambda g: torch.optim.SGD(g, lr=0.02)),
        ("sgd-momentum", lambda g: torch.optim.SGD(g, lr=0.02, momentum=0.9)),
        ("adafactor", lambda g: torch.optim.Adafactor(g, lr=0.02)),
    ],
)
def test_steps_equal_torchs_own(name, reference):
    ours, theirs = Tiny(), Tiny()
    train(ours, build_optimizer(ours, settings(name)), 3)
    train(theirs, reference(decay_groups(theirs, 0.01)), 3)
    assert_same(ours, theirs)


# --- against the papers' formulas ------------------------------------------------------------


def lamb_by_formula(x, gradients, lr, weight_decay, has_trust_ratio):
    """Algorithm 2 of You et al. (2020) with phi(z) = z, b1 = 0.9, b2 = 0.98, eps = 1e-6."""
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g**2
        r = (m / (1 - 0.9**t)) / ((v / (1 - 0.98**t)).sqrt() + 1e-6)
        update = r + weight_decay * x
        ratio = x.norm() / update.norm() if has_trust_ratio else 1.0
        x = x - lr * ratio * update
    return x


@pytest.mark.parametrize("scale", [1.0, 100.0])  # the package cuts norms above 10 off
def test_lamb_follows_its_paper(scale):
    matrix, vector = parameter(6, 5, scale=scale), parameter(7, scale=scale, seed=1)
    expected = []
    for p, decay in ((matrix, 0.1), (vector, 0.0)):
        gradients = [gradient(p, seed) for seed in (2, 3, 4)]
        expected.append(lamb_by_formula(p.detach(), gradients, 0.02, decay, p.ndim == 2))
    groups = [
        {"params": [matrix], "weight_decay": 0.1},
        {"params": [vector], "weight_decay": 0.0},
    ]
    optimizer = OPTIMIZERS["lamb"](groups, settings("lamb"))
    for seed in (2, 3, 4):
        for p in (matrix, vector):
            p.grad = gradient(p, seed)
        optimizer.step()
    for p, value in zip((matrix, vector), expected, strict=True):
        torch.testing.assert_close(p.detach(), value)


def test_stable_adamw_follows_its_paper():
    """StableAdamW of Wortsman et al. (2023); the third gradient is large enough to be clipped."""
    p = parameter(6, 5)
    gradients = [gradient(p, seed, scale) for seed, scale in ((1, 1.0), (2, 0.5), (3, 20.0))]
    theta, v, u, clipped = p.detach().clone(), 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.98))
        v, u = b1 * v + (1 - b1) * g, b2 * u + (1 - b2) * g**2
        rms = (g**2 / u.clamp(min=1e-12)).mean().sqrt()
        clipped.append(rms.item() > 1.01)
        lr = 0.02 / max(1.0, rms.item())
        theta = theta - lr * 0.1 * theta - lr * v / (u.sqrt() + 1e-6)
    assert clipped == [False, False, True]
    groups = [{"params": [p], "weight_decay": 0.1}]
    optimizer = OPTIMIZERS["stable-adamw"](groups, settings("stable-adamw"))
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(p.detach(), theta)


# --- all of them -----------------------------------------------------------------------------

RATES = {"sgd": 0.5, "adafactor": 0.1, "lamb": 0.05}  # of a tiny problem; else 0.02


@every_optimizer
def test_the_loss_falls(name):
    model = Tiny()
    losses = train(model, build_optimizer(model, settings(name, lr=RATES.get(name, 0.02))), 60)
    assert losses[0] > 2.5 and losses[-1] < 0.5


def restore_from_state_dict(old, new):
    new.load_state_dict(deepcopy(old.state_dict()))


def restore_tensor_by_tensor(old, new):
    """As checkpoints do that know parameters by name, and no optimizer."""
    for group, other in zip(old.param_groups, new.param_groups, strict=True):
        if "step" in group:
            other["step"] = group["step"]
        for p, q in zip(group["params"], other["params"], strict=True):
            for kind, value in old.state.get(p, {}).items():
                if isinstance(value, torch.Tensor):
                    new.state[q][kind] = value.clone()


@every_optimizer
@pytest.mark.parametrize("restore", [restore_from_state_dict, restore_tensor_by_tensor])
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(name, restore):
    old, new = Tiny(), Tiny()
    steppers = [build_optimizer(model, settings(name)) for model in (old, new)]
    train(old, steppers[0], 3)
    new.load_state_dict(old.state_dict())
    restore(*steppers)
    losses = [train(m, o, 3) for m, o in zip((old, new), steppers, strict=True)]
    assert losses[0] == losses[1]


@every_optimizer
def test_parameters_without_gradient_stay_as_they_are(name):
    model = Tiny()
    optimizer = build_optimizer(model, settings(name))
    before = [p.detach().clone() for p in model.layers.parameters()]
    train(model, optimizer, 1)
    after = [p.detach().clone() for p in model.layers.parameters()]
    optimizer.zero_grad(set_to_none=True)
    model.head(torch.ones(8)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, p) for a, p in zip(after, model.layers.parameters(), strict=True))


@every_optimizer
def test_a_loss_scaler_changes_nothing_and_an_overflow_is_no_step(name):
    plain, scaled = Tiny(), Tiny()
    train(plain, build_optimizer(plain, settings(name)), 3)
    optimizer = build_optimizer(scaled, settings(name))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, math.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale(scaled(IDS, TARGETS) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same(plain, scaled)


@every_optimizer
def test_only_an_elementwise_optimizer_may_work_on_one_long_vector(name):
    parts = {"layers.0.weight": parameter(6, 4), "layers.1.weight": parameter(4, 5)}
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parts.values()]))
    # Without weight decay, as a vector is taken for a bias; one more parameter, as AdamW wants one.
    steppers = [
        build_optimizer(model_of({**ps, "bias": parameter(2)}), settings(name, weight_decay=0.0))
        for ps in (parts, {"layers.vector": vector})
    ]
    for seed, scale in ((1, 1.0), (2, 1.0), (3, 10.0)):
        for p in parts.values():
            p.grad = gradient(p, seed, scale)
        vector.grad = torch.cat([p.grad.flatten() for p in parts.values()])
        for optimizer in steppers:
            optimizer.step()
    flattened = torch.cat([p.detach().flatten() for p in parts.values()])
    is_same = torch.allclose(flattened, vector.detach(), atol=1e-6)
    assert is_same == (name in ELEMENTWISE_OPTIMIZERS)


def test_the_config_offers_every_optimizer():
    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES


# --- behind the engine -----------------------------------------------------------------------


def losses_with_deepspeed():
    """Five steps of every optimizer in an engine of one rank."""
    import deepspeed

    from pretrain.engine.distributed import start_ranks

    start_ranks()
    losses = {}
    for name in OPTIMIZERS:
        for stage in (0, 2) if name in ELEMENTWISE_OPTIMIZERS else (0,):
            model = Tiny()
            engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=build_optimizer(model, settings(name)),
                config={
                    "train_batch_size": 1,
                    "zero_optimization": {"stage": stage},
                    "zero_allow_untested_optimizer": True,
                },
            )
            losses[f"{name} {stage}"] = found = []
            for _ in range(5):
                loss = engine(IDS, TARGETS)
                engine.backward(loss)
                engine.step()
                found.append(loss.item())
    return losses


@pytest.mark.slow
def test_every_optimizer_steps_in_deepspeed_as_without(tmp_path):
    found = start(losses_with_deepspeed, output=tmp_path / "output.txt").result(100)
    assert len(found) == len(OPTIMIZERS) + len(ELEMENTWISE_OPTIMIZERS)
    for key, losses in found.items():
        model = Tiny()
        expected = train(model, build_optimizer(model, settings(key.split()[0])), 5)
        assert losses == pytest.approx(expected, rel=1e-4), key
