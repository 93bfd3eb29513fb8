"""Validation over a fixed held-out set, and when it is due."""

import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from pretrain.engine.distributed import sum_over_ranks
from pretrain.engine.interrupts import Interrupts
from pretrain.training.data_loader import MicroBatch


@dataclass(frozen=True)
class Validation:
    """loss: mean cross entropy in nats per predicted token; accuracy: share predicted right."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@torch.no_grad()
def validate(
    engine,
    batches: list[MicroBatch],
    interrupts: Interrupts,
    alive: Callable[[], None] = lambda: None,
) -> Validation:
    """Loss and accuracy over the micro batches of all ranks, which are the same in number.

    alive: called after each of them. Raises Interrupted between two of them, on all ranks, if one
    was sent a signal.
    """
    engine.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)  # loss, right, predictions
    try:
        for batch in batches:
            interrupts.check()
            *inputs, labels, position_ids = batch.inputs(engine.device)
            logits = engine(*inputs, None, position_ids).float()
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(-1) == labels).sum()
            sums[2] += len(labels)
            alive()
    finally:
        engine.train()
    loss, right, predictions = sum_over_ranks(sums).tolist()
    return Validation(loss / max(1, predictions), right / max(1, predictions))


def is_validation_due(args: Namespace, step: int, progress: float, visits: range) -> bool:
    """Whether to validate after `step` steps, when that share of the run has passed.

    visits: from the number of shard visits that were over before the step to that after it. With
    validation_steps 0, one is due after each validation_epochs_begin of them up to
    validation_begin_proportion of the run, after each validation_epochs_end of them in its last
    validation_end_proportion, and after each validation_epochs of them in between.
    """
    if not args.do_validation:
        return False
    if args.validation_steps:
        return step % args.validation_steps == 0
    if progress < args.validation_begin_proportion:
        interval = args.validation_epochs_begin
    elif progress > 1.0 - args.validation_end_proportion:
        interval = args.validation_epochs_end
    else:
        interval = args.validation_epochs
    return visits.stop // interval > visits.start // interval
