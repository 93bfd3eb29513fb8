"""Validation over a fixed held-out set."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from pretrain.engine.distributed import sum_over_ranks
from pretrain.engine.interrupts import Interrupts
from pretrain.training.micro_batch import MicroBatch


@dataclass(frozen=True)
class Validation:
    """loss: mean cross entropy in nats per predicted token. accuracy: share predicted correctly."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def in_words(self) -> str:
        return (
            f"validation loss {self.loss:.4f}, accuracy {self.accuracy:.4f}, "
            f"perplexity {self.perplexity:.2f}"
        )


@torch.no_grad()
def validate(
    engine,
    batches: list[MicroBatch],
    interrupts: Interrupts,
    alive: Callable[[], None] = lambda: None,
) -> Validation:
    """Returns loss and accuracy over the micro batches of all ranks; each has as many of them.

    alive: called after each micro batch. Raises Interrupted between two of them, on all ranks, if
    one received a signal.
    """
    engine.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)  # loss, correct, predictions
    try:
        for batch in batches:
            interrupts.check()
            *inputs, labels, position_ids = batch.inputs(engine.device)
            assert isinstance(labels, torch.Tensor)
            logits = engine(*inputs, None, position_ids).float()
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(-1) == labels).sum()
            sums[2] += len(labels)
            alive()
    finally:
        engine.train()
    loss, correct, predictions = sum_over_ranks(sums).tolist()
    return Validation(loss / max(1, predictions), correct / max(1, predictions))
