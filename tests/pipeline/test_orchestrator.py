"""What is planned, and why."""

import json

from configs.defaults import custom_task_node, get_default_config
from pipeline.orchestrator import plan_steps


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
