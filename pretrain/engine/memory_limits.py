"""Micro batches that fit into memory: one that does not ends the ranks, and the next start of the
run takes half of it, with as many more of them, so that the optimizer sees the same batches.

A new start, and not a second try in the process: after a backward pass that failed, DeepSpeed's
engine may hold gradients that are half reduced, and of several ranks perhaps only one ran out,
while the others wait for it in a collective and cannot be told. Weights and optimizer are still
those of the last step, and a single rank saves them before it leaves. Several ranks go back to the
newest checkpoint; as all batches have the same shape, it is in its first steps that a run finds
out.

`micro_batch.json`, beside the checkpoints, remembers what fits. It is no part of any identity, and
holds only as long as what it depends on is the same.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from pipeline.runtime.oom import is_out_of_memory
from pipeline.store.atomic_files import write_json
from pipeline.store.record_files import read_json
from pretrain.settings import EngineSettings

Result = TypeVar("Result")

FILE = "micro_batch.json"
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may do better the next time
# What memory depends on besides the model, which cannot change within a run.
FLAGS = (
    *("train_micro_batch_size_per_gpu", "validation_micro_batch", "precision", "zero_stage"),
    *("gradient_checkpointing", "compile", "deepspeed_config"),
)
TOO_LITTLE = re.compile(r"out of memory in \w+ with micro batches of \d+.*?; the next start .*")


class OutOfMemory(Exception):
    """A micro batch of so many samples did not fit. part: training or validation."""

    def __init__(self, part: str, size: int, cause: str):
        super().__init__(f"out of memory in {part} with micro batches of {size} ({cause})")
        self.size = size


def within_memory(function: Callable[[], Result], part: str, size: int) -> Result:
    """What the function returns; OutOfMemory if an allocation fails in it."""
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cause = shorten(str(error) or type(error).__name__, 120, placeholder=" ...")
    # Not in the handler: there, the new error would keep the old one, and with it all activations.
    raise OutOfMemory(part, size, cause)


# --- what is remembered ----------------------------------------------------------------------


def circumstances(asked: EngineSettings, device: str, num_ranks: int) -> dict[str, Any]:
    """What a limit depends on. asked: the settings as the flags give them."""
    return {"device": device, "ranks": num_ranks, **{flag: getattr(asked, flag) for flag in FLAGS}}


def known_limit(directory: Path, now: dict[str, Any]) -> int:
    """The largest micro batch that a run of these circumstances may try; 0: any."""
    record = _read(directory)
    return record["limit"] if record and record["circumstances"] == now else 0


def remember(directory: Path, now: dict[str, Any], in_use: int, limit: int) -> None:
    """Notes the micro batch of the training that begins, for `lower_limit`."""
    record = {"circumstances": now, "in_use": in_use, "limit": limit}
    if read_json(directory / FILE) != record:
        write_json(directory / FILE, record)


def lower_limit(directory: Path, size: int = 0) -> str:
    """Halves what the next start may try, and returns words for it; empty if that cannot be.

    size: of the micro batch that did not fit. By default the training's, of ranks that were killed:
    once for each start that got as far as `remember`, as less would not help one that did not.
    """
    record = _read(directory)
    if record and not size and record["limit"] < record["in_use"]:
        return ""
    limit = (size or record["in_use"]) // 2 if record else 0
    if not limit:
        return ""
    write_json(directory / FILE, record | {"limit": limit})
    return f"the next start takes at most {limit} samples at once"


def _read(directory: Path) -> dict[str, Any] | None:
    """None if there is none, or if it is damaged."""
    record = read_json(directory / FILE)
    numbers = [record.get(name) for name in ("in_use", "limit")] if isinstance(record, dict) else []
    is_whole = numbers and all(type(n) is int and n > 0 for n in numbers)
    return record if is_whole and "circumstances" in record else None


def shortage_in(lines: Iterable[str]) -> str:
    """What a rank that can be started again has said of its memory; empty if it did not."""
    return next((found.group() for line in lines if (found := TOO_LITTLE.search(line))), "")
