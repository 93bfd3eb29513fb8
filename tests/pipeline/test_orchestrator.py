"""What is planned, and why."""

import json
from types import SimpleNamespace

import pytest

from configs.defaults import custom_task_node, get_default_config
from pipeline.errors import StageError
from pipeline.orchestrator import Step, _plan_again, plan_steps
from pipeline.stages import Stage
from pipeline.store.artifacts import Status


def test_a_search_that_starts_from_another_model_is_not_redone_with_pretraining(tmp_path):
    """What `--force pretrain` deletes is what builds on it."""
    (tmp_path / "a.txt").write_text("A small text. With two sentences.\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (model / "model.safetensors").touch()
    (model / "tokenizer.json").write_text("{}")
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.NUM_GPUS = str(tmp_path / "root"), 0
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "a.txt")]
    config.TOKENIZER.TRAIN = True
    config.FINETUNE.GLUE_DIR = "builtin:demo"

    def forced():
        steps = plan_steps(config, ("dataset", "pretrain", "finetune"), ("pretrain",))
        return {step.stage.name: step.forced for step in steps}

    redone = {"dataset": "", "pretrain": "as asked", "finetune": "because pretrain is"}
    assert forced() == redone
    config.FINETUNE.MODEL_NAME_OR_PATH = str(model)
    assert forced() == redone | {"finetune": ""}

    config.PRETRAIN.ENABLED = False
    config.FINETUNE.CUSTOM_TASKS.mine = custom_task_node()
    dataset, finetune = plan_steps(config, ("dataset", "finetune"), dry_run=True)
    unused = f"not used by finetuning, which starts from {model} (FINETUNE.MODEL_NAME_OR_PATH)"
    assert dataset.estimate.notes[-1] == unused
    forgotten = "not searched: mine of FINETUNE.CUSTOM_TASKS, not in FINETUNE.TASKS"
    assert forgotten in finetune.estimate.notes


def test_a_stage_is_planned_again_when_its_turn_comes():
    """Its files are read as they are then; one that has become unreadable is one sentence."""
    config = get_default_config()
    states = iter(["new", "changed"])

    def plan(config, upstream):
        state = next(states, None)
        if state is None:
            raise PermissionError(13, "Permission denied", "rows.csv")
        return SimpleNamespace(state=state, upstream=upstream, status=lambda: Status(state, ""))

    stage = Stage("dataset", plan, None, None, None)
    step = Step(stage, plan(config, None), Status("new", ""))
    again = _plan_again(config, step, {})
    assert (again.plan.state, again.status.state) == ("changed", "changed")
    with pytest.raises(StageError, match=r"rows\.csv") as failure:
        _plan_again(config, step, {})
    assert failure.value.stage == "dataset"
