"""Runs that start from a checkpoint: the loss before the first step, resumption, the whole way."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.flags import parse_flags
from pretrain.run_pretraining import run
from pretrain.start.first_loss import in_words
from pretrain.training.metrics_file import MetricsLog, read_metrics
from tests.pretrain.shards import write_dataset
from tests.pretrain.start.checkpoints import write_checkpoint, write_tokenizer
from tests.small_pipeline import run as run_main

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path):
    folder = write_dataset(tmp_path / "dataset")
    write_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "bert", "bert")


def train(device, dataset, output, *flags):
    """Trains in this process; returns the lines of metrics."""
    words = [f"--dataset_path={dataset}", f"--output_dir={output}", "--train_batch_size=4"]
    words += ["--print_steps=1", "--precision=fp32", "--checkpoint_steps=2", *flags]
    args = parse_flags(words)
    run(args, device, MetricsLog(Path(args.output_dir) / "metrics.jsonl"))
    return read_metrics(Path(args.output_dir) / "metrics.jsonl")


def validations(lines):
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "validation"]


def test_the_loss_before_the_first_step(device, dataset, checkpoint, tmp_path, capfd):
    start = f"--start_from={checkpoint}"
    constant = "--curve=constant"  # can be lengthened
    lines = train(device, dataset, tmp_path / "out", start, constant, "--max_steps=2")
    [(first, before), (last, _)] = validations(lines)
    assert (first, last) == (0, 2)
    assert lines[0]["elapsed_seconds"] == 0
    said = capfd.readouterr().out
    assert "65 tensors loaded" in said or re.search(r"\d+ tensors loaded\n", said)
    # Random weights predict no better than frequencies, and are not meant to be random.
    assert re.search(r"WARNING: before the first step: validation loss [\d.]+; token freq", said)
    longer = train(device, dataset, tmp_path / "out", start, constant, "--max_steps=4")
    assert [step for step, _ in validations(longer)] == [0, 2, 4]  # not measured again
    none = train(device, dataset, tmp_path / "none", start, "--max_steps=0")
    assert validations(none) == [(0, before)]
    exported = none and train(
        device, dataset, tmp_path / "again", f"--start_from={tmp_path / 'none'}", "--max_steps=0"
    )
    assert validations(exported) == [(0, before)]


def test_only_a_whole_model_can_look_wrong():
    assert in_words(3.0, 6.0, "") == (
        "before the first step: validation loss 3.0000; token frequencies alone have 6.0000",
        False,
    )
    said, is_suspicious = in_words(7.0, 6.0, "vocabulary")
    assert said.endswith(", less, as the model's vocabulary is new") and not is_suspicious
    said, is_suspicious = in_words(7.0, 6.0, "")
    assert "is it the right checkpoint" in said and is_suspicious


def test_a_fresh_head_is_no_reason_for_a_warning(device, dataset, tmp_path, capfd):
    from transformers import BertConfig, BertModel

    folder = tmp_path / "encoder"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=61, intermediate_size=48, **sizes)
    BertModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    train(device, dataset, tmp_path / "out", f"--start_from={folder}", "--max_steps=1")
    said = capfd.readouterr().out
    assert "WARNING: before" not in said
    assert "a fresh prediction head of 5" in said and "2 unused (pooler.dense.bias" in said


def test_longer_rows_than_the_checkpoint_has_positions(device, tmp_path):
    dataset = write_dataset(tmp_path / "dataset", length=48)
    write_tokenizer(dataset / "tokenizer")
    checkpoint = write_checkpoint(tmp_path / "bert", "bert")
    train(device, dataset, tmp_path / "out", f"--start_from={checkpoint}", "--max_steps=1")
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == config["trained_sequence_length"] == 48
    tokenizer = json.loads((tmp_path / "out" / "model" / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 48


def test_main_starts_from_a_run(pipeline_folder, own_root):
    [model] = (own_root / "saved_models" / "pretrain").glob("*/*/model")
    base = read_metrics(model.parent / "metrics.jsonl")
    done = run_main(
        *(pipeline_folder, own_root, "--stages", "dataset,pretrain"),
        *("PRETRAIN.START_FROM", model.parent.name, "TOKENIZER.TRAIN", "False"),
        *("PRETRAIN.NUM_STEPS", "3", "PRETRAIN.ID", "further", "DATASET.ID", "same"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"before the first step: validation loss ([\d.]+); token", done.stdout)
    assert said, done.stdout + done.stderr
    assert float(said[1]) == pytest.approx(validations(base)[-1][1], abs=0.01)
    assert re.search(r"pretrain: from .*: \d+ tensors loaded\n", done.stdout)
    again = run_main(
        *(pipeline_folder, own_root, "--stages", "dataset,pretrain"),
        *("PRETRAIN.START_FROM", str(model.parent), "TOKENIZER.TRAIN", "False"),
        *("PRETRAIN.NUM_STEPS", "3", "PRETRAIN.ID", "further", "DATASET.ID", "same"),
    )
    assert again.stdout.count("up to date") == 2
    card = (own_root / "saved_models/pretrain/same/further/model/README.md").read_text()
    assert "## Origin" in card and str(own_root) not in card


@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (2, "fp16")])
def test_half_precision_rounds_no_loaded_weight(
    device, dataset, checkpoint, tmp_path, stage, precision
):
    start = f"--start_from={checkpoint}"
    flags = "--max_steps=0", f"--zero_stage={stage}", f"--precision={precision}"
    train(device, dataset, tmp_path / "out", start, *flags)
    again = load_file(tmp_path / "out" / "model" / "model.safetensors")
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        assert torch.equal(again[name], weight), name
