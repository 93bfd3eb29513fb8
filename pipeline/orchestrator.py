"""Runs the stages in order: plans all of them first, says what is to do and why, then does it."""

import importlib
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import install
from pipeline.console import duration, print_line
from pipeline.environment import continue_inside_environment, inside_environment
from pipeline.errors import ConfigError, StageError
from pipeline.hub.needs import hub_problems
from pipeline.privacy import private_files
from pipeline.store.artifacts import Artifact, Status
from pipeline.store.disk import DiskNeed, shortages, space_in_words
from pipeline.store.ownership import InUse, is_owned, owner
from pipeline.store.paths import log_path

if TYPE_CHECKING:  # a bare Python, which has no yacs, imports this module too
    from yacs.config import CfgNode


@dataclass(frozen=True)
class Stage:
    """A row of the pipeline. plan and run are functions of `<name>.artifact` and `<name>.stage`.

    check: a function of `<name>.artifact` that raises ConfigError if this machine cannot run it.
    found: one that yields lines on what there is of an artifact that is not finished.
    notes: one that yields lines for the plan, besides those of the artifact, if the stage will run.
    """

    name: str
    plan: str
    run: str
    needs: str = ""
    check: str = ""
    found: str = ""
    notes: str = ""

    def artifact(self, config: "CfgNode") -> Artifact:
        return self._planning(self.plan)(config)

    def check_machine(self, config: "CfgNode") -> None:
        if self.check:
            self._planning(self.check)(config)

    def found_in(self, artifact: Artifact) -> Iterator[str]:
        if self.found:
            yield from self._planning(self.found)(artifact)

    def notes_on(self, config: "CfgNode") -> Iterator[str]:
        if self.notes:
            yield from self._planning(self.notes)(config)

    def _planning(self, function: str) -> Callable:
        return getattr(importlib.import_module(f"{self.name}.artifact"), function)

    def __call__(self, config: "CfgNode") -> None:
        getattr(importlib.import_module(f"{self.name}.stage"), self.run)(config)

    def enabled(self, config: "CfgNode") -> bool:
        return config[self.name.upper()].ENABLED

    def upstream(self, config: "CfgNode") -> "Stage | None":
        """The stage that this one builds on."""
        if self.name == "finetune" and config.FINETUNE.MODEL_NAME_OR_PATH:
            return None
        return next((stage for stage in STAGES if stage.name == self.needs), None)


STAGES = (
    Stage("dataset", "dataset_artifact", "prepare_dataset", check="check_machine"),
    Stage(
        "pretrain", "pretrain_artifact", "pretrain", "dataset", "check_machine", "last_checkpoint"
    ),
    Stage(
        "finetune", "finetune_artifact", "finetune", "pretrain", "check_machine", notes="row_notes"
    ),
    Stage(
        "result_collection",
        "result_artifact",
        "collect_test_result",
        "finetune",
        "check_machine",
        notes="row_notes",
    ),
)
STAGE_NAMES = ("install", *(stage.name for stage in STAGES))


@dataclass(frozen=True)
class Step:
    """One stage of this run: what it makes, how that stands, and why it is redone anyway."""

    stage: Stage
    artifact: Artifact
    status: Status
    forced: str = ""

    @property
    def runs(self) -> bool:
        return bool(self.forced) or not self.status.done

    def in_words(self, planned: bool = False) -> str:
        """What is done and why; planned: in a dry run, which does nothing."""
        verb = "would run" if planned else "running"
        if self.forced:
            return f"{self.stage.name}: {verb} again, {self.forced}"
        if self.status.done:
            return f"{self.stage.name}: up to date ({self.artifact.directory})"
        return f"{self.stage.name}: {verb}, {self.status.reason}"


def run_pipeline(
    config: "CfgNode",
    stages: Collection[str] = STAGE_NAMES,
    force: Collection[str] = (),
    dry_run: bool = False,
    wait: bool = False,
) -> None:
    """Runs the enabled stages among `stages`; those in `force`, and what builds on them, anew.

    wait: for other runs that are at work on the same artifacts. Raises ConfigError before anything
    is touched, StageError when a stage fails or, without `wait`, another run has its artifact.
    """
    steps = plan(config, stages, force, wait)
    _install(config, stages, force, dry_run)
    for stage in STAGES:
        step = next((step for step in steps if step.stage is stage), None)
        if step is None:
            if stage.name in stages:
                print_line(f"{stage.name}: switched off")
            continue
        if step.runs and not dry_run:
            _run(step, config, wait)
            continue
        print_line(step.in_words(planned=dry_run))
        if dry_run:
            for note in (*step.artifact.notes, *(stage.notes_on(config) if step.runs else ())):
                print_line(f"  {note}")
            for need in step.artifact.hub if step.runs else ():
                print_line(f"  from the Hub, where it can be loaded: {need}")
        else:
            for line in step.artifact.headline:
                print_line(f"  {line}")
    if dry_run:
        for line in space_in_words(_disk_needs(steps)):
            print_line(line)


def plan(
    config: "CfgNode", stages: Collection[str], force: Collection[str], wait: bool = False
) -> list[Step]:
    """The stages that will be looked at; ConfigError if one of them could not do its work.

    wait: what another run is making counts as there.
    """
    steps: list[Step] = []
    problems: list[str] = []
    for stage in STAGES:
        if stage.name not in stages or not stage.enabled(config):
            continue
        try:
            artifact = stage.artifact(config)
            step = Step(stage, artifact, artifact.status(), _force(stage, config, force, steps))
            steps.append(step)
            if step.forced:
                artifact.check_clearable()
            else:
                artifact.check_owner()
            if step.runs:
                problems += _missing_upstream(stage, config, steps, wait)
                stage.check_machine(config)
        except ConfigError as error:
            problems += [line for line in error.problems if line not in problems]
        except (OSError, ValueError) as error:
            problems.append(f"{stage.name}: {error}")
    problems += shortages(_disk_needs(steps))
    problems += hub_problems([need for step in steps if step.runs for need in step.artifact.hub])
    if problems:
        raise ConfigError(problems)
    return steps


def _disk_needs(steps: list[Step]) -> list[DiskNeed]:
    return [need for step in steps if step.runs for need in step.artifact.disk]


def _force(stage: Stage, config: "CfgNode", force: Collection[str], steps: list[Step]) -> str:
    """Why a stage is made anew although it may be done; empty if it is not."""
    if stage.name in force:
        return "as asked"
    upstream = stage.upstream(config)
    if any(step.forced for step in steps if step.stage is upstream):
        return f"because {stage.needs} is"
    return ""


def _missing_upstream(stage: Stage, config: "CfgNode", steps: list[Step], wait: bool) -> list[str]:
    """A line if this stage builds on one that is neither done nor about to run."""
    upstream = stage.upstream(config)
    if upstream is None or any(step.stage is upstream for step in steps):
        return []
    artifact = upstream.artifact(config)
    status = artifact.status()
    is_being_made = is_owned(artifact.directory)
    if status.done or (wait and is_being_made):
        return []
    at_work = f"{owner(artifact.directory)} is making it" if is_being_made else ""
    return [
        f"{stage.needs.upper()}.ENABLED: the {stage.name} stage builds on the {stage.needs} stage, "
        f"which is not part of this run and not done ({at_work or status.reason}); run it first, "
        f"with --stages {stage.needs} {stage.needs.upper()}.ENABLED True"
    ]


@private_files()
def _run(step: Step, config: "CfgNode", wait: bool) -> None:
    name, artifact = step.stage.name, step.artifact
    upstream = step.stage.upstream(config)

    def say(text: str) -> None:
        print_line(f"{name}: {text}")

    try:
        source = upstream.artifact(config).in_use(say, wait) if upstream else nullcontext()
        with artifact.owned(say, wait), source:
            step = replace(step, status=artifact.status())  # another run may have come in between
            print_line(step.in_words())
            if not step.runs:
                return
            begin = time.monotonic()
            if step.forced:
                artifact.clear()
            if problems := shortages(artifact.disk):  # the stages before it have taken their part
                raise StageError(problems[0])
            step.stage(config)
            seconds = time.monotonic() - begin
            artifact.record_time(seconds)
    except InUse as error:
        cause = f"{error.cause}; run it again when that is over, or with --wait"
        raise StageError(cause, stage=name) from error
    except StageError as error:
        raise StageError(error.cause, error.log, name) from error
    except OSError as error:  # a disk that is full, a folder that may not be written
        raise StageError(str(error), stage=name) from error
    say(f"done in {duration(seconds)}")


def _install(
    config: "CfgNode", stages: Collection[str], force: Collection[str], dry_run: bool
) -> None:
    """The packages are importable, or we would not be here; are they the right ones?"""
    if "install" not in stages:
        return
    if not config.INSTALL.ENABLED:
        print_line("install: switched off")
        return
    found = "".join(f", {other}" for other in install.other_versions().values())
    if "install" not in force and not (inside_environment() and install.has_changed()):
        print_line(f"install: up to date ({sys.prefix}{found})")
        return
    print_line(f"install: {'would run' if dry_run else 'running'}{found or ', as asked'}")
    if not dry_run:
        log = log_path(Path(config.SYSTEM.OUTPUT_ROOT), "install")
        install.run_install_script(log, again=True)
        # This process holds the packages as they were: the other stages get a new one.
        rest = ",".join(name for name in stages if name != "install")
        if not rest:
            return
        forced = [word for name in force if name != "install" for word in ("--force", name)]
        continue_inside_environment([*_without_options(sys.argv[1:]), "--stages", rest, *forced])


def _without_options(arguments: list[str]) -> list[str]:
    """The command line without --stages and --force, which are given anew."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--stages", "--force"):
            next(words, None)
        elif not word.startswith(("--stages=", "--force=")):
            kept.append(word)
    return kept
