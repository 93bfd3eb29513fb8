"""Trains on each rank, gathers the state and restores it in every other ZeRO stage.

One process is one precision: DeepSpeed remembers, for all later engines, that one used autocast.
"""

import json
from argparse import Namespace

import torch

from pretrain.engine.distributed import (
    from_first_rank,
    leave_ranks,
    rank,
    start_ranks,
    sum_numbers,
    world_size,
)
from pretrain.engine.engine import build_engine
from pretrain.engine.zero_state import gather_state, restore_state
from pretrain.optimization.optimizers import build_optimizer

BATCH, BEFORE, AFTER = 4, 4, 3


def make_engine(precision, stage):
    args = Namespace(
        train_batch_size=BATCH,
        train_micro_batch_size_per_gpu=BATCH // world_size(),
        gradient_clipping=0.0,
        precision=precision,
        multiplies_in_bf16=False,
        zero_stage=stage,
        deepspeed_config="",
        optimizer_type="adamw",
        lr=1e-2,
        weight_decay=0.1,
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_eps=1e-6,
    )
    torch.manual_seed(0)
    # 13 is no multiple of any number of ranks, so that the last part of a weight is padded.
    model = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.GELU(), torch.nn.Linear(13, 5))
    return build_engine(args, model, build_optimizer(model, args), world_size())


def train(engine, first, count):
    losses = []
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        share = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
        inputs = torch.randn(BATCH, 7, generator=generator)[share]
        targets = torch.randn(BATCH, 5, generator=generator)[share]
        engine.set_gradient_accumulation_boundary(True)
        dtype = next(engine.module.parameters()).dtype
        loss = ((engine(inputs.to(dtype)).float() - targets) ** 2).mean()
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()
        losses.append(round(sum_numbers(loss.item())[0] / world_size(), 6))
    return losses


def measure(precision, stages):
    """Returns the losses after restoring, for each (from, to) of stages."""
    start_ranks()
    states, results = {}, {}
    for stage in stages:
        engine = make_engine(precision, stage)
        train(engine, 0, BEFORE)
        tensors, numbers = gather_state(engine)
        states[stage] = from_first_rank(tensors), json.loads(json.dumps(numbers))
        results[f"{stage} undisturbed"] = train(engine, BEFORE, AFTER)
    for source in stages:
        for target in stages:
            engine = make_engine(precision, target)
            restore_state(engine, *states[source])
            results[f"{source} to {target}"] = train(engine, BEFORE, AFTER)
    leave_ranks()
    return results
