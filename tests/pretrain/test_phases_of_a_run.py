"""Phases of a pretraining run: identity, the state that they pass on, kills and changes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.phases import phase_configs
from dataset.stage import prepare_dataset
from pipeline.orchestrator import plan_steps
from pretrain.engine.checkpoints import TENSORS, list_checkpoints
from pretrain.estimate import estimate
from pretrain.flags import parse_flags
from pretrain.plan import plan
from pretrain.run_pretraining import InputError, run
from pretrain.stage import pretrain
from pretrain.start.continuation import grown
from pretrain.training.metrics_file import MetricsLog
from tests.pretrain.shards import write_dataset
from tests.pretrain.test_pretrain_stage import (
    PROJECT,
    RUN_STAGE,
    _ranks,
    _wait,
    small_config,
    write_corpus,
)


@pytest.fixture(autouse=True)
def one_thread_per_rank(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def config(corpus, tmp_path):
    return two_phases(corpus, tmp_path)


def two_phases(corpus, folder):
    config = small_config(corpus, folder)
    config.DATASET.MASKING = "dynamic"
    config.PRETRAIN.update({"NUM_STEPS": 60, "CHECKPOINT_STEPS": 6})
    long = {"MAX_SEQ_LENGTH": 64, "MAX_PREDICTIONS_PER_SEQ": 20, "BATCH_SIZE": 8}
    config.PRETRAIN.PHASES = [{"SHARE": 0.5}, {"SHARE": 0.5, **long}]
    return config


def fingerprints(config):
    return [link.artifact.fingerprint for link in plan(config).links]


# --- identity --------------------------------------------------------------------------------


def test_a_phase_by_itself_is_the_first_phase(config):
    first, second = phase_configs(config)
    assert plan(first).artifact.fingerprint == fingerprints(config)[0]
    assert plan(second).artifact.fingerprint != fingerprints(config)[1]


def test_a_change_repeats_its_phase_and_the_later_ones(config):
    before = fingerprints(config)
    config.PRETRAIN.PHASES[1]["LEARNING_RATE"] = 1e-4
    changed = fingerprints(config)
    assert changed[0] == before[0] and changed[1] != before[1]
    config.PRETRAIN.PHASES[0]["LEARNING_RATE"] = 1e-4
    assert not {*fingerprints(config)} & {*before, *changed}


def test_the_number_of_steps_of_a_later_phase_moves_the_common_curve(config):
    config.PRETRAIN.NUM_STEPS = 23000  # its default: the phases decide
    config.PRETRAIN.PHASES = [{"NUM_STEPS": 30}, {"NUM_STEPS": 30}]
    before = fingerprints(config)
    config.PRETRAIN.PHASES[1]["NUM_STEPS"] = 90
    assert fingerprints(config)[0] != before[0]
    config.PRETRAIN.PHASES = [{"NUM_STEPS": 30, "LR_CURVE": "constant"}, {"NUM_STEPS": 30}]
    before = fingerprints(config)
    config.PRETRAIN.PHASES[1]["NUM_STEPS"] = 90
    assert fingerprints(config)[0] == before[0]


def finish(artifact):
    artifact.begin()
    artifact.finish({})


@pytest.fixture
def without_files(monkeypatch):
    """Artifacts consist of their manifests."""
    monkeypatch.setattr("pretrain.plan._files_of_model", lambda directory: iter(()))


def test_phases_before_a_finished_one_are_not_needed(config, without_files):
    first, second = plan(config).links
    assert [link.phase for link in plan(config).pending()] == [1, 2]
    assert plan(config).status().reason.startswith("phase 1 of 2: ")
    finish(first.artifact)
    assert [link.phase for link in plan(config).pending()] == [2]
    assert plan(config).status().reason.startswith("phase 2 of 2: ")
    finish(second.artifact)
    assert plan(config).status().done
    first.artifact.clear()
    assert plan(config).status().done and plan(config).pending() == []


def test_the_plan_names_the_phase_that_a_change_repeats(config, without_files):
    for link in plan(config).links:
        finish(link.artifact)
    for link in plan(config).upstream.links:
        link.artifact.begin()
    config.PRETRAIN.PHASES[1]["LEARNING_RATE"] = 1e-4
    _, step = plan_steps(config, ("dataset", "pretrain"), dry_run=True)
    assert step.in_words(planned=True) == (
        "pretrain: would run, phase 2 of 2: PRETRAIN.LEARNING_RATE 0.001 -> 0.0001"
    )
    _, step = plan_steps(config, ("dataset", "pretrain"), ("pretrain",), dry_run=True)
    assert step.in_words(planned=True) == "pretrain: would run again, all 2 phases, as asked"


def test_muons_own_rate_is_not_that_of_a_phase(config):
    config.PRETRAIN.OPTIMIZER = "muon"
    config.PRETRAIN.PHASES[1]["LEARNING_RATE"] = 1e-4

    def warned():
        notes = [note for link in plan(config).links for note in estimate(link.config, link).notes]
        return any("does not change that of muon's matrices" in note for note in notes)

    assert warned()
    config.PRETRAIN.PHASES[1]["MUON_LEARNING_RATE"] = 1e-3
    assert not warned()


# --- the state -------------------------------------------------------------------------------


def test_a_table_of_positions_is_repeated_with_its_moments():
    name = "encoder.embeddings.position.weight"
    table = torch.arange(8.0).reshape(4, 2)
    tensors = {
        f"weight/{name}": table,
        f"exp_avg/{name}": table + 100,
        f"row_var/{name}": table[:, :1],
        f"col_var/{name}": table[:1],
        f"step/{name}": torch.tensor(7.0),
        "weight/encoder.layers.0.weight": torch.ones(4, 2),
        "weight/output_bias": torch.ones(4),
    }
    shapes = {name: (10, 2), "encoder.layers.0.weight": (4, 2), "output_bias": (4,)}
    found = grown(tensors, shapes, 10)
    again = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    for kind in ("weight", "exp_avg", "row_var"):
        assert torch.equal(found[f"{kind}/{name}"], tensors[f"{kind}/{name}"][again])
    for key in tensors.keys() - {f"{kind}/{name}" for kind in ("weight", "exp_avg", "row_var")}:
        assert found[key] is tensors[key]


def test_rows_of_no_position_stay_at_the_begin():
    name = "roberta.embeddings.position_embeddings.weight"
    found = grown({f"weight/{name}": torch.arange(6.0)[:, None]}, {name: (10, 1)}, 8)
    assert found[f"weight/{name}"].flatten().tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]


def flags(dataset, output, **more):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": 64, "train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    small |= {"max_steps": 12, "print_steps": 5, "checkpoint_steps": 100, "validation_steps": 50}
    words = {"dataset_path": dataset, "output_dir": output, **small, **more}
    return parse_flags([f"--{name}={value}" for name, value in words.items()])


@pytest.fixture
def trained(device):
    """Runs flags inside this process; returns the folder."""

    def train(args):
        output = Path(args.output_dir)
        run(args, device, MetricsLog(output / "metrics.jsonl"))
        return output

    return train


@pytest.mark.slow
def test_a_phase_begins_where_the_one_before_it_ended(trained, tmp_path, capfd):
    short = write_dataset(tmp_path / "short")
    long = write_dataset(tmp_path / "long", length=40)
    first = trained(flags(short, tmp_path / "first"))
    continued = {"continue_from": first, "num_positions": 40}
    second = trained(flags(long, tmp_path / "second", max_steps=0, **continued))
    ended = load_file(list_checkpoints(first / "checkpoints")[-1] / TENSORS)
    begun = load_file(list_checkpoints(second / "checkpoints")[-1] / TENSORS)
    assert ended.keys() == begun.keys() and "exp_avg_sq/output_bias" in begun
    for key, tensor in ended.items():
        if "position" in key and tensor.ndim == 2:
            tensor = tensor.repeat(3, 1)[:40]
        assert torch.equal(begun[key], tensor), key
    model = json.loads((second / "model" / "config.json").read_text())
    assert model["max_position_embeddings"] >= 40
    pattern = r"validation loss ([\d.]+); the phase before ended with"
    found = re.search(pattern, capfd.readouterr().out)
    assert found and float(found[1]) < 4.2  # ln 61 is 4.11

    continued["continue_from"] = second
    shorter = trained(flags(short, tmp_path / "third", max_steps=0, **continued))
    kept = load_file(list_checkpoints(shorter / "checkpoints")[-1] / TENSORS)
    assert kept.keys() == begun.keys()
    assert all(torch.equal(kept[key], begun[key]) for key in begun)


@pytest.mark.slow
def test_a_run_that_cannot_be_continued_is_named(trained, tmp_path):
    short = write_dataset(tmp_path / "short")
    with pytest.raises(InputError, match=r"--continue_from: .* has no intact checkpoint of"):
        trained(flags(short, tmp_path / "second", continue_from=tmp_path / "nothing"))
    first = trained(flags(short, tmp_path / "first", max_steps=1))
    with pytest.raises(InputError, match="--optimizer_type was adamw, and is lamb now"):
        trained(flags(short, tmp_path / "second", continue_from=first, optimizer_type="lamb"))
    other = write_dataset(tmp_path / "other", vocab_size=60)
    with pytest.raises(InputError, match="another tokenizer than the data"):
        trained(flags(other, tmp_path / "second", continue_from=first))
    with pytest.raises(InputError, match="the checkpoint is of another model"):
        trained(flags(short, tmp_path / "second", continue_from=first, intermediate_size=32))


# --- kills and changes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    config = two_phases(corpus, tmp_path_factory.mktemp("undisturbed"))
    prepare_dataset(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        pretrain(config)
    return config


def weights_of(config):
    return (plan(config).artifact.directory / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_in_each_phase_and_between_them_it_ends_the_same(undisturbed, config, tmp_path):
    prepare_dataset(config)
    (tmp_path / "config.yaml").write_text(config.dump())
    command = [sys.executable, "-c", RUN_STAGE, str(tmp_path / "config.yaml")]
    first, second = (link.artifact for link in plan(config).links)
    moments = (
        lambda: list_checkpoints(first.directory / "checkpoints"),
        lambda: first.manifest,
        lambda: list_checkpoints(second.directory / "checkpoints"),
    )
    for comes in moments:
        child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
        _wait(comes, 120)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        _wait(lambda: not _ranks(first.directory) + _ranks(second.directory), 60)
        assert not second.status().done
    begun = (first.directory / "manifest.json").stat().st_mtime_ns
    pretrain(config)
    assert (first.directory / "manifest.json").stat().st_mtime_ns == begun
    assert weights_of(config) == weights_of(undisturbed)
    steps = [phase["steps"] for phase in second.manifest["results"]["phases"]]
    assert steps == [30, 30]


@pytest.mark.slow
def test_a_changed_rate_repeats_the_second_phase_alone(undisturbed):
    config = undisturbed.clone()
    first, second = (link.artifact for link in plan(config).links)
    before = {path: path.stat().st_mtime_ns for path in first.directory.rglob("*")}
    config.PRETRAIN.PHASES[1]["LEARNING_RATE"] = 1e-4
    pretrain(config)
    changed = plan(config).artifact
    assert changed.directory != second.directory and changed.status().done
    assert {path: path.stat().st_mtime_ns for path in first.directory.rglob("*")} == before
    assert weights_of(config) != weights_of(undisturbed)
    card = (changed.directory / "model" / "README.md").read_text()
    assert "| 1 | 30 steps | 32 |" in card and "| 2 | 30 steps | 64 |" in card
