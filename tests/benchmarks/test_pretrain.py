"""The benchmark of pretraining: equal models, its contestants, and its tables."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from benchmarks.harness import PROJECT, Spread
from benchmarks.models import (
    CPU,
    IGNORED,
    LENGTH,
    MODELS,
    VOCAB_SIZE,
    Training,
    model_args,
    read_batches,
    usual_inputs,
)
from benchmarks.pretrain import Data, compare, memory_needed, print_table
from benchmarks.sizes import Size, parse_size
from benchmarks.trainings import SPEEDS, measure_products, train_bare
from pretrain.engine.precision import resolve_precision
from tests.pretrain.shards import write_dataset

SIZE = Size(1, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", length=LENGTH)


@pytest.fixture(scope="module")
def batches(dataset):
    return read_batches(dataset, 3, 4)


def test_sizes_are_read():
    assert parse_size("12x768") == Size(12, 768) and str(Size(12, 768)) == "12x768"
    assert (Size(12, 768).heads, Size(12, 768).feed_forward(gated=True)) == (12, 2048)
    with pytest.raises(ValueError, match="2x100"):
        parse_size("2x100")


@pytest.mark.slow
@pytest.mark.parametrize("size", [Size(2, 256), Size(1, 768)])
def test_contestants_are_of_equal_size(size):
    counts = {
        name: sum(parameter.numel() for parameter in build(size, 0.1, "fp32").parameters())
        for name, build in MODELS.items()
    }
    assert max(counts.values()) < 1.03 * min(counts.values()), counts


def test_memory_is_counted_by_weights_first():
    base = Size(12, 768)
    assert memory_needed(base, 1) > 16 * 108e6
    assert memory_needed(base, 16) < 6e9 < memory_needed(Size(24, 1024), 16)


def test_transformers_is_asked_for_the_same_predictions(batches):
    inputs = usual_inputs(batches[0])
    labels = inputs["labels"].flatten()
    assert torch.equal(labels[batches[0].prediction_index], batches[0].labels)
    assert (labels != IGNORED).sum() == batches[0].num_predictions
    assert inputs["attention_mask"].sum() == batches[0].num_tokens


def test_their_loss_is_that_of_the_predictions(batches):
    rival = MODELS["bert"](SIZE, 0.0, "fp32")
    logits = rival.model(**usual_inputs(batches[0])).logits.flatten(0, 1)[
        batches[0].prediction_index
    ]
    expected = functional.cross_entropy(logits, batches[0].labels)
    torch.testing.assert_close(rival(batches[0]), expected)


def _multiplies_in_bf16(model):
    """All modules that know how, or none."""
    (is_half,) = {module.in_bf16 for module in model.modules() if hasattr(module, "in_bf16")}
    return is_half


def test_ours_multiplies_as_a_real_run():
    found = {}
    for precision in ("auto", "fp32", "bf16"):
        model = MODELS["ours"](SIZE, 0.0, precision)
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
        found[precision] = _multiplies_in_bf16(model)
    auto = resolve_precision("auto", CPU, model_args(SIZE, 0.0).model_type)
    assert found == {"auto": auto == "bf16", "fp32": False, "bf16": True}


@pytest.mark.slow
def test_the_rival_multiplies_in_either_precision(batches):
    exact, rounded = (MODELS["bert"](SIZE, 0.0, precision) for precision in ("fp32", "bf16"))
    rounded.load_state_dict(exact.state_dict())
    losses, near = (torch.stack([model(one) for one in batches]) for model in (exact, rounded))
    assert not torch.equal(losses, near)
    torch.testing.assert_close(losses, near.float(), rtol=0.01, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, precision) for name in MODELS for precision in ("fp32", "bf16")],
)
def test_contestants_learn(name, precision, batches):
    torch.manual_seed(0)
    training = Training(MODELS[name](SIZE, 0.0, precision))
    losses = [training.step(batches[0]) for _ in range(3)]
    assert losses[-1] < losses[0]


class Stop(Exception):
    """Ends a contestant that runs in this process."""


def reports(function, *arguments, count):
    """The first reports of a contestant."""
    found = []

    def report(result):
        found.append(result)
        if len(found) == count:
            raise Stop

    with pytest.raises(Stop):
        function(report, *arguments)
    return found


def test_bare_turns(dataset, monkeypatch):
    losses = []
    monkeypatch.setattr(Training, "step", lambda self, batch: losses.append(batch))
    monkeypatch.setattr("benchmarks.trainings.TURN_SECONDS", 1e-9)
    ready, seconds = reports(train_bare, "ours", SIZE, 0.0, "fp32", dataset, 2, count=2)
    assert ready is None and seconds > 0
    assert len(losses) == 2  # the first does not count


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_are_measured(precision, monkeypatch):
    monkeypatch.setattr("benchmarks.trainings.PEAK_SECONDS", 0.001)
    _, speeds = reports(measure_products, precision, count=2)
    assert set(speeds) == set(SPEEDS) and min(speeds.values()) > 0


def test_comparison_and_its_table(dataset, monkeypatch, capsys):
    started = []

    class Started:
        def __init__(self, function, *arguments):
            started.append((function.__name__, arguments))
            self.is_limits = function is measure_products

    def turns(contestants, rounds):
        limits = dict.fromkeys(SPEEDS, 1e9)
        seconds = dict(zip(contestants, (0.5, 2.0, 1.0), strict=False))
        return {
            name: [limits if contestant.is_limits else seconds[name]] * rounds
            for name, contestant in contestants.items()
        }

    monkeypatch.setattr("benchmarks.pretrain.Contestant", Started)
    monkeypatch.setattr("benchmarks.pretrain.take_turns", turns)
    results = compare(SIZE, 0.1, "bf16", Data(dataset, 3), 2)
    assert [(name, arguments[3]) for name, arguments in started[:3]] == [
        ("train_bare", "bf16"),
        ("train_bare", "fp32"),
        ("train_bare", "bf16"),
    ]
    assert results["models"][0]["sequences_per_second"] == 6
    assert [row.get("times_ours") for row in results["models"]] == [
        None,
        Spread(4.0, 4.0, 4.0),
        Spread(2.0, 2.0, 2.0),
    ]
    print_table(SIZE, 0.1, results)
    told = capsys.readouterr().out
    assert (
        "products in bf16, GFLOP/s: torch.matmul 1, our layers 1" in told
        and "4.00 (4.00-4.00)" in told
    )
    assert [line.split()[:2] for line in told.splitlines()[-3:]] == [
        ["ours", "bf16"],
        ["BertForMaskedLM", "fp32"],
        ["BertForMaskedLM", "bf16"],
    ]


@pytest.mark.slow
def test_command_line(dataset, tmp_path):
    command = [sys.executable, "-m", "benchmarks.pretrain", "--dataset", str(dataset)]
    command += ["--sizes", "1x64", "--batch", "2", "--rounds", "1", "--dropout", "0.1"]
    command += ["--precision", "fp32", "--json", str(tmp_path / "numbers.json")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())["1x64"]["dropout 0.1"]
    assert [row["model"] for row in numbers["models"]] == ["ours", "bert"]
    assert [len(row["seconds"]) for row in numbers["models"]] == [1, 1]
    assert numbers["precision"] == "fp32" and VOCAB_SIZE == 30522
