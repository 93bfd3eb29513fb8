"""Where faults happen: a folder that can be put back as it was, and runs of the command in it."""

import json
import shutil
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos.comparison import outcome
from tests.chaos.pipeline_folder import STAGES, copy_without, stage_at, write_inputs
from tests.chaos.processes import PipelineRun, end_all, role_of, wait_until_gone

# A launcher gives its ranks half a minute to save a checkpoint.
PATIENCE_SECONDS = 45.0
LEAST_LIMIT_SECONDS = 120.0
LIMIT_OF_FIRST_SECONDS = 1200.0


@dataclass(frozen=True)
class Reference:
    """The undisturbed run. seconds: of each stage; points: [[point, count], ...] of each stage, the
    moments at which it changes files; files: what came out, by path."""

    folder: str
    seconds: dict[str, float]
    points: dict[str, list[list]]
    files: dict[str, str]

    @property
    def limit_seconds(self) -> float:
        """After which a run counts as hanging; of the undisturbed one nothing is known yet."""
        known = 6 * sum(self.seconds.values()) or LIMIT_OF_FIRST_SECONDS
        return max(LEAST_LIMIT_SECONDS, known)


class Bench:
    """A folder to run the command in. Use it in a `with` block: no process is left at its end."""

    def __init__(self, folder: Path, reference: Reference):
        self.folder, self.reference = folder.resolve(), reference
        self.mark, self.num_runs = uuid.uuid4().hex, 0

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *exception) -> None:
        self.end_all()

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def reset(self, without: Collection[str]) -> None:
        """As the undisturbed run left it, but that these stages have not run."""
        self.end_all()
        shutil.rmtree(self.folder, ignore_errors=True)
        copy_without(Path(self.reference.folder), self.folder, without)

    def keep_as(self, folder: Path) -> None:
        """Moves the folder away, for people to look at."""
        self.end_all()
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        self.folder.rename(folder)

    # --- runs ---

    def start(
        self,
        plan: dict[str, Any] | None = None,
        wrapper: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> PipelineRun:
        """The command as a user calls it; plan: for what is injected, without the places."""
        self.num_runs += 1
        output = self.folder / "said" / f"{self.num_runs:04d}.txt"
        output.parent.mkdir(exist_ok=True)
        self.note.unlink(missing_ok=True)
        places = {"root": str(self.root), "fired": str(self.note)}
        mark = f"{self.mark}.{self.num_runs}."
        plan = plan and places | plan
        limit = self.reference.limit_seconds
        return PipelineRun(self.folder, mark, output, limit, plan, wrapper, arguments)

    @property
    def note(self) -> Path:
        """There, with the process's command line, once what was to be injected has happened."""
        return self.folder / "fired"

    def outliving(self) -> str:
        """Words for the processes of ended runs that do not end; empty if all do."""
        left = wait_until_gone(self.mark, PATIENCE_SECONDS)
        roles = ", ".join(f"{role_of(pid) or 'helper'} {pid}" for pid in left)
        return f"outlive their parent by {PATIENCE_SECONDS:.0f} s: {roles}" if left else ""

    def end_all(self) -> None:
        end_all(self.mark)


# --- the undisturbed run ---------------------------------------------------------------------


def undisturbed(folder: Path) -> Reference:
    """Runs the pipeline in a new folder. Raises RuntimeError if that fails, or StillRunning."""
    shutil.rmtree(folder, ignore_errors=True)
    write_inputs(folder)
    record = folder.resolve() / "points.jsonl"
    with Bench(folder, Reference(str(folder), {}, {}, {})) as bench:
        end = bench.start({"do": "record", "file": str(record)}).end()
    if end.code:
        raise RuntimeError(f"the undisturbed run failed:\n{end.text}")
    points: dict[str, list[list]] = {stage: [] for stage in STAGES}
    for point, count in map(json.loads, record.read_text().splitlines()):
        if stage := stage_at(point.partition(" ")[2]):
            points[stage].append([point, count])
    manifests = [json.loads(path.read_text()) for path in bench.root.rglob("manifest.json")]
    seconds = {made["stage"]: made["seconds"] for made in manifests}
    return Reference(str(bench.folder), seconds, points, outcome(bench.root))


def save_reference(reference: Reference, path: Path) -> None:
    path.write_text(json.dumps(asdict(reference)))


def load_reference(path: Path) -> Reference:
    return Reference(**json.loads(path.read_text()))
