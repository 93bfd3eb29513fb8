"""Validation over a fixed held-out set, and when it is due."""

import math
from argparse import Namespace
from dataclasses import dataclass

import torch
from torch.nn import functional

from pretrain.data import MicroBatch
from pretrain.distributed import sum_over_ranks


@dataclass(frozen=True)
class Validation:
    """loss: mean cross entropy in nats per predicted token; accuracy: share predicted right."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@torch.no_grad()
def validate(engine, batches: list[MicroBatch]) -> Validation:
    """Loss and accuracy over the micro batches of all ranks."""
    model = engine.module
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)  # loss, right, predictions
    for batch in batches:
        *inputs, labels, position_ids = batch.inputs(engine.device)
        logits = model.logits(*inputs, position_ids).float()
        sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
        sums[1] += (logits.argmax(-1) == labels).sum()
        sums[2] += len(labels)
    model.train()
    loss, right, predictions = sum_over_ranks(sums).tolist()
    return Validation(loss / max(1, predictions), right / max(1, predictions))


def validation_points(args: Namespace) -> list[float]:
    """Progress values in (0, 1] at which the manual's flags ask for a validation.

    The run has a beginning of `validation_begin_proportion`, an end of
    `validation_end_proportion` and a middle; `validation_epochs_begin`, `validation_epochs_end`
    and `validation_epochs` validations are spread evenly over each, the last at its end.
    """
    begin, end = args.validation_begin_proportion, 1.0 - args.validation_end_proportion
    phases = [
        (0.0, begin, args.validation_epochs_begin),
        (begin, end, args.validation_epochs),
        (end, 1.0, args.validation_epochs_end),
    ]
    return [
        low + (high - low) * k / count for low, high, count in phases for k in range(1, count + 1)
    ]


def is_validation_due(args: Namespace, step: int, before: float, after: float) -> bool:
    """Whether to validate after `step` steps, when progress went from `before` to `after`."""
    if not args.do_validation:
        return False
    if args.validation_steps:
        return step % args.validation_steps == 0
    return any(before < point <= after for point in validation_points(args))
