"""Defaults and the manual made from their comments."""

import ast

import pytest

from configs.defaults import get_default_config
from configs.keys import flatten
from configs.manual import MANUAL, comments, render
from pretrain.flags import flag_keys
from tests.house import PRODUCT, sources


def test_defaults_are_the_papers():
    flat = flatten(get_default_config())
    paper = {
        "PRETRAIN.NUM_STEPS": 23000,
        "PRETRAIN.BATCH_SIZE": 4096,
        "PRETRAIN.LEARNING_RATE": 1e-3,
        "PRETRAIN.WARMUP_PROPORTION": 0.06,
        "PRETRAIN.ESD_R": 2**-0.5,
        "PRETRAIN.ESD_L": 6,
        "PRETRAIN.OPTIMIZER": "adamw",
        "PRETRAIN.ADAM_BETA1": 0.9,
        "PRETRAIN.ADAM_BETA2": 0.98,
        "PRETRAIN.ADAM_EPS": 1e-6,
        "PRETRAIN.WEIGHT_DECAY": 0.01,
        "MODEL.HIDDEN_SIZE": 1024,
        "MODEL.NUM_HIDDEN_LAYERS": 24,
        "MODEL.HIDDEN_DROPOUT_PROB": 0.1,
        "DATASET.MAX_SEQ_LENGTH": 128,
        "DATASET.MASKED_LM_PROB": 0.15,
        "DATASET.MAX_PREDICTIONS_PER_SEQ": 20,
        "DATASET.FRAC_TEST": 0.005,
    }
    assert {key: flat[key] for key in paper} == paper


def test_no_default_is_shared():
    config = get_default_config()
    config.FINETUNE.TASKS.append("x")
    config.FINETUNE.GRID.QQP.EPOCHS.append(7)
    assert "x" not in get_default_config().FINETUNE.TASKS
    assert get_default_config().FINETUNE.GRID.MNLI.EPOCHS == [3, 5]


def test_every_key_has_a_comment_and_the_manual_is_current():
    explained = comments()
    for key in flatten(get_default_config()):
        assert explained.get(key) or key.startswith("FINETUNE.GRID."), key
    assert MANUAL.read_text() == render(), "run python -m configs.manual"


@pytest.mark.slow
def test_every_key_is_read_somewhere():
    """An attribute or a text outside of configs is the key, its name in any case, or its flag."""
    packages = (package for package in PRODUCT if package != "configs")
    trees = (tree for package in packages for tree in sources(package).values())
    read = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute | ast.Constant):
            read.add(node.attr if isinstance(node, ast.Attribute) else node.value)
    flags = {key: flag for flag, key in flag_keys().items()}
    for key in flatten(get_default_config()):
        name = key.rpartition(".")[2]
        assert read & {key, name, name.lower(), flags.get(key)}, key
