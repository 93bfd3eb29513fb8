"""What the loader says to typical mistakes: where, what it found, and what it expected."""

import pytest

from configs.loading import load_config
from pipeline.errors import ConfigError

INCOMPLETE = (
    "a key where none is expected; is the line before it complete, as in `KEY: value`, and "
    "indented alike? A value with `: ` in it needs quotes"
)
NEEDS_QUOTES = "a value that begins with any of * & @ % ` needs quotes"

# (text, number of the line, what is said of it)
NO_YAML = {
    "a tab": ("PRETRAIN:\n\tNUM_STEPS: 5", 2, "a tab, expected spaces"),
    "a tab behind the colon": ("PRETRAIN:\n  SEED:\t5", 2, "a tab, expected spaces"),
    "no colon at a section": ("PRETRAIN\n  NUM_STEPS: 5", 2, INCOMPLETE),
    "no colon at a key": (
        "PRETRAIN:\n  SEED: 3\n  NUM_STEPS 5\n  BATCH_SIZE: 3",
        3,
        "expected `KEY: value`, with a colon and a space",
    ),
    "no space behind the colon": ("PRETRAIN:\n  NUM_STEPS:5\n  SEED: 3", 3, INCOMPLETE),
    "too many spaces": ("PRETRAIN:\n  SEED: 3\n    NUM_STEPS: 5", 3, INCOMPLETE),
    "too few spaces": (
        "PRETRAIN:\n    SEED: 3\n  NUM_STEPS: 5",
        3,
        "not indented like the lines before it, or not `KEY: value` or `- value` as they are",
    ),
    "a colon in a value": ("WANDB:\n  PROJECT: a: b", 2, INCOMPLETE),
    "an open bracket": (
        "DATASET:\n  CUSTOMIZED_DATASETS: [a, b\n  ENABLED: False",
        2,
        "a bracket that is not closed, or a comma that is missing",
    ),
    "an open quote": ("DATASET:\n  ID: 'abc\n  ENABLED: False", 2, "a quote that is not closed"),
    "a pattern": ("DATASET:\n  CUSTOMIZED_DATASETS: [*.txt]", 2, NEEDS_QUOTES),
    "an alias of nothing": ("DATASET:\n  ID: *x", 2, NEEDS_QUOTES),
    "a placeholder": ("DATASET:\n  ID: %NAME%", 2, NEEDS_QUOTES),
    "another placeholder": (
        "DATASET:\n  ID: {{ name }}",
        2,
        "expected a name as key, got a list or a section",
    ),
    "a path of Windows": (
        'SYSTEM:\n  OUTPUT_ROOT: "C:\\Users\\me"',
        2,
        "a backslash between double quotes, expected it between single quotes",
    ),
    "a key twice": (
        "PRETRAIN:\n  SEED: 3\n  NUM_STEPS: 5\n  SEED: 4",
        4,
        "SEED appears twice, first in line 2",
    ),
    "a section twice": (
        "PRETRAIN:\n  SEED: 3\nMODEL:\n  GLU: yes\nPRETRAIN:\n  NUM_STEPS: 3",
        5,
        "PRETRAIN appears twice, first in line 1",
    ),
    "an .ini file": (
        "[PRETRAIN]\nNUM_STEPS = 5",
        2,
        "text after a complete value, expected sections like `SYSTEM:`",
    ),
    "two documents": (
        "PRETRAIN:\n  SEED: 3\n---\nMODEL:\n  GLU: yes",
        3,
        "a second document begins here, expected a single one",
    ),
}

# (key, what is written for it, what is said of it)
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
        "value out of range, got 6.0, expected at least 0 and below 1 (did you mean 0.06?)",
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
}


def problems(tmp_path, text: str | bytes) -> list[str]:
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(file, stages=())
    return caught.value.problems


@pytest.mark.parametrize("mistake", NO_YAML)
def test_the_line_is_named(tmp_path, mistake):
    text, line, said = NO_YAML[mistake]
    assert problems(tmp_path, text) == [f"{tmp_path}/config.yaml: line {line}: {said}"]
    windows = text.replace("\n", "\r\n")
    assert problems(tmp_path, windows) == [f"{tmp_path}/config.yaml: line {line}: {said}"]


@pytest.mark.parametrize("mistake", NO_VALUE)
def test_the_key_is_named(tmp_path, mistake):
    key, written, said = NO_VALUE[mistake]
    assert problems(tmp_path, f"{key}: {written}\n") == [f"{key}: {said}"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("SYSTEM: {}".encode("utf-16"), "line 1: not UTF-8 text, expected UTF-8"),
        (b"SYSTEM: {}\n# caf\xe9", "line 2: not UTF-8 text, expected UTF-8"),
        (b"SYSTEM: {}\n\0", "line 2: character #x0000 is not allowed in YAML"),
        (b"NUM_STEPS=5\nSEED=3", "expected sections like `SYSTEM:`, got a single value"),
        (b"- SYSTEM", "expected sections like `SYSTEM:`, got a list"),
    ],
)
def test_the_file_is_named(tmp_path, content, said):
    assert problems(tmp_path, content) == [f"{tmp_path}/config.yaml: {said}"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"PRETRAIN": {"NUM_STEPS": 5, "COMPILE": false}}',
        b"PRETRAIN:\r\n  NUM_STEPS: 5\r\n",
        b"\xef\xbb\xbfPRETRAIN: {NUM_STEPS: '5'}",
        b"---\nPRETRAIN: {NUM_STEPS: 5.0}\n...\n",
    ],
)
def test_what_is_no_mistake_is_read(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    assert load_config(file, stages=()).PRETRAIN.NUM_STEPS == 5
