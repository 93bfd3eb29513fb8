"""Where everything is written, and when it counts as done.

A stage is described by an `Artifact`: the folders that it owns and the inputs that decide their
content. It is done only if its manifest exists and was made from the same inputs. The manifest
is written last, and every file is written aside and then moved into place, so that a kill at any
moment leaves either the old state or the new one.
"""

import fcntl
import functools
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StageError

STARTED = "started.json"
MANIFEST = "manifest.json"
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
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None if it is missing or not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


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


@dataclass(frozen=True)
class Artifact:
    """What one stage makes, and out of what.

    stage: its name. directory: holds the manifest. inputs: everything that decides the content,
    flat and JSON-able, config keys under their full names and what it was built from under the
    upstream stage's name (its fingerprint). parts: other folders that belong to it.
    user_named: the config key that names the directory, empty if the name was generated.
    notes: lines on size and effort, for the plan.
    """

    stage: str
    directory: Path
    inputs: dict[str, Any]
    parts: tuple[Path, ...] = ()
    user_named: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.inputs)

    @property
    def manifest(self) -> dict | None:
        """`{"fingerprint", "inputs", "results"}` of the finished stage, or None."""
        return read_json(self.directory / MANIFEST)

    def status(self) -> Status:
        finished = self.manifest
        started = finished or read_json(self.directory / STARTED)
        if started is None:
            return Status("new", self._reason_for_new())
        if started.get("fingerprint") != self.fingerprint:
            return Status("changed", describe_changes(started.get("inputs", {}), self.inputs))
        if finished:
            return Status("done", "up to date")
        return Status("unfinished", "was interrupted, goes on where it was")

    def _reason_for_new(self) -> str:
        """What differs from the most similar finished run beside this one, if there is any."""
        manifests = [read_json(path) for path in self.directory.parent.glob(f"*/{MANIFEST}")]
        others = [found["inputs"] for found in manifests if found and "inputs" in found]
        if not others:
            return "not made yet"

        def num_equal(inputs: dict[str, Any]) -> int:
            return sum(inputs.get(key) == value for key, value in self.inputs.items())

        return describe_changes(max(others, key=num_equal), self.inputs)

    def check_owner(self) -> None:
        """ConfigError if the user's name for this run already stands for something else."""
        status = self.status()
        if self.user_named and status.state == "changed":
            raise ConfigError(
                [
                    f"{self.user_named}: {self.directory} was made with other settings "
                    f"({status.reason}); choose another {self.user_named}, or redo it there "
                    f"with --force {self.stage}"
                ]
            )

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

    def begin(self) -> None:
        """Claims the folders. An unfinished run from the same inputs is gone on with."""
        self.check_owner()
        record = {"fingerprint": self.fingerprint, "inputs": self.inputs}
        if self.status().state == "changed":  # what the manifest vouches for is about to change
            (self.directory / MANIFEST).unlink(missing_ok=True)
        for directory in (self.directory, *self.parts):
            if read_json(directory / STARTED) != record:
                write_json(directory / STARTED, record)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Writes the manifest: from now on the stage is done."""
        write_json(
            self.directory / MANIFEST,
            {"fingerprint": self.fingerprint, "inputs": self.inputs, "results": dict(results)},
        )

    def clear(self) -> None:
        """Deletes what the stage made. Folders without our record are left alone."""
        for directory in (self.directory, *self.parts):
            if not directory.exists():
                continue
            if not ((directory / STARTED).exists() or (directory / MANIFEST).exists()):
                raise StageError(f"{directory} was not made by this program; not deleted")
            # Renamed first: half a folder must not be taken for a whole one after a kill.
            aside = directory.with_name(f".{directory.name}.deleted")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(directory, aside)
            shutil.rmtree(aside)
