"""Strict YAML: mistakes are named with file and line, and files build on others."""

import os
from pathlib import Path

import pytest

import main

INCOMPLETE = (
    "a key where none is expected; is the line before it complete, as in `KEY: value`, and "
    "indented alike? A value with `: ` in it needs quotes"
)
NEEDS_QUOTES = "a value that begins with any of * & @ % ` needs quotes"
NO_SECTION = "expected a name as key, got a list or a section"

# (text, number of the line, the message)
NO_YAML = {
    "a tab": ("PRETRAIN:\n\tNUM_STEPS: 5", 2, "a tab, expected spaces"),
    "a tab after the colon": ("PRETRAIN:\n  SEED:\t5", 2, "a tab, expected spaces"),
    "no colon at a section": ("PRETRAIN\n  NUM_STEPS: 5", 2, INCOMPLETE),
    "no colon at a key": (
        "PRETRAIN:\n  SEED: 3\n  NUM_STEPS 5\n  BATCH_SIZE: 3",
        3,
        "expected `KEY: value`, with a colon and a space",
    ),
    "no space after the colon": ("PRETRAIN:\n  NUM_STEPS:5\n  SEED: 3", 3, INCOMPLETE),
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
    "another placeholder": ("DATASET:\n  ID: {{ name }}", 2, NO_SECTION),
    "a section as a key": ("{a: 1}: 2", 1, NO_SECTION),
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
    "a quoted key twice": ("DATASET: {ID: a, 'ID': a}", 1, "ID appears twice, first in line 1"),
    "a number and a text": (
        "FINETUNE: {CUSTOM_TASKS: {1: {}, '1': {}}}",
        1,
        "1 appears twice, first in line 1",
    ),
    "two merges": ("A: &a {B: c}\nD: {<<: *a, <<: *a}", 2, "<< appears twice, first in line 2"),
    "two bases": ("_BASE_: a\n_BASE_: b", 2, "_BASE_ appears twice, first in line 1"),
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
    "an object": (
        "SYSTEM: !!python/object/apply:os.getcwd []",
        1,
        "the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd', expected values without tags",
    ),
    "a type": (
        "SYSTEM: {NUM_GPUS: !!int ''}",
        1,
        "the tag 'tag:yaml.org,2002:int', expected values without tags",
    ),
    "a tag": ("SYSTEM: !own {NUM_GPUS: 1}", 1, "the tag '!own', expected values without tags"),
}


@pytest.mark.parametrize("mistake", NO_YAML)
def test_the_line_is_named(problems, mistake):
    text, line, said = NO_YAML[mistake]
    for written in (text, text.replace("\n", "\r\n")):
        assert problems(written) == [f"{os.path.realpath('config.yaml')}: line {line}: {said}"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("SYSTEM: {}".encode("utf-16"), "line 1: not UTF-8 text, expected UTF-8"),
        (b"SYSTEM: {}\n# caf\xe9", "line 2: not UTF-8 text, expected UTF-8"),
        (b"SYSTEM: {}\n\0", "line 2: character #x0000 is not allowed in YAML"),
        (b"NUM_STEPS=5\nSEED=3", "expected sections like `SYSTEM:`, got a single value"),
        (b"- SYSTEM", "expected sections like `SYSTEM:`, got a list"),
        (b"DATASET: {ID: a}\nDATASET.ID: b", "DATASET.ID appears twice"),
    ],
)
def test_the_file_is_named(problems, content, said):
    assert problems(content) == [f"{os.path.realpath('config.yaml')}: {said}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('A: "\\UFFFFFFFF"', "a backslash between double quotes"),
        ("A: &a\n  B: *a", "a value that contains itself"),
        (f"A: {'[' * 3000}", "nested too deeply"),
    ],
)
def test_odd_yaml_is_no_crash(problems, content, said):
    [problem] = problems(content)
    assert said in problem


@pytest.mark.parametrize(
    "content",
    [
        b'{"PRETRAIN": {"NUM_STEPS": 5, "COMPILE": false}}',
        b"PRETRAIN:\r\n  NUM_STEPS: 5\r\n",
        b"\xef\xbb\xbfPRETRAIN: {NUM_STEPS: '5'}",
        b"---\nPRETRAIN: {NUM_STEPS: 5.0}\n...\n",
        b"PRETRAIN.NUM_STEPS: 5",
    ],
)
def test_other_ways_of_writing_are_read(load, content):
    assert load(content).PRETRAIN.NUM_STEPS == 5


def test_an_empty_file_has_the_defaults(load):
    assert load("") == load("# nothing\n") == load("PRETRAIN:\n")


def test_own_keys_replace_merged_ones(load):
    grid = load(
        "FINETUNE:\n  GRID:\n    RTE: &rte {EPOCHS: [1], BATCH_SIZES: [8]}\n"
        "    MRPC: &mrpc {<<: *rte, EPOCHS: [2]}\n    CoLA: {<<: *mrpc, BATCH_SIZES: [4]}\n"
    ).FINETUNE.GRID
    assert (grid.MRPC.EPOCHS, grid.MRPC.BATCH_SIZES) == ([2], [8])
    assert (grid.CoLA.EPOCHS, grid.CoLA.BATCH_SIZES) == ([2], [4])


def test_a_key_is_text(load):
    task = "{TRAIN: t.tsv, DEV: d.tsv, TEXT_COLUMNS: [a]}"
    text = f"FINETUNE: {{CUSTOM_TASKS: {{yes: {task}, 010: {task}, 2024-01-05: {task}}}}}"
    assert list(load(text).FINETUNE.CUSTOM_TASKS) == ["yes", "010", "2024-01-05"]


def test_a_config_that_is_no_file_is_refused(capsys):
    for name in ("x" * 5000, "a\0b", "a\nb", ".", "/dev/zero", ""):
        assert main.main(["--config", name, "--dry-run"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("--config: not a file")


# --- files that build on others --------------------------------------------------------------


def test_a_file_changes_its_base(load):
    Path("bases").mkdir()
    Path("bases/first.yaml").write_text("PRETRAIN: {NUM_STEPS: 1, SEED: 9, LEARNING_RATE: 0.5}")
    Path("bases/second.yaml").write_text("_BASE_: first.yaml\nPRETRAIN: {NUM_STEPS: 2, SEED: 8}")
    pretrain = load("_BASE_: bases/second.yaml\nPRETRAIN: {NUM_STEPS: 3}\n").PRETRAIN
    assert (pretrain.NUM_STEPS, pretrain.SEED, pretrain.LEARNING_RATE) == (3, 8, 0.5)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("[a.yaml]", "_BASE_: expected the name of a YAML file"),
        ("{a: b}", "_BASE_: expected the name"),
        ("", "_BASE_: expected the name"),
        ("3", "/3: cannot be read (No such file"),
        ('"a\\0b"', "_BASE_: expected the name"),
        ("missing.yaml", "missing.yaml: cannot be read (No such file"),
        (".", "cannot be read (not a regular file)"),
        ("pipe", "pipe: cannot be read (not a regular file)"),
        ("link", "link: cannot be read (Too many levels"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("config.yaml", "config.yaml: _BASE_ leads back to this file"),
        ("other.yaml", "config.yaml: _BASE_ leads back to this file"),
    ],
)
def test_a_base_is_another_config(problems, tmp_path, base, expected):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("link")
    (tmp_path / "other.yaml").write_text("_BASE_: ./a/../config.yaml")
    (line,) = problems(f"_BASE_: {base}")
    assert expected in line


def test_a_missing_base_is_explained(problems):
    Path("mine").mkdir()
    Path("mine/a.yaml").write_text("_BASE_: recipes/fast.yaml")
    here = os.path.realpath("mine")
    assert problems("_BASE_: mine/a.yaml") == [
        f"{here}/recipes/fast.yaml: cannot be read (No such file or directory); _BASE_ of "
        f"{here}/a.yaml is a path from the folder of that file"
    ]


# --- the command line ------------------------------------------------------------------------


def test_overrides_come_last(load, problems):
    config = load("PRETRAIN: {NUM_STEPS: 3}", "PRETRAIN.NUM_STEPS", "7", "FINETUNE.SEEDS", "[1, 2]")
    assert (config.PRETRAIN.NUM_STEPS, config.FINETUNE.SEEDS) == (7, [1, 2])
    assert "without a value" in problems("", "PRETRAIN.NUM_STEPS")[0]
    assert problems("", "PRETRAIN.NUM_STEPS", "[7") == [
        "PRETRAIN.NUM_STEPS: line 1: a bracket that is not closed, or a comma that is missing"
    ]
