"""Plans of stages: built once per command, without side effects.

Each stage has in its folder

- plan.py: `plan(config, upstream) -> StagePlan`, its artifact and the identity of that. upstream
  is the plan of the stage that it builds on; without one, `plan` makes it.
- estimate.py: `estimate(config, plan) -> Estimate`, its size and needs.
- checks.py: `check_machine(config, plan)`, which raises ConfigError if this machine cannot run it.
- stage.py: `run(config, plan)`.

With PRETRAIN.PHASES, the dataset and the pretrain stage make several artifacts. The plan of such a
stage is that of the last one, after the plans in `earlier`; each has a config of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.hub.needs import HubNeed
from pipeline.store.artifacts import Artifact, Status
from pipeline.store.disk import DiskNeed

if TYPE_CHECKING:
    from yacs.config import CfgNode

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
    """The artifact of a stage, and the plan of the stage below, if any.

    earlier: plans of the same class to run before this one, in order, each without `earlier`.
    config: of this artifact alone, None for that of the command. phase: number of the phase in
    PRETRAIN.PHASES, from 1. label: like `phase 1 of 2`, "" without phases.
    """

    artifact: Artifact
    upstream: "StagePlan | None"
    _: KW_ONLY
    earlier: tuple[Any, ...] = ()
    config: "CfgNode | None" = None
    phase: int = 0
    label: str = ""

    @property
    def links(self) -> tuple[Any, ...]:
        """The plan of each artifact of the stage, in order."""
        return (*self.earlier, replace(self, earlier=())) if self.earlier else (self,)

    @property
    def place(self) -> str:
        return str(self.artifact.directory)

    @property
    def headline(self) -> list[str]:
        """Lines on the result of the finished stage."""
        return self.artifact.headline

    def pending(self) -> list[Any]:
        """Returns the links to run."""
        return [link for link in self.links if not link.artifact.status().done]

    def status(self) -> Status:
        """Returns the status of the first pending link, else that of the artifact."""
        first = next(iter(self.pending()), self) if self.earlier else self
        status = first.artifact.status()
        if status.done or not first.label:
            return status
        return replace(status, reason=f"{first.label}: {status.reason}")

    def check_owner(self, forced: bool) -> None:
        """Raises ConfigError if the folders hold anything else, or, forced, cannot be deleted."""
        for link in self.links:
            if forced:
                link.artifact.check_clearable()
            else:
                link.artifact.check_owner()

    def reads(self) -> tuple[Artifact, ...]:
        """Returns the artifacts that this one is made from."""
        return (self.upstream.artifact,) if self.upstream else ()

    @contextmanager
    def locked(self, say: Callable[[str], None], wait: bool) -> Iterator[None]:
        """Locks the artifact for writing, and those that it is made from for reading.

        wait: for other runs that use them. Raises InUse otherwise.
        """
        with ExitStack() as held:
            held.enter_context(self.artifact.owned(say, wait))
            for source in self.reads():
                held.enter_context(source.in_use(say, wait))
            yield

    def clear(self) -> None:
        """Deletes the artifact."""
        self.artifact.clear()

    def record_time(self, seconds: float) -> None:
        self.artifact.record_time(seconds)
