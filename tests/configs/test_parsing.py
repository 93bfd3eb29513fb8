"""Values: their keys decide how texts are read, and a wrong one is named with its key."""

import pytest

from configs.defaults import get_default_config
from configs.keys import flatten

# (key, its text, the message)
NO_VALUE = {
    "a name nearby": ("PRETRAIN.NUM_STEP", "5", "unknown key (did you mean PRETRAIN.NUM_STEPS?)"),
    "small letters": ("pretrain.seed", "5", "unknown key (did you mean PRETRAIN.SEED?)"),
    "another section": ("MODEL.NUM_STEPS", "5", "unknown key (did you mean PRETRAIN.NUM_STEPS?)"),
    "no section": ("NUM_STEPS", "5", "unknown key (did you mean PRETRAIN.NUM_STEPS?)"),
    "a section nearby": ("DATSET.SEED", "5", "unknown key (did you mean DATASET.SEED?)"),
    "nothing nearby": ("PRETRAIN.COLOUR", "red", "unknown key"),
    "dashes in a section": (
        "PRETRAIN",
        "[{NUM_STEPS: 5}]",
        "expected a section, lines of `KEY: value`, got [{NUM_STEPS: 5}]",
    ),
    "no colon in a section": (
        "PRETRAIN",
        "NUM_STEPS 5",
        "expected a section, lines of `KEY: value`, got NUM_STEPS 5",
    ),
    "no list": (
        "DATASET.CUSTOMIZED_DATASETS",
        "raw_data",
        "wrong type, got raw_data, expected a list like [raw_data/wikipedia]",
    ),
    "no list of lists": (
        "DATASET.HUGGINGFACE_DATASETS",
        "[wikipedia, 20220301.en]",
        "wrong type, got [wikipedia, 20220301.en], expected a list like [[wikipedia, 20220301.en]]",
    ),
    "a list": (
        "PRETRAIN.LEARNING_RATE",
        "[1e-3, 5e-4]",
        "wrong type, got [1e-3, 5e-4], expected a number like 0.5",
    ),
    "thousands": (
        "PRETRAIN.NUM_STEPS",
        "23,000",
        "wrong type, got 23,000, expected a whole number",
    ),
    "half a step": ("PRETRAIN.NUM_STEPS", "2.5", "wrong type, got 2.5, expected a whole number"),
    "no steps": ("PRETRAIN.NUM_STEPS", "", "wrong type, got nothing, expected a whole number"),
    "a comma": (
        "PRETRAIN.LEARNING_RATE",
        "0,001",
        "wrong type, got 0,001, expected a number like 0.5",
    ),
    "a unit": (
        "SYSTEM.MAX_MEMORY_IN_GB",
        "64GB",
        "wrong type, got 64GB, expected a number like 0.5",
    ),
    "percent": (
        "PRETRAIN.WARMUP_PROPORTION",
        "6",
        "value out of range, got 6.0, expected at least 0 and below 1",
    ),
    "a percent sign": (
        "DATASET.MASKED_LM_PROB",
        "15%",
        "wrong type, got 15%, expected a number like 0.5",
    ),
    "below 0": ("PRETRAIN.NUM_STEPS", "-5", "value out of range, got -5, expected at least 0"),
    "no truth value": (
        "PRETRAIN.ENABLED",
        "flase",
        "wrong type, got flase, expected True or False",
    ),
    "no choice": (
        "WANDB.MODE",
        "off",
        "value out of range, got 'off', expected one of disabled, offline, online",
    ),
    "a dot in a name": (
        "FINETUNE.CUSTOM_TASKS.v1.5.TRAIN",
        "a.tsv",
        "got a.tsv, expected FINETUNE.CUSTOM_TASKS.NAME.KEY, without a dot in the NAME",
    ),
    "too many steps": (
        "PRETRAIN.NUM_STEPS",
        "10000000000000000",
        "too large (beyond 1e+15), got 10000000000000000, expected a whole number",
    ),
    "too few steps": (
        "PRETRAIN.NUM_STEPS",
        "-1e300",
        "too large (beyond 1e+15), got -1e300, expected a whole number",
    ),
    "too much memory": (
        "SYSTEM.MAX_MEMORY_IN_GB",
        "1e999",
        "too large (beyond 1e+15), got 1e999, expected a number like 0.5",
    ),
    "no number": (
        "SYSTEM.MAX_MEMORY_IN_GB",
        ".nan",
        "wrong type, got .nan, expected a number like 0.5",
    ),
    "not a number": (
        "SYSTEM.MAX_MEMORY_IN_GB",
        "nan",
        "wrong type, got nan, expected a number like 0.5",
    ),
    "minutes": ("SYSTEM.NUM_GPUS", "1:30", "wrong type, got 1:30, expected a whole number"),
    "a truth value": (
        "PRETRAIN.NUM_STEPS",
        "True",
        "wrong type, got True, expected a whole number",
    ),
    "half a character": (
        "DATASET.TEXT_COLUMN",
        '"\\ud800"',
        "half a character in it (a surrogate), got \ud800, expected text",
    ),
    "two lines": (
        "DATASET.TEXT_COLUMN",
        '"a\\nb"',
        "line breaks or control characters in it, got a\\nb, expected text",
    ),
    "a key without a name": (
        "FINETUNE.GRID.EPOCHS",
        "[3]",
        "got [3], expected FINETUNE.GRID.NAME.KEY, without a dot in the NAME",
    ),
    "a task without keys": (
        "FINETUNE.CUSTOM_TASKS.reviews",
        "3",
        "got 3, expected FINETUNE.CUSTOM_TASKS.NAME.KEY, without a dot in the NAME",
    ),
    "a task's key": (
        "FINETUNE.GRID.RTE.EPOCH",
        "[5]",
        "unknown key (did you mean FINETUNE.GRID.RTE.EPOCHS?)",
    ),
    "a task's list": (
        "FINETUNE.GRID.RTE.EPOCHS",
        "5",
        "wrong type, got 5, expected a list like [3]",
    ),
}


@pytest.mark.parametrize("mistake", NO_VALUE)
def test_the_key_is_named(problems, mistake):
    key, written, said = NO_VALUE[mistake]
    assert problems(f"{key}: {written}\n") == [f"{key}: {said}"]


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("PRETRAIN.NUM_STEPS", "'500'", 500),
        ("PRETRAIN.NUM_STEPS", "1_000", 1000),
        ("PRETRAIN.NUM_STEPS", "23e3", 23000),
        ("PRETRAIN.NUM_STEPS", "010", 10),
        ("PRETRAIN.NUM_STEPS", "999999999999999", 999_999_999_999_999),
        ("PRETRAIN.NUM_TOKENS", "1e9", 10**9),
        ("PRETRAIN.LEARNING_RATE", "1e-4", 1e-4),
        ("PRETRAIN.LEARNING_RATE", ".001", 1e-3),
        ("PRETRAIN.WEIGHT_DECAY", "1", 1.0),
        ("PRETRAIN.COMPILE", "On", True),
        ("PRETRAIN.COMPILE", "'yes'", True),
        ("PRETRAIN.COMPILE", "NO", False),
        ("PRETRAIN.ID", "null", ""),
        ("PRETRAIN.ID", "", ""),
        ("DATASET.LANGUAGE", "no", "no"),
        ("FINETUNE.STILT_TASKS", "", []),
        ("FINETUNE.MULTIPROCESS_GPU_LIST", "[[0, '1'], [2]]", [[0, 1], [2]]),
        ("FINETUNE.GRID.RTE.LEARNING_RATES", "[1e-5, 3e-5]", [1e-5, 3e-5]),
    ],
)
def test_the_key_decides_the_type(load, key, written, value):
    found = flatten(load(f"{key}: {written}\n"))[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name", ["2024-01-05", "010", "1.10", "1_000", "0x1F", "1e3", "yes", "off", "2022"]
)
def test_a_text_key_takes_the_text(load, name):
    for written in (name, f"'{name}'"):
        assert load(f"DATASET: {{ID: {written}}}\n").DATASET.ID == name
    assert load("DATASET: {ID: a}", "DATASET.ID", name).DATASET.ID == name


@pytest.mark.parametrize(
    "key", [key for key, value in flatten(get_default_config()).items() if isinstance(value, list)]
)
def test_the_message_for_every_list_has_an_example(problems, tmp_path, key):
    """Also if the base file has emptied it."""
    (tmp_path / "base.yaml").write_text(f"{key}: []")
    found = problems(f"_BASE_: base.yaml\n{key}: text")
    (line,) = (line for line in found if line.startswith(f"{key}: wrong type"))
    assert "got text, expected a list like [" in line


def test_a_secret_is_not_shown(problems):
    for text in (
        *("WANDB: sk-secret", "WANDB: {MODE: [sk-secret]}", "WANDB: {API_KEY: [sk-secret]}"),
        *("sk-secret", "[sk-secret]"),
    ):
        assert "sk-secret" not in "\n".join(problems(text))
