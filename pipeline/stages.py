"""The table of the stages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

import dataset.checks
import dataset.estimate
import dataset.plan
import finetune.checks
import finetune.estimate
import finetune.plan
import pretrain.checks
import pretrain.estimate
import pretrain.plan
import result_collection.checks
import result_collection.estimate
import result_collection.plan
from pipeline import install
from pipeline.stage_plan import Estimate, StagePlan
from pipeline.store.artifacts import Artifact


def _nothing(*_: Any) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Stage:
    """A row of the pipeline; pipeline.stage_plan describes its functions.

    name: its section of the config, in lower case. needs: name of the stage that it builds on.
    run_notes: more lines for the reader, for a stage that will run. found: lines on an unfinished
    artifact. restarts: the stages after it run in a new process.
    """

    name: str
    plan: Callable[[CfgNode, Any], Any]
    estimate: Callable[[CfgNode, Any], Estimate]
    check_machine: Callable[[CfgNode, Any], None]
    run: Callable[[CfgNode, Any], None]
    needs: str = ""
    run_notes: Callable[[CfgNode, Any], Iterable[str]] = _nothing
    found: Callable[[Artifact], Iterable[str]] = _nothing
    restarts: bool = False

    def enabled(self, config: CfgNode) -> bool:
        return config[self.name.upper()].ENABLED

    def upstream(self, config: CfgNode) -> "Stage | None":
        """Returns the stage below this one, if any."""
        if self.name == "finetune" and config.FINETUNE.MODEL_NAME_OR_PATH:
            return None
        return next((stage for stage in STAGES if stage.name == self.needs), None)


# A stage is imported when it runs: a command that finds all up to date is quick.


def _run_dataset(config: CfgNode, plan: Any) -> None:
    import dataset.stage

    dataset.stage.run(config, plan)


def _run_pretrain(config: CfgNode, plan: Any) -> None:
    import pretrain.stage

    pretrain.stage.run(config, plan)


def _run_finetune(config: CfgNode, plan: Any) -> None:
    import finetune.stage

    finetune.stage.run(config, plan)


def _run_result_collection(config: CfgNode, plan: Any) -> None:
    import result_collection.stage

    result_collection.stage.run(config, plan)


STAGES = (
    Stage(
        "install",
        install.plan,
        install.estimate,
        install.check_machine,
        install.run,
        restarts=True,
    ),
    Stage(
        "dataset",
        dataset.plan.plan,
        dataset.estimate.estimate,
        dataset.checks.check_machine,
        _run_dataset,
    ),
    Stage(
        "pretrain",
        pretrain.plan.plan,
        pretrain.estimate.estimate,
        pretrain.checks.check_machine,
        _run_pretrain,
        needs="dataset",
        found=pretrain.plan.last_checkpoint,
    ),
    Stage(
        "finetune",
        finetune.plan.plan,
        finetune.estimate.estimate,
        finetune.checks.check_machine,
        _run_finetune,
        needs="pretrain",
        run_notes=finetune.estimate.run_notes,
    ),
    Stage(
        "result_collection",
        result_collection.plan.plan,
        result_collection.estimate.estimate,
        result_collection.checks.check_machine,
        _run_result_collection,
        needs="finetune",
        run_notes=result_collection.estimate.run_notes,
    ),
)


def plan_stage(config: CfgNode, stage: Stage, plans: dict[str, StagePlan]) -> StagePlan:
    """Plans a stage, after the stages below it; `plans` keeps each plan."""
    if stage.name not in plans:
        upstream = stage.upstream(config)
        below = plan_stage(config, upstream, plans) if upstream else None
        plans[stage.name] = stage.plan(config, below)
    return plans[stage.name]
