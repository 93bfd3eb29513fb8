"""How many samples a rank takes at once: what was asked for, or on a GPU what a trial finds."""

import os
from argparse import Namespace
from pathlib import Path

import torch

from pretrain.engine.distributed import from_first_rank, rank, sum_numbers, world_size
from pretrain.engine.engine import largest_micro_batch
from pretrain.engine.memory_limits import FILE, circumstances, known_limit, remember
from pretrain.training.micro_batch_trial import MOST_TRIED, find_by_trial

ON_CPU = 32  # where more at once are no faster


def fit_micro_batches(args: Namespace, precision: str, device, shards, log) -> None:
    """Sets both micro batch flags to what memory holds and what makes up the batch without rest.

    args: run_pretraining's flags as they were given, with vocab_size, special_ids and
    max_seq_length. precision: what they come to. Raises ValueError if the batch cannot be shared
    out over the ranks. Every rank must call it.
    """
    if device.type == "cpu":
        args.train_micro_batch_size_per_gpu = args.train_micro_batch_size_per_gpu or ON_CPU
    output_dir, asked = Path(args.output_dir), args.train_micro_batch_size_per_gpu
    smallest = args.batch_size_ramp_start
    name = "batch_size_ramp_start" if smallest else "train_batch_size"
    batch = smallest or args.train_batch_size
    now = circumstances(args, in_words(device), world_size())
    if not asked:
        now["batch"] = batch  # a trial goes no further
    limit = from_first_rank(known_limit(output_dir, now) if rank() == 0 else None)
    if asked:
        limit = limit or max(asked, args.validation_micro_batch)
        fitted = largest_micro_batch(batch, min(asked, limit), world_size(), name)
        said = _what_changed(asked, limit, fitted, batch, output_dir)
    else:
        share = largest_micro_batch(batch, batch, world_size(), name)
        said = f"as {output_dir / FILE} says"
        if not limit:
            limit, why = _on_all_ranks(*find_by_trial(args, precision, device, shards, share))
            said = f"found by trial: {why}"
        fitted = largest_micro_batch(batch, limit, world_size(), name)
        said = f"micro batch {fitted}, {said}"
    if said:
        log.say(said)
    args.train_micro_batch_size_per_gpu = fitted
    args.validation_micro_batch = min(args.validation_micro_batch, limit)
    if rank() == 0:
        remember(output_dir, now, fitted, limit)


def _what_changed(asked: int, limit: int, fitted: int, batch: int, output_dir: Path) -> str:
    if asked > limit:
        return (
            f"micro batch {asked} -> {fitted}: memory ran out with more; "
            f"without {output_dir / FILE}, {asked} is tried again"
        )
    if fitted != asked:
        return (
            f"micro batch {asked} -> {fitted}, so that {world_size()} rank(s) "
            f"make up the batch of {batch}"
        )
    return ""


def _on_all_ranks(size: int, why: str) -> tuple[int, str]:
    """The smallest size that a rank has found: a power of two."""
    powers = [1 << n for n in range(MOST_TRIED.bit_length())]
    counts = sum_numbers(*(float(size == power) for power in powers))
    smallest = next(power for power, count in zip(powers, counts, strict=True) if count)
    return smallest, why if smallest == size else "more are too many for another rank"


def in_words(device: torch.device) -> str:
    """e.g. `cpu with 24102 MiB`."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{found.name} with {found.total_memory >> 20} MiB"
    return (
        f"{device.type} with {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20} MiB"
    )
