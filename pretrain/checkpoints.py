"""Checkpoints: written aside, moved into place when complete, checked before they are used.

`checkpoints/step_0000500/` holds DeepSpeed's files and `checkpoint.json`, which lists them with
their sizes and says how many ranks wrote them. DeepSpeed writes them with torch.save, as zip
archives that carry checksums.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.artifacts import flush_to_disk, read_json, write_json
from pretrain.distributed import barrier, from_first_rank, rank, world_size

RECORD = "checkpoint.json"
STATE_KEY = "training_run"


def checkpoint_dir(directory: Path, step: int) -> Path:
    return directory / f"step_{step:07d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(directory.glob("step_*"))


def save_checkpoint(engine, directory: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Saves weights, optimizer and `state` (JSON-able), then deletes all but the last `keep`.

    Every rank must call it. Returns the checkpoint's folder.
    """
    path, aside = checkpoint_dir(directory, step), directory / ".aside"
    if rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    barrier()
    engine.save_checkpoint(
        str(aside), tag=path.name, client_state={STATE_KEY: state}, save_latest=False
    )
    if rank() == 0:
        _move_into_place(aside / path.name, path, _layout(engine))
        _prune(directory, step, keep)
    barrier()
    return path


def _layout(engine) -> dict[str, int]:
    """What the files depend on: with ZeRO, each rank holds its share of the optimizer's state."""
    stage = engine.zero_optimization_stage()
    return {"zero_stage": stage, "num_ranks": world_size() if stage else 1}


def _move_into_place(aside: Path, path: Path, layout: dict[str, int]) -> None:
    files = [file for file in aside.iterdir() if file.is_file()]
    sizes = {file.name: file.stat().st_size for file in files}
    write_json(aside / RECORD, {"files": sizes, "layout": layout})
    for file in (*files, aside):
        flush_to_disk(file)
    shutil.rmtree(path, ignore_errors=True)  # a damaged one, passed over at the start
    os.replace(aside, path)
    flush_to_disk(path.parent)


def _prune(directory: Path, step: int, keep: int) -> None:
    """Deletes old checkpoints, and newer ones: they were damaged, so training began before them."""
    newest = checkpoint_dir(directory, step).name
    present = list_checkpoints(directory)
    wanted = [path for path in present if path.name <= newest][-max(1, keep) :]
    for path in present:
        if path not in wanted:
            shutil.rmtree(path)


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, or an empty string."""
    record = read_json(path / RECORD)
    if not record or "files" not in record:
        return f"no readable {RECORD}"
    for name, size in record["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, expected {size}"
        try:
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()
        except zipfile.BadZipFile as error:
            return f"{name}: {error}"
        if broken:
            return f"{name}: wrong checksum of {broken}"
    return ""


def newest_intact_checkpoint(directory: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint without damage; says which ones were passed over and why."""
    for path in reversed(list_checkpoints(directory)):
        problem = damage(path)
        if not problem:
            return path
        say(f"{path.name} is damaged ({problem}) and is passed over")
    return None


def load_newest_checkpoint(
    engine, directory: Path, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Restores the engine and returns the state that was saved with it; None: nothing to load.

    Every rank must call it.
    """
    found = newest_intact_checkpoint(directory, say) if rank() == 0 else None
    path = from_first_rank(found)
    if path is None:
        return None
    written, ours = read_json(path / RECORD)["layout"], _layout(engine)
    if written != ours:
        raise RuntimeError(
            f"{path} was written by {written['num_ranks']} ranks at ZeRO stage "
            f"{written['zero_stage']}, this run has {ours['num_ranks']} at stage "
            f"{ours['zero_stage']}: go on with as many GPUs (SYSTEM.NUM_GPUS) and the precision of "
            "before"
        )
    _, client_state = engine.load_checkpoint(str(directory), tag=path.name)
    return client_state[STATE_KEY]
