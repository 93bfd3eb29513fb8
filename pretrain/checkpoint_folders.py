"""The folders of checkpoints: names, damage, and the choice of one to resume from; without torch.

`checkpoints/step_0000500/` holds `state.safetensors` and `checkpoint.json`, as
pretrain.engine.checkpoints writes them. `checkpoints/stable/` is a copy of the last one before the
decay of a wsd curve. It is kept: a longer run goes on from it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.store.checksums import file_digest
from pipeline.store.record_files import read_sealed
from pretrain.optimization.run_schedule import RunSchedule, disagreement

TENSORS, RECORD = "state.safetensors", "checkpoint.json"
STABLE = "stable"
RECORD_KEYS = {"step", "numbers", "state", "bytes", "digest"}


class OtherSchedule(ValueError):
    """All intact checkpoints are of runs with another schedule. Its text says the difference."""


def checkpoint_dir(directory: Path, step: int) -> Path:
    return directory / f"step_{step:07d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """Returns the checkpoints, oldest first; ignores copies such as `step_0000500_good`."""
    return sorted(path for path in directory.glob("step_*") if path.name[5:].isdecimal())


def step_of(path: Path) -> int:
    """Returns the step of a checkpoint, -1 for a stable one without a readable record."""
    if path.name != STABLE:
        return int(path.name[5:])
    return (read_sealed(path / RECORD) or {}).get("step", -1)


def newest_first(directory: Path) -> list[Path]:
    """Returns all checkpoints, the stable one included."""
    stable = [directory / STABLE] if (directory / STABLE).is_dir() else []
    return sorted([*stable, *list_checkpoints(directory)], key=step_of, reverse=True)


def incompleteness(path: Path) -> str:
    """Returns a description of the missing part of a checkpoint, or an empty string.

    Reads no weights.
    """
    record, file = read_sealed(path / RECORD), path / TENSORS
    if not record or not record.keys() >= RECORD_KEYS:
        return f"no readable {RECORD}"
    if not file.is_file():
        return f"{TENSORS} is missing"
    if file.stat().st_size != record["bytes"]:
        return f"{TENSORS} has {file.stat().st_size} bytes, expected {record['bytes']}"
    return ""


def damage(path: Path) -> str:
    """Returns a description of a checkpoint's damage, or an empty string. Reads all of it."""
    if problem := incompleteness(path):
        return problem
    record = read_sealed(path / RECORD)
    is_intact = record is not None and file_digest(path / TENSORS) == record["digest"]
    return "" if is_intact else f"{TENSORS}: wrong digest"


def newest_intact_checkpoint(directory: Path, say: Callable[[str], None]) -> Path | None:
    """Returns the newest checkpoint without damage, or None; reports each damaged one."""
    return next(_intact(directory, damage, say), None)


def _intact(
    directory: Path, problem_of: Callable[[Path], str], say: Callable[[str], None]
) -> Iterator[Path]:
    for path in newest_first(directory):
        if problem := problem_of(path):
            say(f"{path.name} is damaged ({problem}) and is skipped")
        else:
            yield path


def checkpoint_to_resume(
    directory: Path,
    wanted: RunSchedule,
    say: Callable[[str], None],
    problem_of: Callable[[Path], str] = damage,
) -> Path | None:
    """Returns the newest intact checkpoint of a run of this schedule, None without a checkpoint.

    Checkpoints of another schedule count if all steps up to there are the same in both. Early
    versions recorded no schedule: such a checkpoint counts, unless a newer one is of another
    schedule. Raises OtherSchedule if there are checkpoints, but none counts.
    """
    refusals: list[str] = []
    for path in _intact(directory, problem_of, say):
        state = state_of(path)
        if "schedule" in state:
            done = RunSchedule.from_record(state["schedule"])
            refusal = disagreement(done, wanted, state["last_begin"])
        else:
            refusal = "it does not record the schedule of its run" if refusals else ""
        if not refusal:
            return path
        refusals.append(refusal)
    if refusals:
        raise OtherSchedule(refusals[0])
    return None


def state_of(path: Path) -> Mapping[str, Any]:
    """Returns the state of the run in an intact checkpoint."""
    record = read_sealed(path / RECORD)
    assert record is not None
    return record["state"]
