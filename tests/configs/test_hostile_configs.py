"""Configs that would run code, take all memory, leave their folder or mean something else."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import main
from configs.loading import load_config
from pipeline.errors import ConfigError

OFF = "DATASET: {ENABLED: False}\n"
TASK = "{TRAIN: t.tsv, DEV: d.tsv, TEXT_COLUMNS: [a]}"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """The working directory, some levels below what a test may write to."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    changed = (signal.SIGTERM, signal.SIGHUP)  # by main.py
    handlers = [(number, signal.getsignal(number)) for number in changed]
    yield folder
    for number, handler in handlers:
        signal.signal(number, handler)


def load(text: str | bytes, *overrides: str, stages=None):
    Path("config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config("config.yaml", overrides, stages)


def problems(text: str | bytes, *overrides: str, stages=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides, stages=stages)
    return caught.value.problems


# --- names that folders get ------------------------------------------------------------------

NO_NAMES = (
    *("../../x", "..", ".", "/x", "a/b", "a/", "a\\b", "~", "x" * 129, ".hidden", "-x", "a b"),
    *("a\nb", "a\n", "a\0b", "a\x1b[0m", "a\u2028b", "é", "\udc80"),
)


@pytest.mark.parametrize("key", ["DATASET.ID", "PRETRAIN.ID", "FINETUNE.ID", "MODEL.TYPE"])
@pytest.mark.parametrize("stage", ["dataset", "pretrain", "finetune", "result_collection"])
def test_names_are_those_of_single_folders(key, stage):
    for name in NO_NAMES:
        assert any(line.startswith(f"{key}: ") for line in problems(OFF, key, name, stages=[stage]))
        assert len(problems(OFF, key, name, stages=["pretrain"])) == 1


@pytest.mark.parametrize("stage", ["finetune", "result_collection"])
def test_so_are_the_names_of_tasks(stage):
    for name in ("../../x", "..", "/x", "a/b", "x" * 129, "", "search"):
        text = f"FINETUNE: {{CUSTOM_TASKS: {{'{name}': {TASK}}}}}"
        found = problems(text, stages=[stage])
        assert any(line.startswith(f"FINETUNE.CUSTOM_TASKS.{name}") for line in found)


def test_a_name_on_the_hub_makes_a_name():
    for name in ("x" * 97, "a/..", "..b/c", "a b", "a\nb", "a/" + "x" * 97, "é"):
        if name != "..b/c":  # a path that is not there: the plan says so
            (line,) = problems(OFF, "FINETUNE.MODEL_NAME_OR_PATH", name, stages=["pretrain"])
            assert line.startswith("FINETUNE.MODEL_NAME_OR_PATH: ")
    Path("my model").mkdir()
    for name in ("my model", "bert-base-uncased", "google/bert_uncased_L-2_H-128_A-2", ""):
        load(OFF, "FINETUNE.MODEL_NAME_OR_PATH", name, stages=["pretrain"])


def test_nothing_is_made_for_a_name_that_leads_away(folder, capsys):
    Path("config.yaml").write_text("DATASET: {ID: ../../x, ENABLED: False}\n")
    before = sorted(folder.parent.parent.rglob("*"))
    for options in ((), ("--dry-run",), ("--force", "dataset"), ("--clear_cache",), ("--status",)):
        assert main.main(["--config", "config.yaml", *options]) == 2
        assert "DATASET.ID: value out of range, got '../../x'" in capsys.readouterr().err
    assert sorted(folder.parent.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "key",
    [
        *("SYSTEM.OUTPUT_ROOT", "SYSTEM.HOSTFILE", "PRETRAIN.DEEPSPEED_CONFIG"),
        *("TOKENIZER.NAME_OR_PATH", "FINETUNE.GLUE_DIR", "FINETUNE.SUPERGLUE_DIR"),
        *("FINETUNE.MODEL_NAME_OR_PATH", "DATASET.CUSTOMIZED_DATASETS"),
        *("DATASET.HUGGINGFACE_DATASETS", "FINETUNE.CUSTOM_TASKS.x.TRAIN"),
    ],
)
def test_paths_are_of_files_and_folders(key):
    os.mkfifo("pipe")
    for path in ("/dev/zero", "./pipe", "x" * 256, "/" + "x/" * 1600, "a\tb", "a\0", "\ud800"):
        value = f'["{path}"]' if key.endswith("CUSTOMIZED_DATASETS") else path
        if key.endswith("HUGGINGFACE_DATASETS"):
            value = f'[["{path}", a]]'
        assert any(line.startswith(key) for line in problems(OFF, key, value, stages=["pretrain"]))


def test_a_link_to_nowhere_is_no_root():
    Path("root").symlink_to("nowhere")
    assert "SYSTEM.OUTPUT_ROOT: not a folder" in problems(OFF, "SYSTEM.OUTPUT_ROOT", "root")[0]


def test_the_config_itself_may_have_any_name(capsys):
    for name in ("x" * 5000, "a\0b", "a\nb", ".", "/dev/zero", ""):
        assert main.main(["--config", name, "--dry-run"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("--config: not a file")


# --- texts that stand for too much -----------------------------------------------------------


def laughs(opening: str, closing: str, name: str) -> str:
    """Ten lines that stand for 10^9 values."""
    lines = [f"a0: &a0 {opening}{name.format(0)}x{closing}"]
    for n in range(1, 10):
        inner = ", ".join(name.format(i) + f"*a{n - 1}" for i in range(10))
        lines.append(f"a{n}: &a{n} {opening}{inner}{closing}")
    return "\n".join(lines)


def blocks(opening: str, closing: str) -> str:
    """Levels by the hundreds, of which only some stand within each other."""
    lines = [f"a{n}: &a{n} {opening * 15}*a{n - 1}{closing * 15}" for n in range(1, 25)]
    return "\n".join(["a0: &a0 1", *lines])


TOO_MUCH = {
    "brackets": ("[" * 10_000, "line 1: nested more than 20 levels deep"),
    "braces": ("{" * 10_000, "nested more than"),
    "dashes": ("- " * 10_000, "nested more than"),
    "questions": ("? " * 10_000, "nested more than"),
    "lists of lists": (laughs("[", "]", ""), "line 6: more than 1,000,000 characters"),
    "maps of maps": (laughs("{", "}", "k{}: "), "aliases followed"),
    "merged maps": (
        "a0: &a0 {x: 1}\n"
        + "\n".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 10}]}}" for n in range(1, 10)),
        "aliases followed",
    ),
    "itself": ("DATASET: &a {ID: *a}", "line 1: *a stands within what it names"),
    "its own key": ("&a {? *a : b}", "*a stands within"),
    "itself merged": ("&a {<<: *a}", "*a stands within"),
    "values": (f"x: [{'0,' * 100_000}]", "or 50,000 values"),
    "a text": (f"DATASET: {{ID: {'x' * 5000}}}", "more than 4,096 characters in one value"),
    "a key": (f"? {'x' * 256}\n: 1", "line 1: more than 255 characters in a key"),
    "a number": (f"SYSTEM: {{NUM_GPUS: {'1' * 5000}}}", "more than 4,096 characters in one value"),
    "blocks within blocks": (blocks("{k: ", "}"), "line 3: nested more than 20 levels deep"),
    "lists within lists": (blocks("[", "]"), "line 3: nested more than 20 levels deep"),
    "merged chain": (
        "x: {y: {a0: &a0 {k: 1}\n"
        + "".join(f", a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 60))
        + "}}\nz: {<<: *a59}",
        "nested more than 20 levels deep",
    ),
    "text": ("#" * 1_000_001, "config.yaml: more than 1,000,000 bytes"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_stands_for_too_much_is_refused_at_once(name):
    text, expected = TOO_MUCH[name]
    began = time.process_time()
    (line,) = problems(text)
    assert expected in line and line.startswith(str(Path.cwd()))
    if len(text) < 100_000:  # what a command line takes
        assert expected in problems(OFF, "FINETUNE.SEEDS", text)[0]
    assert time.process_time() - began < 5


def test_a_large_file_is_not_read(folder):
    with open("config.yaml", "wb") as file:
        file.truncate(100 << 20)
    began = time.process_time()
    with pytest.raises(ConfigError, match="more than 1,000,000 bytes, expected a config"):
        load_config("config.yaml")
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PRETRAIN: {NUM_STEPS: 10000000000000000}", "PRETRAIN.NUM_STEPS: too large"),
        ("PRETRAIN: {NUM_STEPS: -1e300}", "PRETRAIN.NUM_STEPS: too large"),
        (f"PRETRAIN: {{NUM_STEPS: {'1' * 4000}}}", "PRETRAIN.NUM_STEPS: too large (beyond 1e+15)"),
        ("SYSTEM: {MAX_MEMORY_IN_GB: 1e999}", "SYSTEM.MAX_MEMORY_IN_GB: too large"),
        ("SYSTEM: {MAX_MEMORY_IN_GB: 1e+16}", "SYSTEM.MAX_MEMORY_IN_GB: too large"),
        ("SYSTEM: {MAX_MEMORY_IN_GB: .inf}", "expected a number"),
        (
            f"FINETUNE: {{SEEDS: {list(range(30))}, GRID: {{DEFAULT: {{EPOCHS: "
            f"{list(range(1, 30))}, LEARNING_RATES: {list(range(1, 30))}}}}}}}",
            "runs in all, expected at most 20,000",
        ),
        (
            "PRETRAIN: {BATCH_SIZE: 4096, BATCH_SIZE_RAMP_START: 1, BATCH_SIZE_RAMP_STEPS: 9}",
            "4,096 sizes, expected at most 1,000",
        ),
        (
            f"DATASET: {{CUSTOMIZED_DATASETS: {['.'] * 1001}}}",
            "DATASET.CUSTOMIZED_DATASETS: got 1001 sources, expected at most 1000",
        ),
    ],
)
def test_what_would_take_too_long_is_refused(text, expected):
    assert expected in "\n".join(problems(text))


def test_of_many_mistakes_the_first_are_told():
    found = problems("\n".join(f"KEY{number}: 1" for number in range(5000)))
    assert found[0] == "KEY0: unknown key" and len(found) == 101
    assert found[-1].startswith("and 4,9") and found[-1].endswith("more problems")


def test_messages_are_short_lines():
    text = 'FINETUNE: {"a\\nb\\e": 1}\nSYSTEM: {NUM_GPUS: [' + "xxxxxxxxx, " * 400 + "]}\n"
    lines = problems(OFF + text)
    assert "FINETUNE.a\\nb\\x1b: unknown key" in lines
    lines += problems(OFF, "k" * 5000, "1")
    assert lines[-1] == f"{'k' * 200}...: unknown key"
    assert all(len(line) < 400 for line in lines)


# --- texts that mean something else ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!!python/object/apply:os.getcwd []", "line 1: the tag"),
        ("SYSTEM: !!binary eA==", "the tag"),
        ("SYSTEM: {NUM_GPUS: !!int ''}", "the tag"),
        ("SYSTEM: {NUM_GPUS: !!bool x}", "the tag"),
        ("SYSTEM: {NUM_GPUS: !!timestamp x}", "the tag"),
        ("SYSTEM: !own {NUM_GPUS: 1}", "the tag '!own' is not taken"),
        ("SYSTEM: {NUM_GPUS: 0x_}", "SYSTEM.NUM_GPUS: wrong type, got 0x_, expected a whole"),
        ("SYSTEM: {NUM_GPUS: 1:30}", "SYSTEM.NUM_GPUS: wrong type, got 1:30, expected a whole"),
        ('DATASET: {ID: "\\UFFFFFFFF"}', "not YAML"),
        ('DATASET: {TEXT_COLUMN: "\\ud800"}', "TEXT_COLUMN: half a character in it"),
        ('DATASET: {TEXT_COLUMN: "a\\nb"}', "TEXT_COLUMN: line breaks or control characters"),
        ("SYSTEM:\n\tNUM_GPUS: 1", "line 2: a tab, expected spaces"),
        ("SYSTEM: {NUM_GPUS: 1}\n---\nSYSTEM: {}", "line 2: a second document begins here"),
        ("{a: 1}: 2", "expected a name as key"),
        ("false", "expected sections like `SYSTEM:`, got a single value"),
        ("[]", "expected sections like `SYSTEM:`, got a list"),
        ("a\n\nb\0c", "line 3: character #x0000 is not allowed"),
        (b"SYSTEM: {}\n# caf\xe9\n", "line 2: not UTF-8 text"),
        ("SYSTEM: {}\n".encode("utf-16"), "line 1: not UTF-8 text"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text, expected):
    (line,) = (line for line in problems(text) if "CUSTOMIZED_DATASETS" not in line)
    assert expected in line


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("DATASET: {ID: a}\nDATASET: {ID: a}", "DATASET"),
        ("DATASET: {ID: a, ID: a}", "ID"),
        ("DATASET: {ID: a, 'ID': a}", "ID"),
        ("DATASET: {ID: a}\nDATASET.ID: b", "DATASET.ID"),
        ("FINETUNE: {CUSTOM_TASKS: {1: {}, '1': {}}}", "1"),
        ("DATASET: &a {ID: a}\nMODEL: {<<: *a, <<: *a}", "<<"),
        ("_BASE_: a.yaml\n_BASE_: b.yaml", "_BASE_"),
    ],
)
def test_a_key_stands_once(text, key):
    (line,) = problems(text)
    assert f"{key} appears twice" in line


def test_merged_keys_give_way_to_own_ones():
    text = (
        "FINETUNE:\n  GRID:\n    RTE: &rte {EPOCHS: [1], BATCH_SIZES: [8]}\n"
        "    MRPC: &mrpc {<<: *rte, EPOCHS: [2]}\n    CoLA: {<<: *mrpc, BATCH_SIZES: [4]}\n"
    )
    grid = load(OFF + text, stages=["pretrain"]).FINETUNE.GRID
    assert (grid.MRPC.EPOCHS, grid.MRPC.BATCH_SIZES) == ([2], [8])
    assert (grid.CoLA.EPOCHS, grid.CoLA.BATCH_SIZES) == ([2], [4])


def test_a_key_is_the_text_that_is_written():
    text = f"FINETUNE: {{CUSTOM_TASKS: {{yes: {TASK}, 010: {TASK}, 2024-01-05: {TASK}}}}}"
    tasks = load(OFF + text, stages=["pretrain"]).FINETUNE.CUSTOM_TASKS
    assert list(tasks) == ["yes", "010", "2024-01-05"]


def test_a_byte_order_mark_and_an_empty_file_are_fine():
    assert load(b"\xef\xbb\xbf" + OFF.encode()) == load(OFF)
    assert load("", "DATASET.ENABLED", "False") == load("# nothing\n", "DATASET.ENABLED", "False")


def test_a_secret_in_the_wrong_place_is_not_shown():
    for text in ("WANDB: sk-secret", "WANDB: {MODE: [sk-secret]}", "sk-secret", "[sk-secret]"):
        assert "sk-secret" not in "\n".join(problems(text))


# --- files that build on others --------------------------------------------------------------


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
        ("/dev/zero", "/dev/zero: cannot be read (not a regular file)"),
        ("link", "link: cannot be read (Too many levels"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("config.yaml", "config.yaml: _BASE_ leads back to this file"),
        ("other.yaml", "config.yaml: _BASE_ leads back to this file"),
        ("large.yaml", "large.yaml: more than 1,000,000 bytes"),
    ],
)
def test_a_base_is_another_config(base, expected):
    os.mkfifo("pipe")
    Path("link").symlink_to("link")
    Path("other.yaml").write_text("_BASE_: ./a/../config.yaml")
    Path("large.yaml").write_bytes(b"#" * 1_000_001)
    (line,) = problems(f"_BASE_: {base}")
    assert expected in line


def test_a_base_that_is_not_there_tells_where_its_path_starts():
    Path("mine").mkdir()
    Path("mine/a.yaml").write_text("_BASE_: recipes/fast.yaml")
    [line] = problems("_BASE_: mine/a.yaml")
    here = os.path.realpath("mine")
    assert line == (
        f"{here}/recipes/fast.yaml: cannot be read (No such file or directory); _BASE_ of "
        f"{here}/a.yaml is a path that starts at the folder of that file"
    )


def test_a_long_chain_of_bases_is_followed():
    Path("0.yaml").write_text(OFF + "PRETRAIN: {NUM_STEPS: 3, SEED: 4}")
    for number in range(1, 1500):
        Path(f"{number}.yaml").write_text(f"_BASE_: {number - 1}.yaml\nPRETRAIN: {{SEED: 5}}")
    config = load("_BASE_: 1499.yaml")
    assert (config.PRETRAIN.NUM_STEPS, config.PRETRAIN.SEED) == (3, 5)
