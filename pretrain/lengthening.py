"""A longer run goes on from the checkpoints of a shorter one with the same PRETRAIN.ID.

It does so only if the result is that of a run of its length from the start, up to rounding: if all
values that depend on the share of the run, such as the learning rate, were the same in every step
up to the checkpoint.
"""

import math
import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.phases import LENGTH_KEYS
from pipeline.errors import StageError
from pipeline.store.artifacts import Artifact, Extension
from pipeline.store.paths import CHECKPOINTS, METRICS, MODEL, MODELS_AT
from pipeline.store.record_files import MANIFEST, STARTED, delete_tree, read_record
from pretrain.checkpoint_folders import (
    STABLE,
    OtherSchedule,
    checkpoint_to_resume,
    damage,
    incompleteness,
    newest_first,
    state_of,
    step_of,
)
from pretrain.flags import flag_keys
from pretrain.optimization.budget import amount_in_words
from pretrain.optimization.run_schedule import RunSchedule, warmup_kept
from pretrain.settings import TrainingSettings

if TYPE_CHECKING:
    from yacs.config import CfgNode

TIME_LIMIT = "PRETRAIN.EARLY_EXIT_TIME_MARKER"
# With the length, these may change too: the values of each step are compared instead.
CURVE_KEYS = (
    *("LR_CURVE", "WARMUP_PROPORTION", "ESD_R", "ESD_L", "LR_END_RATIO", "LR_POWER"),
    *("LR_DECAY_STEPS", "LR_DECAY_PROPORTION"),
)
KEYS_THAT_MAY_CHANGE = {
    TIME_LIMIT,
    *(f"PRETRAIN.{name}" for name in (*LENGTH_KEYS.values(), *CURVE_KEYS)),
}


def schedule_of(config: "CfgNode") -> RunSchedule:
    """Returns the schedule that the ranks will have."""
    flags = {}
    for flag, key in flag_keys().items():
        section, _, name = key.partition(".")
        flags[flag] = config[section][name]
    return RunSchedule.of(TrainingSettings.from_args(Namespace(**flags), output_dir=""))


def lengthening_in(
    directory: Path, schedule: RunSchedule, inputs: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Extension | None]:
    """Returns the `extension` of the artifact of a run with these inputs in this folder."""
    return lambda before: _lengthening(directory, schedule, inputs, before)


def _lengthening(
    directory: Path, schedule: RunSchedule, inputs: Mapping[str, Any], before: Mapping[str, Any]
) -> Extension | None:
    if not _is_longer(inputs, before):
        return None
    path, problem = _checkpoint(directory, schedule)
    if problem:
        return Extension(
            refusal=f"it cannot be lengthened exactly: {problem}; "
            f"{_with_same_warmup(directory, schedule)}else choose another PRETRAIN.ID, where "
            "PRETRAIN.START_FROM begins with its weights"
        )
    if path is None:
        return None
    note = f"lengthened, goes on from step {step_of(path)}"
    if path.name == STABLE:
        note += ", before the decay"
    if steps := _steps_of_finished(directory):
        note += f", keeps the finished model in {MODELS_AT}/{steps}"
    return Extension(note)


def _is_longer(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """True if a run with these inputs is another one continued, as far as the keys tell."""
    changed = {key for key in before.keys() | inputs.keys() if before.get(key) != inputs.get(key)}
    limits = [f"PRETRAIN.{name}" for name in LENGTH_KEYS.values() if f"PRETRAIN.{name}" in inputs]
    if not changed & {*limits, TIME_LIMIT} or not changed <= KEYS_THAT_MAY_CHANGE:
        return False
    pairs = [(before.get(key, math.inf), inputs[key]) for key in limits]
    pairs.append((before.get(TIME_LIMIT) or math.inf, inputs.get(TIME_LIMIT) or math.inf))
    return all(former <= now for former, now in pairs)


def _checkpoint(
    directory: Path,
    schedule: RunSchedule,
    say: Callable[[str], None] = lambda text: None,
    problem_of: Callable[[Path], str] = incompleteness,
) -> tuple[Path | None, str]:
    """Returns the checkpoint to go on from, or the reason why there is none.

    Returns neither if there is no checkpoint at all.
    """
    try:
        path = checkpoint_to_resume(directory / CHECKPOINTS, schedule, say, problem_of)
    except OtherSchedule as error:
        return None, str(error)
    if path and "schedule" not in state_of(path):
        return None, "an early version made its checkpoints, and did not record their schedule"
    return path, ""


def _with_same_warmup(directory: Path, schedule: RunSchedule) -> str:
    """Returns the share that keeps the former warmup, if that alone is missing."""
    newest = next((p for p in newest_first(directory / CHECKPOINTS) if not incompleteness(p)), None)
    record = state_of(newest).get("schedule") if newest else None
    if not record:
        return ""
    done = RunSchedule.from_record(record)
    share = warmup_kept(done, schedule.length)
    path, problem = _checkpoint(directory, schedule.with_warmup(share))
    if problem or path is None:
        return ""
    kept = amount_in_words(done.unit, done.shape.warmup * done.length)
    return (
        f"PRETRAIN.WARMUP_PROPORTION {share} keeps the warmup of {kept}, and it goes on from "
        f"step {step_of(path)}; "
    )


def _steps_of_finished(directory: Path) -> str:
    """Returns `23000steps` for a folder with a finished model, else an empty string."""
    finished = read_record(directory / MANIFEST)
    if not finished or "results" not in finished:
        return ""
    return f"{finished['results'].get('step', 0)}steps"


def lengthening_hints(artifact: Artifact, schedule: RunSchedule) -> Iterator[str]:
    """Yields a line on the neighbour that this new run could lengthen under its name, if any."""
    if artifact.user_named or artifact.status().state != "new":
        return
    found = []
    for folder in artifact.directory.parent.glob("*"):
        before = read_record(folder / MANIFEST) or read_record(folder / STARTED) or {}
        if _is_longer(artifact.inputs, before.get("inputs", {})):
            path, _ = _checkpoint(folder, schedule)
            found += [(step_of(path), folder.name)] if path else []
    if found:
        step, name = max(found)
        yield f"with PRETRAIN.ID {name}, training would go on from step {step} of that run"


def begin_lengthening(
    artifact: Artifact, schedule: RunSchedule, say: Callable[[str], None]
) -> None:
    """Prepares the folder of a run to lengthen, before `Artifact.begin`; leaves others alone.

    Reads the checkpoint to go on from, and raises StageError if it is damaged. Keeps the finished
    model, and its metrics, under another name.
    """
    if artifact.status().state != "extended":
        return
    directory = artifact.directory
    path, problem = _checkpoint(directory, schedule, say, damage)
    if path is None:
        raise StageError(f"{directory}: {problem or 'no intact checkpoint to go on from is left'}")
    say(f"lengthened, goes on from step {step_of(path)}")
    steps = _steps_of_finished(directory)
    if steps and not artifact.damage():
        kept = directory / MODELS_AT / steps
        kept.parent.mkdir(exist_ok=True)
        delete_tree(kept)
        if (directory / METRICS).is_file():  # the longer run deletes lines of a decay
            shutil.copyfile(directory / METRICS, directory / MODEL / METRICS)
        os.replace(directory / MODEL, kept)
