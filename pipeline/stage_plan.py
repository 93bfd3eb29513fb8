"""Plans of stages: built once per command, without side effects.

Each stage has in its folder

- plan.py: `plan(config, upstream) -> StagePlan`, its artifact and the identity of that. upstream
  is the plan of the stage that it builds on; without one, `plan` makes it.
- estimate.py: `estimate(config, plan) -> Estimate`, its size and needs.
- checks.py: `check_machine(config, plan)`, which raises ConfigError if this machine cannot run it.
- stage.py: `run(config, plan)`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from pipeline.hub.needs import HubNeed
from pipeline.store.artifacts import Artifact, Status
from pipeline.store.disk import DiskNeed

STAGE_NAMES = ("install", "dataset", "pretrain", "finetune", "result_collection")


@dataclass(frozen=True)
class Estimate:
    """Size and needs of a stage.

    notes: lines for the reader. disk: space that it takes. hub: repositories that it loads.
    """

    notes: tuple[str, ...] = ()
    disk: tuple[DiskNeed, ...] = ()
    hub: tuple[HubNeed, ...] = ()


@dataclass(frozen=True)
class StagePlan:
    """The artifact of a stage, and the plan of the stage below, if any."""

    artifact: Artifact
    upstream: "StagePlan | None"

    @property
    def place(self) -> str:
        return str(self.artifact.directory)

    @property
    def headline(self) -> list[str]:
        """Lines on the result of the finished stage."""
        return self.artifact.headline

    def status(self) -> Status:
        return self.artifact.status()

    def check_owner(self, forced: bool) -> None:
        """Raises ConfigError if the folders hold anything else, or, forced, cannot be deleted."""
        if forced:
            self.artifact.check_clearable()
        else:
            self.artifact.check_owner()

    @contextmanager
    def locked(self, say: Callable[[str], None], wait: bool) -> Iterator[None]:
        """Locks the artifact for writing, and the one below for reading.

        wait: for other runs that use them. Raises InUse otherwise.
        """
        upstream = self.upstream
        source = upstream.artifact.in_use(say, wait) if upstream else nullcontext()
        with self.artifact.owned(say, wait), source:
            yield

    def clear(self) -> None:
        """Deletes the artifact."""
        self.artifact.clear()

    def record_time(self, seconds: float) -> None:
        self.artifact.record_time(seconds)
