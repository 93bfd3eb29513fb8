"""Muon against torch's own and its formula, on one rank and on several, with a loss scaler too."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.engine import distributed
from pretrain.optimization import muon, optimizers
from pretrain.optimization.muon import newton_schulz_dtype, orthogonalize
from pretrain.optimization.optimizers import build_optimizer, layer_matrices
from tests.forked import start
from tests.pretrain.optimization.test_optimizers import (
    IDS,
    TARGETS,
    Tiny,
    assert_same,
    gradient,
    model_of,
    parameter,
    settings,
    train,
)

SCALES = (1000.0, 1.0, 0.001)  # of matrices in one stack


@pytest.fixture
def in_fp32(monkeypatch):
    monkeypatch.setattr(muon, "newton_schulz_dtype", lambda device: torch.float32)


def test_muon_equals_torchs_muon_and_adamw(monkeypatch):
    monkeypatch.setattr(muon, "newton_schulz_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(optimizers, "_num_parts", lambda name, matrix: 1)
    ours, theirs = Tiny(), Tiny()
    ours_optimizer = build_optimizer(ours, settings("muon"))
    matrices = list(layer_matrices(theirs).values())
    rest = [p for p in theirs.parameters() if all(p is not matrix for matrix in matrices)]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": 0.01},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
    ]
    torchs = torch.optim.Muon(matrices, lr=0.05, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.98), eps=1e-6)
    for _ in range(3):
        train(ours, ours_optimizer, 1)
        theirs.zero_grad()
        theirs(IDS, TARGETS).backward()
        torchs.step()
        adamw.step()
    assert_same(ours, theirs)


def test_stacked_matrices_step_as_they_would_alone(in_fp32):
    whole = parameter(24, 8)
    parts = [nn.Parameter(part.clone()) for part in whole.detach().chunk(3)]
    alone = {f"layers.0.{name}.weight": p for name, p in zip("qkv", parts, strict=True)}
    steppers = [
        build_optimizer(model_of({**matrices, "bias": parameter(3)}), settings("muon"))
        for matrices in ({"layers.0.qkv.weight": whole}, alone)
    ]
    for seed in (1, 2):
        for p, scale in zip(parts, (1.0, 30.0, 0.01), strict=True):
            p.grad = gradient(p, seed, scale)
        whole.grad = torch.cat([p.grad for p in parts])
        for optimizer in steppers:
            optimizer.step()
    torch.testing.assert_close(whole.detach(), torch.cat([p.detach() for p in parts]))


def newton_schulz_by_svd(matrix):
    """What the iteration does to a matrix: five times a polynomial of its singular values."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


@pytest.mark.parametrize("shape", [(8, 8), (8, 24)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_newton_schulz_is_a_polynomial_of_the_singular_values(shape, dtype, error):
    matrices = [parameter(*shape, scale=scale, seed=n).detach() for n, scale in enumerate(SCALES)]
    made = orthogonalize(torch.stack(matrices), dtype).double()
    for matrix, ours in zip(matrices, made, strict=True):
        expected = newton_schulz_by_svd(matrix)
        assert (ours - expected).norm() < error * expected.norm()
        assert torch.linalg.svdvals(expected).max() < 1.21


def test_muon_steps_by_formula(in_fp32):
    """Nesterov momentum as a moving average, decoupled decay, a longer step for tall matrices."""
    model = Tiny()
    matrix = model.layers[0]["output"].weight  # 8 x 24: a wide one
    tall = model.layers[0]["qkv"].weight = nn.Parameter(torch.ones(20, 8))  # no queries and keys
    optimizer = build_optimizer(model, settings("muon", weight_decay=0.1))
    for p, factor in ((matrix, 1.0), (tall, math.sqrt(20 / 8))):
        x, average = p.detach().double(), 0.0
        for seed in (1, 2):
            p.grad = gradient(p, seed)
            average = 0.95 * average + 0.05 * p.grad.double()
            mixed = 0.05 * p.grad.double() + 0.95 * average
            x = x * (1 - 0.05 * 0.1) - 0.05 * factor * newton_schulz_by_svd(mixed)
            optimizer.step()
        p.grad = None
        torch.testing.assert_close(p.detach().double(), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_newton_schulz_takes_bf16_where_the_cpu_has_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert newton_schulz_dtype(torch.device("cpu")) == dtype
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert newton_schulz_dtype(torch.device("cuda")) == torch.float32
    assert newton_schulz_dtype(torch.device("mps")) == torch.float32


def test_muons_state_is_one_mapping_before_and_after_loading():
    model = Tiny()
    optimizer = build_optimizer(model, settings("muon"))
    for _ in range(2):
        train(model, optimizer, 1)
        kinds = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
        matrices = layer_matrices(model)
        for name, found in kinds.items():
            adamws = {"step", "exp_avg", "exp_avg_sq"}
            assert found == ({"momentum_buffer"} if name in matrices else adamws)
        optimizer.load_state_dict(optimizer.state_dict())


# --- batches of matrices, and ranks ------------------------------------------------------------


def several_layers():
    """Five matrices of 8 x 8, four of 8 x 24, half of them tall: no multiple of the ranks."""
    shapes = {"qkv": (24, 8), "output": (8, 8), "input": (24, 8), "back": (8, 24), "odd": (8, 8)}
    names = ["0.qkv", "0.output", "0.input", "0.back", "1.input", "1.back", "1.odd"]
    return {
        f"layers.{name}.weight": parameter(*shapes[name[2:]], seed=seed)
        for seed, name in enumerate(names)
    }


def weights_after_steps(num_steps=2):
    matrices = several_layers()
    optimizer = build_optimizer(model_of({**matrices, "bias": parameter(3)}), settings("muon"))
    for step in range(num_steps):
        for seed, p in enumerate(matrices.values()):
            p.grad = gradient(p, 100 * step + seed)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in matrices.values()])


def test_matrices_stepped_together_step_as_they_do_one_by_one(monkeypatch):
    together = weights_after_steps()
    monkeypatch.setattr(muon, "CHUNK", 1)
    torch.testing.assert_close(weights_after_steps(), together)


def test_a_chunk_holds_matrices_of_one_shape_up_to_its_size_shared_out_evenly(monkeypatch):
    optimizer = build_optimizer(
        model_of({**several_layers(), "bias": parameter(3)}), settings("muon")
    )
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    (matrices,) = optimizer._matrices().values()
    monkeypatch.setattr(muon, "CHUNK", 8 * 8 * 5)
    for ranks, sizes in ((1, [5, 1, 1, 1, 1]), (2, [4, 1, 2, 2]), (8, [5, 4])):
        monkeypatch.setattr(distributed, "world_size", lambda ranks=ranks: ranks)
        chunks = list(muon._chunks(matrices))
        assert [len(chunk) for chunk in chunks] == sizes
        assert all(len({m.weight.shape for m in chunk}) == 1 for chunk in chunks)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_each_rank_orthogonalises_its_share_alone(monkeypatch, ranks, in_fp32):
    """Seven matrices: as few each as can be, and together all of them in their order."""
    stack = torch.stack([parameter(8, 24, seed=n).detach() for n in range(7)])
    shares, sizes, compute = [], [], orthogonalize
    monkeypatch.setattr(
        muon, "orthogonalize", lambda m, dtype: sizes.append(len(m)) or compute(m, dtype)
    )
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    monkeypatch.setattr(distributed, "gather", lambda made: shares.append(made) or made)
    for rank in range(ranks):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        muon._orthogonalize_together(stack)
    assert sum(sizes) == 7 and max(sizes) == math.ceil(7 / ranks)
    torch.testing.assert_close(torch.cat(shares)[:7], compute(stack, torch.float32))


def save_weights(folder, rank, ranks):
    """What each rank of a test does; the dtypes are those that GPUs send too."""
    store = torch.distributed.FileStore(f"{folder}/store", ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        muon.newton_schulz_dtype = lambda device, dtype=dtype: dtype
        found[dtype] = weights_after_steps()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_ranks_step_as_one_does_to_the_bit(tmp_path, monkeypatch):
    children = [
        start(save_weights, tmp_path, rank, 2, output=tmp_path / f"{rank}.txt") for rank in range(2)
    ]
    for child in children:
        child.result(100)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for dtype, weights in first.items():
        monkeypatch.setattr(muon, "newton_schulz_dtype", lambda device, dtype=dtype: dtype)
        assert torch.equal(weights, second[dtype])
        assert torch.equal(weights, weights_after_steps())


# --- with a loss scaler ------------------------------------------------------------------------


class HostWaits(TorchDispatchMode):
    """Counts what makes the host wait for a number of the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        self.count += any(op in name for op in ("_local_scalar_dense", "equal", "nonzero"))
        return func(*args, **kwargs or {})


def scaled_step(model, optimizer, scaler, factor=1.0, clip=False):
    optimizer.zero_grad()
    scaler.scale(model(IDS, TARGETS) * factor).backward()
    if clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("clip", [False, True])
def test_with_a_loss_scaler_no_step_waits_for_the_device(clip):
    model = Tiny()
    optimizer, scaler = build_optimizer(model, settings("muon")), torch.amp.GradScaler("cpu")
    with HostWaits() as waits:
        scaled_step(model, optimizer, scaler, clip=clip)
        scaled_step(model, optimizer, scaler, math.inf, clip=clip)
    assert waits.count == 0


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_an_overflow_leaves_every_bit_as_it_is(clip, factor):
    model = Tiny()
    optimizer = build_optimizer(model, settings("muon"))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled_step(model, optimizer, scaler, clip=clip)
    weights, state = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict()["state"])
    scaled_step(model, optimizer, scaler, factor, clip=clip)
    assert scaler.get_scale() == 512.0
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    for number, kinds in optimizer.state_dict()["state"].items():
        for kind, value in kinds.items():
            assert torch.equal(value, state[number][kind]), (number, kind)


def test_clipped_or_not_the_scale_makes_no_difference():
    """Not even one that grows from step to step, as momentum would notice."""
    for clip in (False, True):
        models = [Tiny(), Tiny()]
        for model, (scale, interval) in zip(models, ((1.0, 1000), (4096.0, 1)), strict=True):
            scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
            optimizer = build_optimizer(model, settings("muon"))
            for _ in range(3):
                scaled_step(model, optimizer, scaler, clip=clip)
        assert_same(*models)
