"""Checkpoints: written aside, moved into place when complete, verified before use.

`checkpoints/step_0000500/` holds `state.safetensors`, the whole tensors of
pretrain.engine.zero_state, and `checkpoint.json`, the sealed record of its size and digest, the
numbers of the engine and the state of the run. Any number of ranks can resume from it.
pretrain.checkpoint_folders finds and checks them.
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
from pretrain.checkpoint_folders import (
    RECORD,
    STABLE,
    TENSORS,
    OtherSchedule,
    checkpoint_dir,
    checkpoint_to_resume,
    damage,
    list_checkpoints,
    newest_first,
    newest_intact_checkpoint,
    step_of,
)
from pretrain.engine.distributed import barrier, from_first_rank, rank
from pretrain.engine.time_limits import BETWEEN_SAVING_MESSAGES
from pretrain.engine.zero_state import gather_state, restore_state
from pretrain.optimization.run_schedule import RunSchedule


class CheckpointWriter:
    """Writes the checkpoints of a run, and keeps the last `keep` of them.

    Rank 0 copies the state, and a thread writes it during training; if memory is short, training
    waits. `saved_step`: step of the newest complete checkpoint, as far as rank 0 knows.
    `good_step`: step of a checkpoint proved good by later losses, and kept at any age. A stable
    checkpoint is kept, too, until the next one.

    On a full disk, deletes the oldest checkpoints. If there is still no room, calls `warn`, and
    training continues without the checkpoint: the disk may have room for the next one.
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

    def save(self, engine, step: int, state: dict[str, Any], is_stable: bool = False) -> None:
        """Saves the engine and `state` (JSON-able). Every rank must call it.

        is_stable: keeps it as the stable one. Raises the error of the previous checkpoint, if any,
        except for a full disk.
        """
        self.wait()
        tensors, numbers = gather_state(engine)
        if rank():
            self.saved_step = step
            return
        record = {"step": step, "numbers": numbers, "state": state}
        self._pending = self._thread.submit(self._write_or_warn, tensors, record, is_stable)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if psutil.virtual_memory().available < num_bytes:  # less than the copy has taken
            self.wait()

    def wait(self) -> None:
        """Waits for the last checkpoint, with messages on a slow disk; raises its error, if any.

        A full disk is no error.
        """
        if pending := self._pending:
            while futures.wait([pending], BETWEEN_SAVING_MESSAGES).not_done:
                self.say("waiting for the disk: the checkpoint is still being written")
            self._pending = None
            pending.result()

    def settle(self) -> None:
        """Waits until nothing is being written, and ignores errors. For another thread."""
        if pending := self._pending:
            futures.wait([pending])

    def check(self) -> None:
        """Raises the error of the last checkpoint, if already known."""
        if self._pending and self._pending.done():
            self.wait()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _write_or_warn(
        self, tensors: dict[str, Any], record: dict[str, Any], is_stable: bool
    ) -> None:
        path = checkpoint_dir(self.directory, record["step"])
        try:
            write_with_room(
                lambda: self._write(tensors, record, is_stable),
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

    def _write(
        self, tensors: dict[str, Any], record: dict[str, Any], is_stable: bool = False
    ) -> None:
        path = checkpoint_dir(self.directory, record["step"])
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise FloatingPointError(f"{name} is not finite, and {path.name} is not saved")
        aside = self.directory / ".aside"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(tensors, aside / TENSORS)
        digest, num_bytes = file_digest(aside / TENSORS), (aside / TENSORS).stat().st_size
        write_sealed(aside / RECORD, record | {"bytes": num_bytes, "digest": digest})
        flush_to_disk(aside / TENSORS)
        flush_to_disk(aside)
        present = read_sealed(path / RECORD) or {}
        if present.get("digest") == digest and not damage(path):
            # Replaces its record alone, so that there is a complete checkpoint at any time.
            os.replace(aside / RECORD, path / RECORD)
            flush_to_disk(path)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            shutil.rmtree(path, ignore_errors=True)  # a damaged one, skipped at the start
            os.replace(aside, path)
            flush_to_disk(self.directory)
        if is_stable:
            self._keep_stable(path)
        self._prune(path)

    def _keep_stable(self, path: Path) -> None:
        """Copies a complete checkpoint, by links where the file system has them."""
        aside = self.directory / ".aside"
        aside.mkdir()
        for name in (TENSORS, RECORD):
            try:
                os.link(path / name, aside / name)
            except OSError as error:
                if is_full(error):
                    raise
                shutil.copyfile(path / name, aside / name)
                flush_to_disk(aside / name)
        flush_to_disk(aside)
        # After a kill between the two lines, the run resumes from `path` and copies it again.
        shutil.rmtree(self.directory / STABLE, ignore_errors=True)
        os.replace(aside, self.directory / STABLE)
        flush_to_disk(self.directory)

    def last_good(self) -> str:
        """Returns a line on the last checkpoint proved good by later losses, if any."""
        if self.good_step < 0:
            return "there is no good checkpoint"
        path = checkpoint_dir(self.directory, self.good_step)
        newer = [p.name for p in newest_first(self.directory) if step_of(p) > self.good_step]
        advice = f"; to resume from it, delete {', '.join(newer)}" if newer else ""
        return f"the last good checkpoint is {path}{advice}"

    def _prune(self, newest: Path) -> None:
        """Deletes old checkpoints, and newer ones: those were damaged and skipped."""
        present = list_checkpoints(self.directory)
        wanted = [path for path in present if path.name <= newest.name][-max(1, self.keep) :]
        wanted.append(checkpoint_dir(self.directory, self.good_step))
        for path in present:
            if path not in wanted:
                delete_tree(path)


def write_with_room(
    write: Callable[[], None],
    what: str,
    directory: Path,
    good_step: int,
    warn: Callable[[str], None],
) -> None:
    """Calls `write`; while the disk is full, deletes the oldest checkpoint and retries.

    Keeps the newest intact checkpoint and that of good_step. Raises the error of `write` if there
    is no other one to delete.
    """
    while True:
        try:
            return write()
        except (OSError, SafetensorError) as error:
            if not is_full(error):
                raise
            newest = newest_intact_checkpoint(directory, lambda problem: None)
            kept = {newest, checkpoint_dir(directory, good_step)}
            oldest = next((path for path in list_checkpoints(directory) if path not in kept), None)
            if oldest is None:
                raise
        warn(f"the disk is full: {oldest.name} is deleted to make room for {what}")
        delete_tree(oldest)


def load_newest_checkpoint(
    engine,
    directory: Path,
    optimizer_type: str,
    schedule: RunSchedule,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Restores the engine and returns the saved state of the run, None without a checkpoint.

    Takes the newest checkpoint of a run of this schedule; see `checkpoint_to_resume`. Every rank
    must call it. Raises OtherSchedule, or ValueError naming the checkpoint if it is of another
    model or optimizer.
    """
    found = _choose(directory, schedule, say) if rank() == 0 else None
    path, refusal = from_first_rank(found)
    if refusal:
        raise OtherSchedule(refusal)
    if path is None:
        return None
    record = read_sealed(path / RECORD)
    assert record is not None  # the checkpoint is intact
    theirs = record["state"].get("optimizer_type")
    if theirs != optimizer_type:
        raise ValueError(f"{path}: --optimizer_type was {theirs}, and is {optimizer_type} now")
    try:
        restore_state(engine, load_file(path / TENSORS), record["numbers"])
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    barrier()
    return record["state"]


def _choose(
    directory: Path, schedule: RunSchedule, say: Callable[[str], None]
) -> tuple[Path | None, str]:
    """Returns the checkpoint, if any, and the reason to refuse all of them, if any."""
    try:
        return checkpoint_to_resume(directory, schedule, say), ""
    except OtherSchedule as error:
        return None, (
            f"no checkpoint in {directory} is one of this run: {error}. Give it another "
            "--output_dir, where --start_from begins with these weights, or the former length and "
            "curve"
        )
