"""Rows of keys: each says its part in the identity, which is that of the lists of the plans."""

import random
from typing import Any

import pytest

from configs.defaults import get_default_config
from configs.keys import KEYS, identity_inputs, rows_of
from dataset.plan import SHAPING_KEYS
from dataset.tokenizers.vocabulary_training import TRAINING_KEYS
from finetune.plan import _RUN_KEYS
from pretrain.plan import BUDGETS, OUTSIDE_IDENTITY, VALIDATION, WINDOWS


def listed(config, section: str) -> dict[str, Any]:
    """What the plans collect without the content of files."""
    if section == "DATASET":
        inputs = {f"DATASET.{key}": config.DATASET[key] for key in SHAPING_KEYS}
        if config.DATASET.MASKING == "static":
            inputs["DATASET.DUP_FACTOR"] = config.DATASET.DUP_FACTOR
        return inputs
    if section == "TOKENIZER":
        keys = ["TRAIN", "DO_LOWER_CASE", "ACCENTS"]
        keys += TRAINING_KEYS if config.TOKENIZER.TRAIN else ()
        return {f"TOKENIZER.{key}": config.TOKENIZER[key] for key in keys}
    if section == "MODEL":
        without = () if config.MODEL.ATTENTION_WINDOW else WINDOWS
        return {f"MODEL.{key}": config.MODEL[key] for key in config.MODEL if key not in without}
    if section == "FINETUNE":
        return {f"FINETUNE.{key}": config.FINETUNE[key] for key in _RUN_KEYS}
    settings = config.PRETRAIN
    ignored = OUTSIDE_IDENTITY | set(BUDGETS.values()) - {BUDGETS[settings.LR_SCHEDULE]}
    if not settings.ALLOW_TF32:
        ignored |= {"ALLOW_TF32"}
    if settings.USE_EARLY_STOPPING:
        ignored -= VALIDATION
    else:
        ignored |= {"EARLY_STOP_TIME", "EARLY_STOP_EVAL_LOSS"}
    return {f"PRETRAIN.{key}": settings[key] for key in settings if key not in ignored}


CHOICES = {
    "DATASET.MASKING": ["static", "dynamic"],
    "PRETRAIN.LR_SCHEDULE": ["step", "time", "tokens"],
    "MODEL.ATTENTION_WINDOW": [0, 8],
}


def random_config(rng: random.Random):
    config = get_default_config()
    for key, row in KEYS.items():
        section, name = key.split(".")
        if key in CHOICES:
            config[section][name] = rng.choice(CHOICES[key])
        elif isinstance(row.default, bool):
            config[section][name] = rng.random() < 0.5
        elif rng.random() < 0.5:
            changes = {int: 7, float: 0.25, str: "other", list: ["other"]}
            config[section][name] = changes[type(row.default)]
    return config


@pytest.mark.parametrize("section", ["DATASET", "TOKENIZER", "MODEL", "PRETRAIN", "FINETUNE"])
def test_the_rows_give_the_inputs_of_the_lists(section):
    rng = random.Random(section)
    for config in (get_default_config(), *(random_config(rng) for _ in range(500))):
        assert identity_inputs(config, section) == listed(config, section)


@pytest.mark.parametrize("section", ["SYSTEM", "INSTALL", "WANDB", "RESULT_COLLECTION"])
def test_no_result_depends_on_the_machine(section):
    assert identity_inputs(random_config(random.Random(1)), section) == {}


def test_rows_of():
    assert [row for _, row, _ in rows_of(get_default_config())].count(None) == 0
