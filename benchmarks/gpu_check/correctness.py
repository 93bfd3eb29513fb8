"""Loss and gradients on the GPU beside the CPU's."""

from argparse import Namespace
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.outcome import Outcome, judged
from benchmarks.models import CPU, LENGTH, model_args
from benchmarks.sizes import Size

# Relative, of loss and gradient. In fp32 they hold for each parameter. bf16 keeps 8 bits: on the
# CPU, the gradient of our small model with random weights is off by 2.1 %.
TOLERANCES = {"fp32": (1e-4, 1e-4), "fp16": (0.02, 0.02), "bf16": (0.02, 0.05)}
LOSS_SCALE = 1024.0  # prevents an underflow of fp16 gradients


@dataclass(frozen=True)
class Errors:
    """Relative errors; gradient: of all gradients as one vector; worst: of the worst parameter."""

    loss: float
    gradient: float
    worst: float


def synthetic_batch(
    num_rows: int = 8, length: int = LENGTH, num_samples: int = 1, real_share: float = 1.0
) -> Any:
    """Returns a batch of random tokens; num_samples: per row; real_share: of tokens in a row."""
    from pretrain.training.data_loader import collate

    generator = np.random.default_rng(0)
    shape = num_rows, max(1, length * 15 // 100)
    real = int(real_share * length)
    row = np.arange(length) * num_samples // length + 1
    row[real:] = 0
    sample = np.tile(row.astype(np.uint16), (num_rows, 1))
    positions = [generator.permutation(np.arange(1, real))[: shape[1]] for _ in range(num_rows)]
    return collate(
        {
            "input_ids": generator.integers(1000, 8000, sample.shape).astype(np.uint16),
            "input_mask": sample,
            "segment_ids": (sample > 1).astype(np.uint8),
            "masked_lm_positions": np.sort(positions).astype(np.uint16),
            "masked_lm_ids": generator.integers(1000, 8000, shape).astype(np.uint16),
        }
    )


def loss_and_gradients(
    args: Namespace, batch: Any, device: torch.device, precision: str
) -> tuple[float, list[torch.Tensor]]:
    """Computes both with a model whose weights are always the same before rounding."""
    from pretrain.engine.engine import compute_dtype
    from pretrain.model.model import BasePretrainModel

    torch.manual_seed(0)
    model = BasePretrainModel(args).to(device, compute_dtype(precision))
    loss = model(*batch.inputs(device))
    (loss * LOSS_SCALE).backward()
    gradients = (p.grad for p in model.parameters() if p.grad is not None)
    return loss.item(), [gradient.float().cpu() / LOSS_SCALE for gradient in gradients]


def errors_of(device: torch.device, size: Size, precision: str, gated: bool) -> Errors:
    """Compares a small model on the device with fp32 on the CPU.

    gated: rotary positions, a gate and packed rows; else absolute positions, not packed.
    """
    args = model_args(size, 0.0, gated)
    args.vocab_size = 8192
    batch = synthetic_batch(num_samples=3 if gated else 1)
    exact, expected = loss_and_gradients(args, batch, CPU, "fp32")
    loss, gradients = loss_and_gradients(args, batch, device, precision)
    pairs = zip(gradients, expected, strict=True)
    off = torch.stack([(ours - theirs).norm() for ours, theirs in pairs])
    norms = torch.stack([theirs.norm() for theirs in expected])
    return Errors(
        loss=abs(loss - exact) / exact,
        gradient=float(off.norm() / norms.norm()),
        worst=float((off / norms.clamp(min=1e-12)).max()),
    )


def check_correctness(
    bench: Bench, tolerances: dict[str, tuple[float, float]] = TOLERANCES
) -> Outcome:
    """Loss and gradients are the CPU's, up to rounding."""
    told, problems, numbers = [], [], {}
    for precision in dict.fromkeys(["fp32", *bench.precisions]):
        loss_limit, limit = tolerances[precision]
        for gated, kind in ((False, "absolute"), (True, "packed rotary gated")):
            name = f"{precision} {kind}"
            errors = errors_of(bench.device, bench.scale.small, precision, gated)
            numbers[name] = asdict(errors)
            gradient = errors.worst if precision == "fp32" else errors.gradient
            told.append(f"{name}: loss {errors.loss:.1e}, gradient {gradient:.1e} off")
            if not (errors.loss <= loss_limit and gradient <= limit):
                problems.append(f"{name} is off by more than {limit:g}")
    if problems:
        problems.append(f"TF32 allowed: {torch.backends.cuda.matmul.allow_tf32}")
    return judged("; ".join(told), "; ".join(problems), **numbers)
