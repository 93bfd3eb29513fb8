"""Does the GPU compute the loss and the gradients that the CPU computes?"""

from argparse import Namespace
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.outcome import Outcome, judged
from benchmarks.models import LENGTH, model_args
from benchmarks.sizes import Size
from pretrain.engine.engine import compute_dtype
from pretrain.model.model import BasePretrainModel
from pretrain.training.data_loader import MicroBatch, collate

# Relative, of loss and gradient. In fp32 each single gradient is held to it. bf16 keeps 8 bits: on
# the CPU, the gradient of our small model with random weights is off by 2.1 %.
TOLERANCES = {"fp32": (1e-4, 1e-4), "fp16": (0.02, 0.02), "bf16": (0.02, 0.05)}
LOSS_SCALE = 1024.0  # so that fp16 gradients do not underflow


@dataclass(frozen=True)
class Errors:
    """Relative errors; gradient: of all gradients as one vector; worst: of the worst parameter."""

    loss: float
    gradient: float
    worst: float


def synthetic_batch(
    num_rows: int = 8, length: int = LENGTH, num_samples: int = 1, real_share: float = 1.0
) -> MicroBatch:
    """Random tokens: rows of so many equal samples, and padding behind that share of the row."""
    generator = np.random.default_rng(0)
    shape = num_rows, max(1, length * 15 // 100)
    real = int(real_share * length)
    row = np.arange(length) * num_samples // length + 1
    row[real:] = 0
    sample = np.tile(row.astype(np.uint16), (num_rows, 1))
    columns, num_predictions = np.arange(1, real), shape[1]
    positions = [generator.permutation(columns)[:num_predictions] for _ in range(num_rows)]
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
    args: Namespace, batch: MicroBatch, device: torch.device, dtype: torch.dtype
) -> tuple[float, list[torch.Tensor]]:
    """Of a model whose weights, before they are rounded to `dtype`, are always the same."""
    torch.manual_seed(0)
    model = BasePretrainModel(args).to(device, dtype)
    loss = model(*batch.inputs(device))
    (loss * LOSS_SCALE).backward()
    gradients = [
        p.grad.float().cpu() / LOSS_SCALE for p in model.parameters() if p.grad is not None
    ]
    return loss.item(), gradients


def errors_of(device: torch.device, size: Size, precision: str, gated: bool) -> Errors:
    """Of a small model on the device, against fp32 on the CPU.

    gated: rotary positions, a gate and packed rows; otherwise absolute positions, not packed.
    """
    args = model_args(size, 0.0, gated)
    args.vocab_size = 8192
    batch = synthetic_batch(num_samples=3 if gated else 1)
    exact, expected = loss_and_gradients(args, batch, torch.device("cpu"), torch.float32)
    loss, gradients = loss_and_gradients(args, batch, device, compute_dtype(precision))
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
            name, errors = (
                f"{precision} {kind}",
                errors_of(bench.device, bench.scale.small, precision, gated),
            )
            numbers[name] = asdict(errors)
            gradient = errors.worst if precision == "fp32" else errors.gradient
            told.append(f"{name}: loss {errors.loss:.1e}, gradient {gradient:.1e} off")
            if not (errors.loss <= loss_limit and gradient <= limit):
                problems.append(f"{name} is off by more than {limit:g}")
    advice = "; ".join(problems)
    if problems:
        advice += f" (TF32 allowed: {torch.backends.cuda.matmul.allow_tf32})"
    return judged("; ".join(told), advice, **numbers)
