"""Checkpoints: written aside, moved into place when complete, checked before they are used.

`checkpoints/step_0000500/` holds `state.safetensors`, the whole tensors of
pretrain.engine.zero_state, and `checkpoint.json`, the sealed record of its size and digest, the
numbers that belong to it and where the run stood. It says nothing of ranks, so that any number of
them can go on from it.
"""

import os
import shutil
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.store.atomic_files import flush_to_disk, write_sealed
from pipeline.store.checksums import file_digest
from pipeline.store.disk import is_full
from pipeline.store.record_files import delete_tree, read_sealed
from pretrain.engine.distributed import barrier, from_first_rank, rank
from pretrain.engine.time_limits import BETWEEN_WORDS_ON_SAVING
from pretrain.engine.zero_state import gather_state, restore_state

TENSORS, RECORD = "state.safetensors", "checkpoint.json"


def checkpoint_dir(directory: Path, step: int) -> Path:
    return directory / f"step_{step:07d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints, oldest first; a copy under another name, like `step_0000500_good`, is none."""
    return sorted(path for path in directory.glob("step_*") if path.name[5:].isdecimal())


class CheckpointWriter:
    """Writes the checkpoints of a run, and keeps the last `keep` of them.

    Rank 0 copies the state, and a thread writes it while training goes on; where the memory for
    that is short, training waits. `saved_step`: of the newest one that is in place, as far as rank
    0 knows. `good_step`: of one that has proved to be good, and is kept however old it is.

    On a full disk the oldest ones go first. What still finds no room is not saved, `warn` hears of
    it, and training goes on: it may be days that a checkpoint now would save, but it is days, too,
    that ending now would cost, and the disk may have room by the next one.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        warn: Callable[[str], None],
        say: Callable[[str], None] = lambda text: None,
    ):
        self.directory, self.keep, self.warn, self.say = directory, keep, warn, say
        self.saved_step = self.good_step = -1
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: futures.Future | None = None

    def save(self, engine, step: int, state: dict[str, Any]) -> None:
        """Saves the engine and `state` (JSON-able). Every rank must call it.

        Raises what went wrong in writing the checkpoint before, but for a full disk.
        """
        self.wait()
        tensors, numbers = gather_state(engine)
        if rank():
            self.saved_step = step
            return
        record = {"step": step, "numbers": numbers, "state": state}
        self._pending = self._thread.submit(self._write_or_say_where, tensors, record)
        if _is_memory_short(tensors):
            self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is in place, or has found no room; raises what else
        went wrong with it. On a slow disk, says now and then that it is not done yet."""
        if pending := self._pending:
            while futures.wait([pending], BETWEEN_WORDS_ON_SAVING).not_done:
                self.say("waiting for the disk: the checkpoint is still being written")
            self._pending = None
            pending.result()

    def settle(self) -> None:
        """Returns when nothing is being written, whatever came of it. For another thread."""
        if pending := self._pending:
            futures.wait([pending])

    def check(self) -> None:
        """Raises what went wrong with the last checkpoint, if that is known by now."""
        if self._pending and self._pending.done():
            self.wait()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _write_or_say_where(self, tensors: dict[str, Any], record: dict[str, Any]) -> None:
        path = checkpoint_dir(self.directory, record["step"])
        try:
            write_with_room(
                lambda: self._write(tensors, record),
                *(path.name, self.directory, self.good_step, self.warn),
            )
            self.saved_step = record["step"]
        except (OSError, SafetensorError) as error:
            shutil.rmtree(self.directory / ".aside", ignore_errors=True)
            if not is_full(error):
                raise OSError(f"{path} cannot be written: {error}") from error
            kept = f"that of step {self.saved_step}" if self.saved_step > 0 else "none yet"
            self.warn(
                f"{path.name} finds no room on the disk and is not saved ({error}); "
                f"the newest checkpoint is {kept}"
            )

    def _write(self, tensors: dict[str, Any], record: dict[str, Any]) -> None:
        path = checkpoint_dir(self.directory, record["step"])
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise FloatingPointError(f"{name} is not finite, and {path.name} is not saved")
        aside = self.directory / ".aside"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(tensors, aside / TENSORS)
        file = {"bytes": (aside / TENSORS).stat().st_size, "digest": file_digest(aside / TENSORS)}
        write_sealed(aside / RECORD, record | file)
        for name in (aside / TENSORS, aside):
            flush_to_disk(name)
        if _holds(path, file["digest"]):  # with another record: what was due at that step is done
            os.replace(aside / RECORD, path / RECORD)
            flush_to_disk(path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            shutil.rmtree(path, ignore_errors=True)  # a damaged one, passed over at the start
            os.replace(aside, path)
            flush_to_disk(self.directory)
        self._prune(path)

    def _prune(self, newest: Path) -> None:
        """Deletes old checkpoints, and newer ones: they were damaged, so that we began before."""
        present = list_checkpoints(self.directory)
        wanted = [path for path in present if path.name <= newest.name][-max(1, self.keep) :]
        wanted.append(checkpoint_dir(self.directory, self.good_step))
        for path in present:
            if path not in wanted:
                delete_tree(path)


def _is_memory_short(tensors: dict[str, Any]) -> bool:
    """Whether the copy takes more than half of the memory that was free before it was made."""
    return psutil.virtual_memory().available < sum(tensor.nbytes for tensor in tensors.values())


def write_with_room(
    write: Callable[[], None],
    what: str,
    directory: Path,
    good_step: int,
    warn: Callable[[str], None],
) -> None:
    """Calls `write`, and as long as the disk is full, deletes a checkpoint and calls it again.

    The oldest goes first; the newest intact one and that of good_step stay. Raises what `write`
    does if none can be spared.
    """
    while True:
        try:
            return write()
        except (OSError, SafetensorError) as error:
            spared = _oldest_to_spare(directory, good_step) if is_full(error) else None
            if spared is None:
                raise
        warn(f"the disk is full: {spared.name} is deleted to make room for {what}")
        delete_tree(spared)


def _oldest_to_spare(directory: Path, good_step: int) -> Path | None:
    kept = {
        newest_intact_checkpoint(directory, lambda problem: None),
        checkpoint_dir(directory, good_step),
    }
    return next((path for path in list_checkpoints(directory) if path not in kept), None)


def _holds(path: Path, digest: str) -> bool:
    """Whether there is an intact checkpoint with these tensors, which never must be missing."""
    record = read_sealed(path / RECORD) or {}
    return record.get("digest") == digest and not damage(path)


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, or an empty string."""
    record, file = read_sealed(path / RECORD), path / TENSORS
    needed = {"step", "numbers", "state", "bytes", "digest"}
    if not record or not needed <= record.keys():
        return f"no readable {RECORD}"
    if not file.is_file():
        return f"{TENSORS} is missing"
    if file.stat().st_size != record["bytes"]:
        return f"{TENSORS} has {file.stat().st_size} bytes, expected {record['bytes']}"
    return "" if file_digest(file) == record["digest"] else f"{TENSORS}: wrong digest"


def newest_intact_checkpoint(directory: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint without damage; says which ones were passed over and why."""
    for path in reversed(list_checkpoints(directory)):
        problem = damage(path)
        if not problem:
            return path
        say(f"{path.name} is damaged ({problem}) and is passed over")
    return None


def load_newest_checkpoint(
    engine, directory: Path, optimizer_type: str, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Restores the engine and returns the state that was saved with it; None: nothing to load.

    Every rank must call it. Raises ValueError naming the checkpoint if it is of another model or
    of another optimizer, as the state's optimizer_type says.
    """
    found = newest_intact_checkpoint(directory, say) if rank() == 0 else None
    path = from_first_rank(found)
    if path is None:
        return None
    record = read_sealed(path / RECORD)
    theirs = record["state"].get("optimizer_type")
    if theirs != optimizer_type:
        raise ValueError(f"{path}: --optimizer_type was {theirs}, and is {optimizer_type} now")
    try:
        restore_state(engine, load_file(path / TENSORS), record["numbers"])
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    barrier()
    return record["state"]
