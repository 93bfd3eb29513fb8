"""Artifacts: the folders of a stage, their identity and their manifest.

An artifact is finished if its manifest names the same inputs and its files have not changed since.
The manifest is written last, and all files are moved into place when complete: a kill at any
moment leaves the old state or the new one.

A stage takes a folder only if it is new, empty or has a record of the same stage, and deletes only
folders with such a record: the users' own files are safe.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pipeline.console import print_line
from pipeline.errors import ConfigError, StageError
from pipeline.store import ownership
from pipeline.store.atomic_files import write_sealed
from pipeline.store.changes import describe_changes
from pipeline.store.checksums import FILES, damage_to, fingerprint, states_of
from pipeline.store.paths import NAMED
from pipeline.store.record_files import (
    MANIFEST,
    STARTED,
    delete_folder,
    delete_leftovers,
    delete_tree,
    delete_unfinished,
    delete_unfinished_file,
    files_besides,
    owner_of,
    read_record,
    read_sealed,
)

GENERATED_NAME = re.compile(r"(.+)-[0-9a-f]{8,}")


@dataclass(frozen=True)
class Status:
    """state: done | new | unfinished | changed | extended. reason: for the reader of the console.
    remedy: of a changed one, the way to keep what is there."""

    state: str
    reason: str
    remedy: str = ""

    @property
    def done(self) -> bool:
        return self.state == "done"


@dataclass(frozen=True)
class Extension:
    """How a run adds to the results of one with other inputs, or else why it cannot."""

    note: str = ""
    refusal: str = ""


def no_files(results: Mapping[str, Any]) -> Iterable[str]:
    """Lists no files: an artifact that consists of its manifest."""
    return ()


@dataclass(frozen=True)
class Artifact:
    """The result of one stage, and its inputs.

    stage: name of the stage. directory: holds the manifest. inputs: all values that decide the
    content, flat and JSON-able: config keys by their full names, the upstream stage's fingerprint
    by its name. parts: further folders. user_named: the config key that names the directory, empty
    if the name was generated. made_from: key of the main input; `status` compares only runs that
    share it, or the generated name. scratch: names in the folders that are useless once the inputs
    change. files_in: returns, for the results, the paths from `directory` of the files and whole
    folders under checksum. replaces: key of an input -> a warning of what is overwritten if it
    changes. extension: returns, for other inputs of what is there, how this run adds to it; None
    if it must begin again.
    """

    stage: str
    directory: Path
    inputs: dict[str, Any]
    parts: tuple[Path, ...] = ()
    user_named: str = ""
    made_from: str = ""
    scratch: tuple[str, ...] = field(default=(), compare=False)
    files_in: Callable[[Mapping[str, Any]], Iterable[str]] = field(default=no_files, compare=False)
    replaces: Mapping[str, str] = field(default_factory=dict, compare=False)
    extension: Callable[[Mapping[str, Any]], Extension | None] = field(
        default=lambda before: None, compare=False
    )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.inputs)

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.directory, *self.parts)

    @property
    def manifest(self) -> dict | None:
        """The keys stage, fingerprint, inputs, results and files (see `states_of`), or None.

        A run of the pipeline adds `seconds` and `finished_at`. None before the stage has finished.
        """
        found = read_record(self.directory / MANIFEST)
        return found if found and "results" in found else None

    @property
    def headline(self) -> list[str]:
        """Lines on the result of the finished stage; empty if another run has deleted it."""
        return (self.manifest or {}).get("results", {}).get("headline", [])

    # --- status ---

    def status(self) -> Status:
        finished = self.manifest
        started = finished or read_record(self.directory / STARTED)
        if started is None and (self.directory / STARTED).exists():
            return Status("unfinished", f"{STARTED} is damaged and is made again")
        if started is None:
            return Status("new", self._reason_for_new())
        if started.get("fingerprint") != self.fingerprint:
            return self._status_of_changes(started.get("inputs", {}), finished is not None)
        if damage := self.damage():
            return Status("unfinished", f"{damage} and is made again")
        if not finished:
            return Status("unfinished", "was interrupted, goes on where it was")
        return Status("done", "up to date")

    def _status_of_changes(self, before: Mapping[str, Any], is_finished: bool) -> Status:
        """Compares with what is there, made from the inputs `before`."""
        changes = describe_changes(before, self.inputs)
        found = self.extension(before) or Extension()
        if found.note:
            return Status("extended", f"{found.note} ({changes})")
        lost = self._lost(before if is_finished else {})
        return Status("changed", "; ".join([changes, *lost]), found.refusal)

    def _lost(self, before: Mapping[str, Any]) -> Iterable[str]:
        """Returns warnings of overwritten results, given the inputs of the finished stage."""
        changed = (key for key in self.replaces if before and before.get(key) != self.inputs[key])
        return dict.fromkeys(self.replaces[key] for key in changed)

    def damage(self) -> str:
        """Returns `x is missing` or `x is damaged` for the first changed file under checksum.

        Returns an empty string if none changed, or the stage has not finished.
        """
        finished = self.manifest
        if not finished:
            return f"{MANIFEST} is damaged" if (self.directory / MANIFEST).exists() else ""
        try:
            files = finished.get(FILES)
            if files is None:  # an early version recorded names only
                files = dict.fromkeys(self.files_in(finished["results"]))
            return damage_to(self.directory, files)
        except (KeyError, TypeError, ValueError, AttributeError):  # not written by this program
            return f"{MANIFEST} is damaged"

    def _reason_for_new(self) -> str:
        """Returns the differences from the most similar finished run of the same kind, if any."""
        made = {
            path: record["inputs"]
            for path in self.directory.parent.glob(f"*/{MANIFEST}")
            if (record := read_record(path)) and "inputs" in record
        }
        same = next((path for path, inputs in made.items() if inputs == self.inputs), None)
        if same:
            return f"not made yet; {same.parent.name} is the same under another name"
        found = [path for path in made if self._is_kin(path.parent.name, made[path])]
        if self.user_named or not found:
            return "not made yet"

        def similarity(path: Path) -> tuple[int, float]:
            equal = sum(made[path].get(key) == value for key, value in self.inputs.items())
            return equal, path.stat().st_mtime

        return describe_changes(made[max(found, key=similarity)], self.inputs)

    def _is_kin(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """True if a neighbouring run has the same kind of name or the same main input.

        False for searches with a FINETUNE.ID: they are independent of all others.
        """
        if NAMED in name or NAMED in self.directory.name:
            return False
        other, own = map(GENERATED_NAME.fullmatch, (name, self.directory.name))
        if other and own and other[1] == own[1]:
            return True
        key = self.made_from
        return not key or inputs.get(key) == self.inputs[key]

    @property
    def is_only_begun(self) -> bool:
        """True if the folders hold only records and scratch files."""
        if (self.directory / MANIFEST).exists():
            return False
        known = {STARTED, *self.scratch}
        return not any(True for folder in self.folders for _ in files_besides(folder, known))

    # --- ownership ---

    def check_owner(self) -> None:
        """Raises ConfigError if the folders, or the user's name for them, are already taken."""
        status = self.status()
        if status.done:
            return
        problems = [problem for folder in self.folders if (problem := self._problem_with(folder))]
        if self.user_named and status.state == "changed" and not self.is_only_begun:
            remedy = status.remedy or f"choose another {self.user_named}"
            problems = problems or [
                f"{self.user_named}: {self.directory} was made with other settings "
                f"({status.reason}); {remedy}, or redo it there with --force {self.stage}"
            ]
        if problems:
            raise ConfigError(problems)

    def _problem_with(self, folder: Path) -> str:
        """Returns a reason not to take or delete a folder, or an empty string."""
        key = self.user_named or self.stage
        # Before its records are read: another rank may write the first of them meanwhile.
        found = next(files_besides(folder), None)
        owner = owner_of(folder)
        if owner is None:
            if found:
                return (
                    f"{key}: {folder} was not made by this program (it holds {found.name}), "
                    "expected a new or an empty folder"
                )
        elif owner not in ("", self.stage):
            return f"{key}: {folder} was made by {owner}, expected a new or an empty folder"
        return ""

    def check_clearable(self) -> None:
        """Raises ConfigError if the folders must not be deleted: foreign ones, or links."""
        if problems := list(self._problems_with_clearing()):
            raise ConfigError(problems)

    def _problems_with_clearing(self) -> Iterator[str]:
        for folder in self.folders:
            problem = self._problem_with(folder)
            if folder.is_symlink():
                problem = f"{self.user_named or self.stage}: {folder} leads to {folder.resolve()}"
            if problem:
                yield f"{problem}; it is not deleted"

    def claim(self) -> None:
        """Marks the folders as this stage's, for commands outside the pipeline.

        Leaves records of the pipeline alone. Raises ConfigError if the folders hold anything else.
        """
        if problems := [found for folder in self.folders if (found := self._problem_with(folder))]:
            raise ConfigError(problems)
        for folder in self.folders:
            if owner_of(folder) is None:
                write_sealed(folder / STARTED, self._record())

    def owned(
        self, say: Callable[[str], None] = print_line, wait: bool = False
    ) -> AbstractContextManager[IO]:
        """Locks the artifact for this process; the lock of a dead process is free.

        If another process writes or reads it, waits and names that process through `say`; without
        `wait`, raises InUse.
        """
        return ownership.owned(self.directory, say, wait)

    def in_use(
        self, say: Callable[[str], None] = print_line, wait: bool = False
    ) -> AbstractContextManager[None]:
        """Locks the artifact for reading; several processes may. Waits as `owned` does."""
        return ownership.in_use(self.directory, say, wait)

    # --- begin and end ---

    def begin(self) -> None:
        """Claims the folders, keeping the files of an unfinished run with the same inputs, or of
        one to extend.

        Raises ConfigError, as `check_owner` does.
        """
        self.check_owner()
        for folder in self.folders:
            delete_leftovers(folder)
            if owner_of(folder) is not None:
                delete_unfinished(folder)
            else:  # a kill during the very first write leaves no record
                delete_unfinished_file(folder / STARTED)
        if self.status().state in ("changed", "extended"):
            if self.is_only_begun:  # an attempt with other inputs that made no file
                for folder in self.folders:
                    for name in self.scratch:
                        delete_tree(folder / name)
            # The files under checksum are about to change.
            (self.directory / MANIFEST).unlink(missing_ok=True)
        record = self._record()
        for folder in self.folders:
            if read_sealed(folder / STARTED) != record:
                write_sealed(folder / STARTED, record)

    def _record(self) -> dict[str, Any]:
        return {"stage": self.stage, "fingerprint": self.fingerprint, "inputs": self.inputs}

    def finish(self, results: Mapping[str, Any]) -> None:
        """Writes the manifest, the mark of a finished stage."""
        results = dict(results)
        files = states_of(self.directory, self.files_in(results))
        write_sealed(self.directory / MANIFEST, self._record() | {"results": results, FILES: files})

    def record_time(self, seconds: float) -> None:
        """Adds the duration and the end of the finishing command to the manifest."""
        finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
        times = {"seconds": round(seconds, 1), "finished_at": finished_at}
        if finished := self.manifest:
            write_sealed(self.directory / MANIFEST, finished | times)

    def clear(self) -> None:
        """Deletes the folders.

        Raises StageError, and deletes nothing, if one is not the stage's own.
        """
        for problem in self._problems_with_clearing():
            raise StageError(problem)
        for folder in self.folders:
            if owner_of(folder) is not None:
                delete_folder(folder)
