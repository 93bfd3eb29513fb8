"""Memory limits: halves the micro batch after the ranks ran out of memory.

The ranks end, and the next start of the run accumulates twice as many micro batches of half the
size: the optimizer sees the same batches. A retry in the process is impossible: after a failed
backward pass, DeepSpeed's engine may hold partially reduced gradients, and other ranks may wait in
a collective for the one that ran out. A single rank saves its weights and optimizer state, still
those of the last step. Several ranks resume from the newest checkpoint; since all batches have the
same shape, a run fails in its first steps.

`micro_batch.json`, beside the checkpoints, records the limit. It is not part of any identity, and
invalid in other circumstances.
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
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed the next time
# Settings that change the use of memory within a run.
FLAGS = (
    *("train_micro_batch_size_per_gpu", "validation_micro_batch", "precision", "zero_stage"),
    *("gradient_checkpointing", "compile", "deepspeed_config"),
)
TOO_LITTLE = re.compile(r"out of memory in \w+ with micro batches of \d+.*?; the next start .*")


class OutOfMemory(Exception):
    """A micro batch of `size` samples did not fit. part: training or validation."""

    def __init__(self, part: str, size: int, cause: str):
        super().__init__(f"out of memory in {part} with micro batches of {size} ({cause})")
        self.size = size


def within_memory(function: Callable[[], Result], part: str, size: int) -> Result:
    """Calls the function; raises OutOfMemory if an allocation fails in it."""
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cause = shorten(str(error) or type(error).__name__, 120, placeholder=" ...")
    # Not in the handler: the context of the new error would keep all activations alive.
    raise OutOfMemory(part, size, cause)


# --- the record ------------------------------------------------------------------------------


def circumstances(asked: EngineSettings, device: str, num_ranks: int) -> dict[str, Any]:
    """Returns the conditions of a limit. asked: settings as the flags give them."""
    return {"device": device, "ranks": num_ranks, **{flag: getattr(asked, flag) for flag in FLAGS}}


def known_limit(directory: Path, now: dict[str, Any]) -> int:
    """Returns the largest permitted micro batch in these circumstances, 0 for no limit."""
    record = _read(directory)
    return record["limit"] if record and record["circumstances"] == now else 0


def remember(directory: Path, now: dict[str, Any], in_use: int, limit: int) -> None:
    """Records the micro batch at the start of training, for `lower_limit`."""
    record = {"circumstances": now, "in_use": in_use, "limit": limit}
    write_json(directory / FILE, record)


def lower_limit(directory: Path, size: int = 0) -> str:
    """Halves the limit of the next start; returns a message, empty if it cannot be halved.

    size: of the micro batch that did not fit; 0: that of training, after ranks were killed. The
    latter works once per call of `remember`: a start killed before it needs no smaller batches.
    """
    record = _read(directory)
    if not record or (not size and record["limit"] < record["in_use"]):
        return ""
    limit = (size or record["in_use"]) // 2
    if not limit:
        return ""
    write_json(directory / FILE, record | {"limit": limit})
    return f"the next start takes at most {limit} samples at once"


def _read(directory: Path) -> dict[str, Any] | None:
    """Returns None if the record is missing or damaged."""
    record = read_json(directory / FILE)
    if not isinstance(record, dict) or "circumstances" not in record:
        return None
    numbers = record.get("in_use"), record.get("limit")
    return record if all(type(number) is int and number > 0 for number in numbers) else None


def shortage_in(lines: Iterable[str]) -> str:
    """Returns the message of a rank about its lack of memory and the next start, or ""."""
    return next((found.group() for line in lines if (found := TOO_LITTLE.search(line))), "")
