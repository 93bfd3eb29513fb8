"""Runs the stages in order: plans all of them first, says what is to do and why, then does it."""

import importlib
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import install
from pipeline.artifacts import Artifact, Status, log_path
from pipeline.console import duration
from pipeline.devices import num_gpus
from pipeline.errors import ConfigError

if TYPE_CHECKING:  # a bare Python, which has no yacs, imports this module too
    from yacs.config import CfgNode


@dataclass(frozen=True)
class Stage:
    """A row of the pipeline. plan and run are functions of `<name>.artifact` and `<name>.stage`."""

    name: str
    plan: str
    run: str
    needs: str = ""
    uses_gpus: bool = False

    def artifact(self, config: "CfgNode") -> Artifact:
        return getattr(importlib.import_module(f"{self.name}.artifact"), self.plan)(config)

    def __call__(self, config: "CfgNode") -> None:
        getattr(importlib.import_module(f"{self.name}.stage"), self.run)(config)

    def enabled(self, config: "CfgNode") -> bool:
        return config[self.name.upper()].ENABLED


STAGES = (
    Stage("dataset", "dataset_artifact", "prepare_dataset"),
    Stage("pretrain", "pretrain_artifact", "pretrain", "dataset", uses_gpus=True),
    Stage("finetune", "finetune_artifact", "finetune", "pretrain", uses_gpus=True),
    Stage("result_collection", "result_artifact", "collect_test_result", "finetune"),
)
STAGE_NAMES = ("install", *(stage.name for stage in STAGES))


@dataclass(frozen=True)
class Step:
    """One stage of this run: what it makes, how that stands, and whether it is redone anyway."""

    stage: Stage
    artifact: Artifact
    status: Status
    forced: bool

    @property
    def runs(self) -> bool:
        return self.forced or not self.status.done

    def __str__(self) -> str:
        if self.forced:
            return f"{self.stage.name}: running again, as asked"
        if self.status.done:
            return f"{self.stage.name}: up to date ({self.artifact.directory})"
        return f"{self.stage.name}: running, {self.status.reason}"


def run_pipeline(
    config: "CfgNode",
    stages: Collection[str] = STAGE_NAMES,
    force: Collection[str] = (),
    dry_run: bool = False,
) -> None:
    """Runs the enabled stages among `stages`; those in `force` are made anew.

    Raises ConfigError before anything is touched, StageError when a stage fails.
    """
    steps = plan(config, stages, force)
    _install(config, stages, force, dry_run)
    for stage in STAGES:
        step = next((step for step in steps if step.stage is stage), None)
        if step is None:
            if stage.name in stages:
                print(f"{stage.name}: switched off")
            continue
        print(step, flush=True)
        if dry_run:
            for note in step.artifact.notes:
                print(f"  {note}")
        elif step.runs:
            _run(step, config)
        else:
            for line in step.artifact.manifest["results"].get("headline", ()):
                print(f"  {line}")


def plan(config: "CfgNode", stages: Collection[str], force: Collection[str]) -> list[Step]:
    """The stages that will be looked at; ConfigError if one of them could not do its work."""
    steps: list[Step] = []
    problems: list[str] = []
    for stage in STAGES:
        if stage.name not in stages or not stage.enabled(config):
            continue
        try:
            artifact = stage.artifact(config)
            forced = stage.name in force
            if not forced:
                artifact.check_owner()
            step = Step(stage, artifact, artifact.status(), forced)
            if step.runs:
                problems += _missing_upstream(stage, config, steps)
                if stage.uses_gpus:
                    num_gpus(config.SYSTEM.NUM_GPUS)
            steps.append(step)
        except ConfigError as error:
            problems += [line for line in error.problems if line not in problems]
    if problems:
        raise ConfigError(problems)
    return steps


def _missing_upstream(stage: Stage, config: "CfgNode", steps: list[Step]) -> list[str]:
    """A line if this stage builds on one that is neither done nor about to run."""
    if not stage.needs or any(step.stage.name == stage.needs for step in steps):
        return []
    if stage.name == "finetune" and config.FINETUNE.MODEL_NAME_OR_PATH:
        return []
    upstream = next(other for other in STAGES if other.name == stage.needs)
    status = upstream.artifact(config).status()
    if status.done:
        return []
    return [
        f"{stage.needs.upper()}.ENABLED: the {stage.name} stage builds on the {stage.needs} stage, "
        f"which is not part of this run and not done ({status.reason}); run it first, "
        f"with --stages {stage.needs} {stage.needs.upper()}.ENABLED True"
    ]


def _run(step: Step, config: "CfgNode") -> None:
    begin = time.monotonic()
    if step.forced:
        step.artifact.clear()
    step.stage(config)
    print(f"{step.stage.name}: done in {duration(time.monotonic() - begin)}", flush=True)


def _install(
    config: "CfgNode", stages: Collection[str], force: Collection[str], dry_run: bool
) -> None:
    """The packages are importable, or we would not be here; are they the right ones?"""
    if "install" not in stages:
        return
    if not config.INSTALL.ENABLED:
        print("install: switched off")
        return
    others = install.other_versions()
    found = "".join(f", {other}" for other in others)
    if "install" not in force and not (others and install.inside_environment()):
        print(f"install: up to date ({sys.prefix}{found})", flush=True)
        return
    print("install: running" + (found or ", as asked"), flush=True)
    if not dry_run:
        log = log_path(Path(config.SYSTEM.OUTPUT_ROOT), "install")
        install.run_install_script(log, again=True)
        # This process holds the packages as they were: the other stages get a new one.
        rest = ",".join(name for name in stages if name != "install")
        install.continue_inside_environment([*sys.argv[1:], "--stages", rest])
