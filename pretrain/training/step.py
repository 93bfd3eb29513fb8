"""A training step: forward, backward and update over the micro batches of a rank."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pretrain.engine import distributed
from pretrain.engine.engine import Update, update_weights, weights_cast_once
from pretrain.engine.memory_limits import within_memory
from pretrain.training.micro_batch import MicroBatch


class StepResult(NamedTuple):
    """loss: this rank's part of the sum over the ranks, []. Both numbers are over all ranks."""

    loss: torch.Tensor
    update: Update
    num_predictions: int
    num_tokens: int


def take_step(
    engine,
    batches: list[MicroBatch],
    micro_batch: int,
    with_norm: bool,
    before_batch: Callable[[], None],
    after_batch: Callable[[], None],
) -> StepResult:
    """Trains on this rank's micro batches, of at most `micro_batch` samples each.

    before_batch may raise Interrupted, on all ranks before the same micro batch, to end the step
    without the update. Raises OutOfMemory.
    """
    num_predictions, num_tokens = distributed.sum_numbers(
        sum(batch.num_predictions for batch in batches), sum(batch.num_tokens for batch in batches)
    )

    def accumulate() -> torch.Tensor:
        """Leaves the gradient in the engine."""
        step_loss = torch.zeros((), device=engine.device)
        for number, batch in enumerate(batches):
            before_batch()
            engine.set_gradient_accumulation_boundary(number == len(batches) - 1)
            # Weighted by its predictions, a micro batch adds to the mean over the whole batch.
            weight = batch.num_predictions / max(1.0, num_predictions)
            loss = engine(*batch.inputs(engine.device)) * weight
            # The engine averages over the ranks.
            engine.backward(loss * distributed.world_size(), scale_wrt_gas=False)
            step_loss += loss.detach()
            after_batch()
        return step_loss

    with weights_cast_once(engine):
        loss = within_memory(accumulate, "training", micro_batch)
    update = update_weights(engine, with_norm)
    return StepResult(loss, update, round(num_predictions), round(num_tokens))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Returns a 63-bit seed, different for each step and rank; the odd multipliers mix the bits."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) + 1
    return mixed & (2**63 - 1)
