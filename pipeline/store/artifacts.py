"""Where everything is written, and when it counts as done.

A stage is described by an `Artifact`: the folders that it owns and the inputs that decide their
content. It is done only if its manifest exists, was made from the same inputs, and the files are
still what they were then. The manifest is written last, and every file is written aside and then
moved into place, so that a kill at any moment leaves either the old state or the new one.

A folder is taken only if it is new, empty or has a record of the same stage, and only a folder
with such a record is ever deleted: what users keep there is safe.
"""

import json
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

MAX_CHANGES_SHOWN = 5
GENERATED_NAME = re.compile(r"(.+)-[0-9a-f]{8,}")


# --- identity --------------------------------------------------------------------------------


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`MODEL.NUM_HIDDEN_LAYERS 24 -> 12, dataset changed`; digests are not spelled out.

    Of many changes the first few are named, those of keys that both have before others.
    """
    changes = []
    for key in sorted(old.keys() | new.keys(), key=lambda key: (key not in old.keys() & new, key)):
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
    """For `Artifact.files_in`, where the manifest is all that counts."""
    return ()


@dataclass(frozen=True)
class Artifact:
    """What one stage makes, and out of what.

    stage: its name. directory: holds the manifest. inputs: everything that decides the content,
    flat and JSON-able, config keys under their full names and what it was built from under the
    upstream stage's name (its fingerprint). parts: other folders that belong to it.
    user_named: the config key that names the directory, empty if the name was generated.
    made_from: the input that says what it is made from; only runs that share it, or the generated
    name, are ever compared with it.
    scratch: names of files and folders of its folders that are of no use once the inputs change.
    files_in: paths from `directory` of the files, and of folders with all their files, that the
    finished stage vouches for, given its results.
    replaces: key of an input -> what the finished stage will write over if that input changes.
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

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.inputs)

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.directory, *self.parts)

    @property
    def manifest(self) -> dict | None:
        """`{"stage", "fingerprint", "inputs", "results", "files"}` of the finished stage, or None.

        files: as `states_of` has it. After a run of the pipeline there are `seconds` and
        `finished_at`, too.
        """
        found = read_record(self.directory / MANIFEST)
        return found if found and "results" in found else None

    @property
    def headline(self) -> list[str]:
        """What the finished stage says of its result; nothing if another run has deleted it."""
        return (self.manifest or {}).get("results", {}).get("headline", [])

    # --- how it stands ---

    def status(self) -> Status:
        finished = self.manifest
        started = finished or read_record(self.directory / STARTED)
        if started is None and (self.directory / STARTED).exists():
            return Status("unfinished", f"{STARTED} is damaged and is made again")
        if started is None:
            return Status("new", self._reason_for_new())
        if started.get("fingerprint") != self.fingerprint:
            before = started.get("inputs", {})
            changes = describe_changes(before, self.inputs)
            return Status("changed", "; ".join([changes, *self._lost(before if finished else {})]))
        if damage := self.damage():
            return Status("unfinished", f"{damage} and is made again")
        if not finished:
            return Status("unfinished", "was interrupted, goes on where it was")
        return Status("done", "up to date")

    def _lost(self, before: Mapping[str, Any]) -> Iterable[str]:
        """Returns what is written over, given the inputs of a finished stage."""
        changed = (key for key in self.replaces if before and before.get(key) != self.inputs[key])
        return dict.fromkeys(self.replaces[key] for key in changed)

    def damage(self) -> str:
        """`x is missing` or `x is damaged`, of what the finished stage vouches for.

        An empty string if all is as it was, or the stage has not finished.
        """
        finished = self.manifest
        if not finished:
            return f"{MANIFEST} is damaged" if (self.directory / MANIFEST).exists() else ""
        try:
            files = finished.get(FILES)
            if files is None:  # of a version that noted no more than names
                files = dict.fromkeys(self.files_in(finished["results"]))
            return damage_to(self.directory, files)
        except (KeyError, TypeError, ValueError, AttributeError):  # nobody here has written that
            return f"{MANIFEST} is damaged"

    def _reason_for_new(self) -> str:
        """What differs from the last run of the same thing that is most similar, if any."""
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
        """True if a run beside this one, of that name, is made from the same.

        A search with a FINETUNE.ID stays as it is, whatever the others do.
        """
        if NAMED in name or NAMED in self.directory.name:
            return False
        names = GENERATED_NAME.fullmatch(name), GENERATED_NAME.fullmatch(self.directory.name)
        if all(names) and names[0][1] == names[1][1]:
            return True
        key = self.made_from
        return not key or inputs.get(key) == self.inputs[key]

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
        key = self.user_named or self.stage
        # Looked at before its records: another rank may write the first of them meanwhile.
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
        """ConfigError if the folders cannot be deleted: they are not ours, or links to others."""
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
        """Makes the folders this stage's own, for a command line that keeps no other record.

        Raises ConfigError if they hold anything else. What the pipeline has begun stays as it is.
        """
        if problems := [found for folder in self.folders if (found := self._problem_with(folder))]:
            raise ConfigError(problems)
        for folder in self.folders:
            if owner_of(folder) is None:
                write_sealed(folder / STARTED, self._record())

    def owned(
        self, say: Callable[[str], None] = print_line, wait: bool = False
    ) -> AbstractContextManager[IO]:
        """Holds the artifact for this process; a lock of a process that died is free again.

        If another process is at work on it, or reads it, `say` hears who, and this one waits; or,
        without `wait`, leaves with InUse, a StageError.
        """
        return ownership.owned(self.directory, say, wait)

    def in_use(
        self, say: Callable[[str], None] = print_line, wait: bool = False
    ) -> AbstractContextManager[None]:
        """Keeps it as it is while another stage builds on it; several may. Else as `owned`."""
        return ownership.in_use(self.directory, say, wait)

    # --- its life ---

    def begin(self) -> None:
        """Claims the folders. An unfinished run from the same inputs is gone on with.

        Raises ConfigError, as `check_owner` does, if they are not ours to take.
        """
        self.check_owner()
        for folder in self.folders:
            delete_leftovers(folder)
            if owner_of(folder) is not None:
                delete_unfinished(folder)
            else:  # killed at its very first write, a run leaves no record by which it is ours
                delete_unfinished_file(folder / STARTED)
        if self.status().state == "changed":
            if self.is_only_begun:  # an attempt that came to nothing, from other inputs
                for folder in self.folders:
                    for name in self.scratch:
                        delete_tree(folder / name)
            # What the manifest vouches for is about to change.
            (self.directory / MANIFEST).unlink(missing_ok=True)
        record = self._record()
        for folder in self.folders:
            if read_sealed(folder / STARTED) != record:
                write_sealed(folder / STARTED, record)

    def _record(self) -> dict[str, Any]:
        return {"stage": self.stage, "fingerprint": self.fingerprint, "inputs": self.inputs}

    def finish(self, results: Mapping[str, Any]) -> None:
        """Writes the manifest: from now on the stage is done."""
        results = dict(results)
        files = states_of(self.directory, self.files_in(results))
        write_sealed(self.directory / MANIFEST, self._record() | {"results": results, FILES: files})

    def record_time(self, seconds: float) -> None:
        """Adds to the manifest how long the command took that finished the stage, and when."""
        finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
        times = {"seconds": round(seconds, 1), "finished_at": finished_at}
        if finished := self.manifest:
            write_sealed(self.directory / MANIFEST, finished | times)

    def clear(self) -> None:
        """Deletes what the stage made.

        Raises StageError, and deletes nothing, if one of the folders is not the stage's own.
        """
        for problem in self._problems_with_clearing():
            raise StageError(problem)
        for folder in self.folders:
            if owner_of(folder) is not None:
                delete_folder(folder)
