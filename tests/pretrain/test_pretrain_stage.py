"""The stage: its identity, the way of every key to the ranks, and what happens when it dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from configs.defaults import get_default_config
from dataset.stage import prepare_dataset
from pipeline.errors import ConfigError, StageError
from pretrain.checkpoint_folders import list_checkpoints
from pretrain.checks import check_machine
from pretrain.engine.placement import place_ranks
from pretrain.estimate import estimate, precision_in_words
from pretrain.flags import parse_flags
from pretrain.launch import (
    launch_command,
    launch_environment,
    launcher_words,
    training_flags,
)
from pretrain.plan import plan
from pretrain.stage import pretrain
from tests.damage import flip_byte
from tests.plans import pretrain_artifact

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "TOKENIZER": {"TRAIN": True, "VOCAB_SIZE": 100},
    "DATASET": {"FRAC_TEST": 0.1, "MAX_SEQ_LENGTH": 32, "DUP_FACTOR": 2},
    "MODEL": {"HIDDEN_SIZE": 32, "NUM_HIDDEN_LAYERS": 2, "NUM_ATTENTION_HEADS": 2},
    "PRETRAIN": {"NUM_STEPS": 150, "BATCH_SIZE": 16, "PRINT_STEPS": 10, "CHECKPOINT_STEPS": 15},
    "SYSTEM": {"NUM_GPUS": 0, "NUM_WORKERS": 1},
}


@pytest.fixture(autouse=True)
def one_thread_per_rank(monkeypatch):
    """On a busy machine, more of them mostly wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def write_corpus(folder):
    words = ["the", "cat", "sees", "a", "small", "dog", "under", "red", "trees"]
    sentences = [" ".join(words[i % 9 :] + words[: i % 7]).capitalize() + "." for i in range(300)]
    articles = ["\n".join(sentences[i : i + 5]) for i in range(0, 300, 5)]
    (folder / "corpus.txt").write_text("\n\n".join(articles))
    return folder


@pytest.fixture
def config(corpus, tmp_path):
    return small_config(corpus, tmp_path)


def small_config(corpus, tmp_path):
    config = get_default_config()
    for node, values in SETTINGS.items():
        config[node].update(values)
    config.MODEL.INTERMEDIATE_SIZE = 64
    config.DATASET.CUSTOMIZED_DATASETS = [str(corpus)]
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "root")
    return config


def _change(config, node, key):
    """Gives a key a different value of the same type."""
    value = config[node][key]
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, list):
        other = [*value, 2.0]
    else:
        other = value + ("x" if isinstance(value, str) else 1)
    config[node][key] = {"PRECISION": "bf16", "LR_SCHEDULE": "time"}.get(key, other)


KEYS = [
    (node, key)
    for node in ("MODEL", "PRETRAIN")
    for key in get_default_config()[node]
    if key != "PHASES"  # configs of their own
]


@pytest.mark.parametrize(("node", "key"), KEYS)
def test_every_key_reaches_the_ranks(config, node, key):
    if key in ("ENABLED", "ID"):
        return
    before = training_flags(config, Path("d"), Path("s/d/p"))
    _change(config, node, key)
    assert training_flags(config, Path("d"), Path("s/d/p")) != before


# Keys that leave the weights as they are: of names, logs and measurements, of how work is shared
# out, and those that the defaults do not look at.
HARMLESS = [
    "ENABLED",
    "ID",
    "PRINT_STEPS",
    "TENSORBOARD",
    "CHECKPOINT_STEPS",
    "CHECKPOINT_MINUTES",
    "NUM_EPOCHS_BETWEEN_CHECKPOINTS",
    "KEEP_CHECKPOINTS",
    "FINETUNE_TIME_MARKERS",
    "DO_VALIDATION",
    "VALIDATION_STEPS",
    "VALIDATION_EPOCHS",
    "VALIDATION_EPOCHS_BEGIN",
    "VALIDATION_EPOCHS_END",
    "VALIDATION_BEGIN_PROPORTION",
    "VALIDATION_END_PROPORTION",
    "VALIDATION_MICRO_BATCH",
    "VALIDATION_SAMPLES",
    "MICRO_BATCH_SIZE",
    "ZERO_STAGE",
    "GRADIENT_CHECKPOINTING",
    "COMPILE",
    "SCALE_CNT_LIMIT",
    "DIVERGENCE_LIMIT",
    "TOTAL_TRAINING_TIME",
    "NUM_TOKENS",
    "EARLY_STOP_TIME",
    "EARLY_STOP_EVAL_LOSS",
    "GLOBAL_ATTENTION_EVERY",  # without a window
    "VOCABULARY_TRANSFER",  # without START_FROM
]


@pytest.mark.parametrize(("node", "key"), KEYS)
def test_keys_that_shape_the_weights_are_the_identity(config, node, key):
    if key == "START_FROM":  # of files: tests/pretrain/start/test_completion.py
        return
    before = pretrain_artifact(config).fingerprint
    _change(config, node, key)
    changed = pretrain_artifact(config).fingerprint != before
    assert changed == (key not in HARMLESS)


def test_a_run_of_before_tf32_was_a_key_is_one_without(config):
    assert "PRETRAIN.ALLOW_TF32" not in pretrain_artifact(config).inputs
    config.PRETRAIN.ALLOW_TF32 = True
    assert pretrain_artifact(config).inputs["PRETRAIN.ALLOW_TF32"] is True


def test_a_run_of_before_there_were_windows_is_the_same_run(config):
    artifact = pretrain_artifact(config)
    assert not {"MODEL.ATTENTION_WINDOW", "MODEL.GLOBAL_ATTENTION_EVERY"} & artifact.inputs.keys()
    config.MODEL.ATTENTION_WINDOW = 128
    with_windows = pretrain_artifact(config).fingerprint
    config.MODEL.GLOBAL_ATTENTION_EVERY += 1
    assert len({artifact.fingerprint, with_windows, pretrain_artifact(config).fingerprint}) == 3


def test_a_masking_rate_at_the_end_belongs_to_the_run_and_not_to_the_dataset(config):
    config.DATASET.MASKING = "dynamic"
    before = plan(config)
    assert "DATASET.MASKED_LM_PROB_END" not in before.artifact.inputs
    config.DATASET.MASKED_LM_PROB_END = 0.1
    after = plan(config)
    assert after.upstream.artifact.fingerprint == before.upstream.artifact.fingerprint
    assert after.upstream.artifact.directory == before.upstream.artifact.directory
    assert after.artifact.fingerprint != before.artifact.fingerprint
    assert after.artifact.inputs["DATASET.MASKED_LM_PROB_END"] == 0.1
    assert "share of masked tokens: from 0.15 to 0.1, linearly" in estimate(config, after).notes


def test_where_a_validation_may_stop_the_run_it_counts(config):
    config.PRETRAIN.USE_EARLY_STOPPING = True
    seen = {pretrain_artifact(config).fingerprint}
    for key in ("VALIDATION_STEPS", "VALIDATION_SAMPLES", "EARLY_STOP_TIME"):
        config.PRETRAIN[key] += 1
        seen.add(pretrain_artifact(config).fingerprint)
    assert len(seen) == 4


def test_an_unknown_architecture_is_named_before_any_work(config):
    config.MODEL.TYPE = "modernbrt"
    with pytest.raises(ConfigError, match=r"MODEL\.TYPE: .*modernbert"):
        check_machine(config)


def test_the_budget_in_use_is_the_identity(config):
    config.PRETRAIN.LR_SCHEDULE = "time"
    before = pretrain_artifact(config)
    assert before.directory.name.startswith("bert-mlm-2x32-24h-")
    config.PRETRAIN.NUM_STEPS += 1
    assert pretrain_artifact(config).fingerprint == before.fingerprint
    config.PRETRAIN.TOTAL_TRAINING_TIME = 0.5
    assert pretrain_artifact(config).fingerprint != before.fingerprint


def test_the_content_of_a_deepspeed_json_is_the_identity(config, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{}")
    config.PRETRAIN.DEEPSPEED_CONFIG = str(tmp_path / "a.json")
    before = pretrain_artifact(config).fingerprint
    config.PRETRAIN.DEEPSPEED_CONFIG = str(tmp_path / "b.json")
    assert pretrain_artifact(config).fingerprint == before
    (tmp_path / "b.json").write_text('{"prescale_gradients": true}')
    assert pretrain_artifact(config).fingerprint != before


def test_what_a_machine_or_a_json_cannot_do_is_said_before_the_run(config, tmp_path):
    check_machine(config)
    (tmp_path / "ds.json").write_text('{"train_batch_size": 3}')
    (tmp_path / "hosts").write_text("alpha slots=3\nbeta slots=2\n")
    config.PRETRAIN.DEEPSPEED_CONFIG = str(tmp_path / "ds.json")
    config.SYSTEM.HOSTFILE = str(tmp_path / "hosts")
    with pytest.raises(ConfigError) as found:
        check_machine(config)
    batch, json = found.value.problems
    assert (
        "PRETRAIN.BATCH_SIZE: cannot be shared out, got 16, expected a multiple of the 5" in batch
    )
    assert "sets train_batch_size, which PRETRAIN.BATCH_SIZE decides" in json


def test_the_dataset_is_part_of_the_identity(config):
    before = pretrain_artifact(config)
    config.DATASET.SEED += 1
    assert pretrain_artifact(config).inputs["dataset"] != before.inputs["dataset"]


def test_ids(config):
    assert pretrain_artifact(config).directory.name.startswith("bert-mlm-2x32-150steps-")
    config.PRETRAIN.ID = "mine"
    artifact = pretrain_artifact(config)
    assert artifact.directory.name == "mine" and artifact.user_named == "PRETRAIN.ID"


def test_precision(config):
    assert precision_in_words(config, 2) == "fp16"
    assert precision_in_words(config, 0).endswith("else fp32")
    for section, key, value in (("PRETRAIN", "ZERO_STAGE", 2), ("MODEL", "TYPE", "bert")):
        config[section][key] = value
        assert precision_in_words(config, 0) == "fp32"
    config.PRETRAIN.PRECISION = "bf16"
    assert precision_in_words(config, 0) == "bf16"


def test_the_command_line_carries_every_flag(config):
    flags = training_flags(config, Path("d"), Path("s/d/p"))
    command = launch_command(flags, launcher_words("", 0), 1234)
    script = command.index(str(PROJECT / "pretrain" / "run_pretraining.py"))
    parsed = vars(parse_flags(command[script + 1 :]))
    assert all(parsed[name] == type(parsed[name])(value) for name, value in flags.items())
    assert command[script - 2 : script] == ["--master_port", "1234"]


def test_secrets_travel_in_the_environment_alone(config):
    config.WANDB.API_KEY = "secret"
    assert "WANDB_API_KEY" not in launch_environment(config, place_ranks(config))
    config.WANDB.MODE = "offline"
    assert launch_environment(config, place_ranks(config))["WANDB_API_KEY"] == "secret"
    flags = training_flags(config, Path("d"), Path("s/d/p"))
    assert not any("secret" in word for word in launch_command(flags, (), 1))


def test_planning_imports_nothing_heavy():
    code = "import pretrain.plan, pretrain.stage, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_missing_dataset_is_named(config):
    with pytest.raises(StageError, match=r"dataset .* is not ready"):
        pretrain(config)


@pytest.mark.slow
def test_a_failure_is_told_in_one_line(config):
    prepare_dataset(config)
    config.PRETRAIN.LEARNING_RATE = 1e30
    with pytest.raises(StageError, match=r"FloatingPointError: the loss is .* at step") as failure:
        pretrain(config)
    assert "\n" not in failure.value.cause
    assert failure.value.log.exists() and not pretrain_artifact(config).status().done


RUN_STAGE = """
import sys
from yacs.config import CfgNode
from pretrain.stage import pretrain
pretrain(CfgNode.load_cfg(open(sys.argv[1])))
"""


def _ranks(directory):
    """Processes that work on a pretraining folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if f"--output_dir={directory.resolve()}" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def _wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_and_called_again_it_ends_the_same_and_leaves_nothing_behind(config, tmp_path):
    prepare_dataset(config)
    directory = pretrain_artifact(config).directory
    (tmp_path / "config.yaml").write_text(config.dump())
    command = [sys.executable, "-c", RUN_STAGE, str(tmp_path / "config.yaml")]
    child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    _wait(lambda: list_checkpoints(directory / "checkpoints"))
    os.kill(child.pid, signal.SIGKILL)  # the pipeline alone: its children must notice
    child.wait()
    _wait(lambda: not _ranks(directory))
    assert pretrain_artifact(config).status().state == "unfinished"
    pretrain(config)
    artifact = pretrain_artifact(config)
    assert artifact.status().done
    assert artifact.manifest["results"]["step"] == 150
    flags = training_flags(config, _dataset_path(config), tmp_path / "undisturbed")
    words = launch_command(flags, (), 1)
    script = next(i for i, word in enumerate(words) if word.endswith("run_pretraining.py"))
    subprocess.run([sys.executable, *words[script:]], check=True, capture_output=True)
    weights = Path("model") / "model.safetensors"
    expected = (tmp_path / "undisturbed" / weights).read_bytes()
    assert (directory / weights).read_bytes() == expected

    flip_byte(directory / weights)
    (directory / "model" / "vocab.txt").unlink()
    (directory / "model" / "README.md").unlink()  # people may change it
    assert artifact.status().reason.startswith("model/model.safetensors is damaged")
    pretrain(config)
    assert artifact.status().done and (directory / "model" / "vocab.txt").exists()
    assert (directory / weights).read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model/vocab.txt", "manifest.json"])
def test_days_of_training_are_not_done_again_for_a_damaged_file(config, name):
    prepare_dataset(config)
    artifact = pretrain_artifact(config)
    artifact.begin()
    (artifact.directory / "model").mkdir()
    for file in ("config.json", "vocab.txt", "README.md"):
        (artifact.directory / "model" / file).write_text("content")
    artifact.finish({})
    (artifact.directory / "model" / "README.md").write_text("my model")
    assert artifact.status().done
    flip_byte(artifact.directory / name, 5)
    expected = rf"{name} is damaged, and no checkpoint is left.* --force pretrain"
    with pytest.raises(StageError, match=expected):
        pretrain(config)
    for broken in ("step_0000150", "step_0000150_copy"):  # nothing to go on from, either
        (artifact.directory / "checkpoints" / broken).mkdir(parents=True)
    with pytest.raises(StageError, match=expected):
        pretrain(config)
    assert (artifact.directory / "model" / "README.md").exists()


@pytest.mark.slow
def test_nothing_is_trained_on_a_dataset_that_is_damaged(config):
    prepare_dataset(config)
    flip_byte(next(_dataset_path(config).glob("train_*.hdf5")))
    with pytest.raises(StageError, match=r"is not ready \(train_\w+\.hdf5 is damaged"):
        pretrain(config)
    assert not pretrain_artifact(config).directory.exists()


def _dataset_path(config):
    from tests.plans import dataset_artifact

    return dataset_artifact(config).directory


@pytest.mark.slow
def test_a_hostfile_starts_a_rank_for_each_slot(config, tmp_path):
    """This machine alone, twice: with several servers the launcher needs ssh or pdsh."""
    prepare_dataset(config)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    config.SYSTEM.HOSTFILE = str(tmp_path / "hosts")
    config.PRETRAIN.NUM_STEPS = 4
    config.PRETRAIN.MICRO_BATCH_SIZE = 16
    pretrain(config)
    artifact = pretrain_artifact(config)
    log = tmp_path / "root" / "log" / "pretrain" / artifact.directory.parent.name
    text = (log / f"{artifact.directory.name}.log").read_text()
    assert "micro batch 16 -> 8, so that 2 rank(s)" in text
    assert artifact.status().done
