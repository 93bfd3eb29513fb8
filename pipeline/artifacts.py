"""Where everything is written, and when it counts as done.

A stage is described by an `Artifact`: the folders that it owns and the inputs that decide their
content. It is done only if its manifest exists and was made from the same inputs. The manifest
is written last, and every file is written aside and then moved into place, so that a kill at any
moment leaves either the old state or the new one.

A folder is taken only if it is new, empty or has a record of the same stage, and only a folder
with such a record is ever deleted: what users keep there is safe.
"""

import fcntl
import functools
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StageError
from pipeline.folders import (
    MANIFEST,
    STARTED,
    delete_folder,
    delete_leftovers,
    files_besides,
    owner_of,
    read_json,
)

MAX_CHANGES_SHOWN = 5


# --- paths -----------------------------------------------------------------------------------


def sharded_text_dir(root: Path, dataset_id: str) -> Path:
    return root / "tmp" / "dataset" / dataset_id


def dataset_dir(root: Path, dataset_id: str) -> Path:
    return root / "data" / dataset_id


def pretrain_dir(root: Path, dataset_id: str, pretrain_id: str) -> Path:
    return root / "saved_models" / "pretrain" / dataset_id / pretrain_id


def finetune_search_dir(root: Path, dataset_id: str, pretrain_id: str) -> Path:
    """The search's own record; `search` stands beside the folders of the tasks."""
    return root / "output" / "finetune" / dataset_id / "search" / pretrain_id


def finetune_task_dir(root: Path, dataset_id: str, task: str, pretrain_id: str) -> Path:
    """Holds a folder for each setting of the search."""
    return root / "output" / "finetune" / dataset_id / task / pretrain_id


def demo_glue_dir(root: Path) -> Path:
    return root / "tmp" / "glue_demo"


def submission_dir(root: Path, dataset_id: str, pretrain_id: str) -> Path:
    """The files that go into the zip; the zip itself stands beside this folder."""
    return root / "output_test_translated" / "finetune" / dataset_id / pretrain_id


def log_path(root: Path, stage: str, *parts: str) -> Path:
    """`log/<stage>/<part>/.../<part>.log`."""
    path = root / "log" / stage / Path(*parts)
    return path.with_name(path.name + ".log")


# --- writing ---------------------------------------------------------------------------------


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; moves it into place, durably, if all goes well.

    Several processes, on several servers too, may write the same path: the last one counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield aside
        flush_to_disk(aside)
        os.replace(aside, path)
        flush_to_disk(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """UTF-8; what UTF-8 has no bytes for, like a file name that is not, is escaped."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


# --- identity --------------------------------------------------------------------------------


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Hex digest of JSON-able inputs, independent of the order of keys."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hex digest of a file's content; a process reads a file again only when it has changed."""
    state = path.stat()
    return _digest_in_state(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _digest_in_state(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`MODEL.NUM_HIDDEN_LAYERS 24 -> 12, dataset changed`; digests are not spelled out.

    Of many changes the first few are named.
    """
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, "unset"), new.get(key, "unset")
        if before == after:
            continue
        if key.isupper() or "." in key:
            changes.append(f"{key} {_brief(before)} -> {_brief(after)}")
        else:
            changes.append(f"{key.replace('_', ' ')} changed")
    if len(changes) > MAX_CHANGES_SHOWN:
        hidden = len(changes) - MAX_CHANGES_SHOWN
        changes = [*changes[:MAX_CHANGES_SHOWN], f"and {hidden} more changes"]
    return ", ".join(changes)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Status:
    """state: done | new | unfinished | changed; reason: for the person who reads the console."""

    state: str
    reason: str

    @property
    def done(self) -> bool:
        return self.state == "done"


def no_files(results: Mapping[str, Any]) -> Iterable[str]:
    """For `Artifact.files_in`, where the manifest alone tells that all is there."""
    return ()


@dataclass(frozen=True)
class Artifact:
    """What one stage makes, and out of what.

    stage: its name. directory: holds the manifest. inputs: everything that decides the content,
    flat and JSON-able, config keys under their full names and what it was built from under the
    upstream stage's name (its fingerprint). parts: other folders that belong to it.
    user_named: the config key that names the directory, empty if the name was generated.
    notes: lines on size and effort, for the plan.
    scratch: names of files and folders of its folders that are of no use once the inputs change.
    files_in: names of the files in `directory` that the manifest's results vouch for.
    """

    stage: str
    directory: Path
    inputs: dict[str, Any]
    parts: tuple[Path, ...] = ()
    user_named: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)
    scratch: tuple[str, ...] = field(default=(), compare=False)
    files_in: Callable[[Mapping[str, Any]], Iterable[str]] = field(default=no_files, compare=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.inputs)

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.directory, *self.parts)

    @property
    def manifest(self) -> dict | None:
        """`{"stage", "fingerprint", "inputs", "results"}` of the finished stage, or None.

        After a run of the pipeline it has `seconds` and `finished_at`, too.
        """
        return read_json(self.directory / MANIFEST)

    # --- how it stands ---

    def status(self) -> Status:
        finished = self.manifest
        started = finished or read_json(self.directory / STARTED)
        if started is None:
            return Status("new", self._reason_for_new())
        if started.get("fingerprint") != self.fingerprint:
            return Status("changed", describe_changes(started.get("inputs", {}), self.inputs))
        if not finished:
            return Status("unfinished", "was interrupted, goes on where it was")
        missing = self._first_missing(finished["results"])
        if missing:
            return Status("unfinished", f"{missing} is missing and is made again")
        return Status("done", "up to date")

    def _first_missing(self, results: Mapping[str, Any]) -> str:
        """One look at the folder: there may be tens of thousands of files."""
        names = set(os.listdir(self.directory))
        return next((name for name in self.files_in(results) if name not in names), "")

    def _reason_for_new(self) -> str:
        """What differs from the most similar finished run beside this one, if there is any."""
        found = {path: read_json(path) for path in self.directory.parent.glob(f"*/{MANIFEST}")}
        others = {path: made["inputs"] for path, made in found.items() if made and "inputs" in made}
        if not others:
            return "not made yet"

        def num_equal(path: Path) -> int:
            return sum(others[path].get(key) == value for key, value in self.inputs.items())

        nearest = max(others, key=num_equal)
        changes = describe_changes(others[nearest], self.inputs)
        return changes or f"not made yet; {nearest.parent.name} is the same under another name"

    @property
    def is_only_begun(self) -> bool:
        """Whether its folders hold nothing yet but its own records and scratch."""
        if (self.directory / MANIFEST).exists():
            return False
        known = {STARTED, *self.scratch}
        return not any(True for folder in self.folders for _ in files_besides(folder, known))

    # --- whose it is ---

    def check_owner(self) -> None:
        """ConfigError if the folders, or the user's name for this run, stand for something else."""
        status = self.status()
        if status.done:
            return
        problems = [problem for folder in self.folders if (problem := self._problem_with(folder))]
        if self.user_named and status.state == "changed" and not self.is_only_begun:
            problems = problems or [
                f"{self.user_named}: {self.directory} was made with other settings "
                f"({status.reason}); choose another {self.user_named}, or redo it there "
                f"with --force {self.stage}"
            ]
        if problems:
            raise ConfigError(problems)

    def _problem_with(self, folder: Path) -> str:
        """Why a folder cannot be taken or deleted, or an empty string."""
        owner, key = owner_of(folder), self.user_named or self.stage
        if owner is None:
            found = next(files_besides(folder), None)
            if found:
                return (
                    f"{key}: {folder} was not made by this program (it holds {found.name}), "
                    "expected a new or an empty folder"
                )
        elif owner not in ("", self.stage):
            return f"{key}: {folder} was made by {owner}, expected a new or an empty folder"
        return ""

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Holds the artifact for this process; a lock of a process that died is free again.

        Raises StageError, saying who has it, if another process is at work on it.
        """
        path = self.directory.with_name(f".{self.directory.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise StageError(f"{self.directory} is being made by {lock.read()}") from error
            lock.truncate(0)
            since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
            lock.flush()
            yield

    # --- its life ---

    def begin(self) -> None:
        """Claims the folders. An unfinished run from the same inputs is gone on with.

        Raises ConfigError, as `check_owner` does, if they are not ours to take.
        """
        self.check_owner()
        for folder in self.folders:
            delete_leftovers(folder)
        if self.status().state == "changed":
            if self.is_only_begun:  # an attempt that came to nothing, from other inputs
                self.clear()
            # What the manifest vouches for is about to change.
            (self.directory / MANIFEST).unlink(missing_ok=True)
        record = self._record()
        for folder in self.folders:
            if read_json(folder / STARTED) != record:
                write_json(folder / STARTED, record)

    def _record(self) -> dict[str, Any]:
        return {"stage": self.stage, "fingerprint": self.fingerprint, "inputs": self.inputs}

    def finish(self, results: Mapping[str, Any]) -> None:
        """Writes the manifest: from now on the stage is done."""
        write_json(self.directory / MANIFEST, self._record() | {"results": dict(results)})

    def record_time(self, seconds: float) -> None:
        """Adds to the manifest how long the command took that finished the stage, and when."""
        finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
        times = {"seconds": round(seconds, 1), "finished_at": finished_at}
        if finished := self.manifest:
            write_json(self.directory / MANIFEST, finished | times)

    def clear(self) -> None:
        """Deletes what the stage made.

        Raises StageError, and deletes nothing, if one of the folders has no record of this stage.
        """
        for folder in self.folders:
            if problem := self._problem_with(folder):
                raise StageError(f"{problem}; it is not deleted")
        for folder in self.folders:
            if owner_of(folder) is not None:
                delete_folder(folder)
