"""The benchmark runs, and compares what it says it compares."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from benchmarks.contestants import (
    CONTESTANTS,
    CPU,
    IGNORED,
    LENGTH,
    RIVALS,
    VOCAB_SIZE,
    Size,
    Training,
    memory_needed,
    model_args,
    parse_size,
    read_batches,
    usual_inputs,
)
from benchmarks.real_loop import SLICE_STEPS, Slices
from benchmarks.stage_runs import PROJECT
from benchmarks.training_speed import Limits, compare, product_shapes, report, take_turns
from pretrain.engine.precision import resolve_precision
from pretrain.training.flops import PASSES, training_flops
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
    assert (Size(12, 768).heads, Size(12, 768).gated_intermediate) == (12, 2048)
    with pytest.raises(ValueError, match="2x100"):
        parse_size("2x100")


@pytest.mark.parametrize("size", [Size(2, 256), Size(1, 768)])
def test_contestants_are_of_equal_size(size):
    counts = {
        name: sum(parameter.numel() for parameter in build(size, 0.1, "fp32").parameters())
        for name, build in CONTESTANTS.items()
    }
    assert max(counts.values()) < 1.03 * min(counts.values()), counts


def test_memory_is_counted_by_weights_first():
    base = Size(12, 768)
    assert memory_needed(base, 1, 2) > 2 * 16 * 108e6
    assert memory_needed(base, 16, 2) < 10e9 < memory_needed(Size(24, 1024), 16, 2)


def test_transformers_is_asked_for_the_same_predictions(batches):
    inputs = usual_inputs(batches[0], takes_segments=True)
    labels = inputs["labels"].flatten()
    assert torch.equal(labels[batches[0].prediction_index], batches[0].labels)
    assert (labels != IGNORED).sum() == batches[0].num_predictions
    assert inputs["attention_mask"].sum() == batches[0].num_tokens


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_their_loss_is_that_of_the_predictions(name, batches):
    rival = CONTESTANTS[name](SIZE, 0.0, "bf16")
    inputs = usual_inputs(batches[0], rival.takes_segments)
    logits = rival.model(**inputs).logits.flatten(0, 1)[batches[0].prediction_index]
    expected = functional.cross_entropy(logits, batches[0].labels)
    torch.testing.assert_close(rival(batches[0]), expected)


def _multiplies_in_bf16(model):
    """All modules that know how, or none."""
    (is_half,) = {module.in_bf16 for module in model.modules() if hasattr(module, "in_bf16")}
    return is_half


@pytest.mark.parametrize("name", RIVALS)
def test_ours_multiply_as_a_real_run(name):
    found = {}
    for precision in ("auto", "fp32", "bf16"):
        model = CONTESTANTS[name](SIZE, 0.0, precision)
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
        found[precision] = _multiplies_in_bf16(model)
    auto = resolve_precision("auto", CPU, model_args(SIZE, 0.0).model_type)
    assert found == {"auto": auto == "bf16", "fp32": False, "bf16": True}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bare_steps_multiply_as_the_run(precision, dataset):
    args = model_args(SIZE, 0.0, precision=precision)
    args.dataset_path, args.train_micro_batch_size_per_gpu = str(dataset), 2
    slices = Slices(args, 2)
    for _ in range(SLICE_STEPS):
        slices.show(False)
    assert _multiplies_in_bf16(slices.training.model) == (precision == "bf16")


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "fp32") for name in CONTESTANTS), *((n, "bf16") for n in RIVALS)],
)
def test_contestants_learn(name, precision, batches):
    torch.manual_seed(0)
    training = Training(CONTESTANTS[name](SIZE, 0.0, precision))
    losses = [training.step(batches[0]) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_turns_are_taken_in_order():
    order = []
    steps = {name: lambda number, name=name: order.append((number, name)) for name in "ab"}
    seconds = take_turns(steps, 2)
    assert order == [(number, name) for number in range(3) for name in "ab"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_products_are_those_of_the_formula():
    shapes = product_shapes(SIZE, 3, 10)
    args = model_args(SIZE, 0.1)
    args.pad_vocab_to_multiple_of = 1
    scores = PASSES * 4 * 3 * LENGTH**2 * 64
    transform = PASSES * 2 * 10 * 64 * 64  # of the head, too small to be measured
    products = sum(PASSES * 2 * n * rows * i * columns for n, rows, i, columns in shapes)
    assert products + scores + transform == training_flops(args, 3, LENGTH, 10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_limits_keep_the_fastest(precision):
    limits = Limits([(2, 8, 4, 4)], precision)
    limits.measure(0)
    limits.fastest = [2.0]
    assert limits.own_shapes == 2 * PASSES * 2 * 8 * 4 * 4 / 4.0
    limits.measure(1)
    assert limits.fastest[0] < 2.0 and min(limits.matmul, limits.linear) > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_comparison_and_its_report(precision, batches, capsys):
    results = compare(SIZE, 0.1, precision, ["ours", "bert"], batches, num_rounds=1)
    ours, theirs = (results["models"][name] for name in ("ours", "bert"))
    assert ours["times_rival"] == theirs["seconds"][0] / ours["seconds"][0]
    assert ours["sequences_per_second"] == 3 / ours["seconds"][0]
    assert (ours["precision"], theirs["precision"]) == (precision, "fp32")
    report(SIZE, 0.1, results)
    told = capsys.readouterr().out
    assert f"Matrix products in {precision}" in told
    assert [line.split()[:2] for line in told.splitlines()[-2:]] == [
        ["ours", precision],
        ["BertForMaskedLM", "fp32"],
    ]


def test_command_line_with_the_real_loop(dataset, tmp_path):
    command = [sys.executable, "-m", "benchmarks.pretrain", "--dataset", str(dataset)]
    command += ["--sizes", "1x64", "--batch", "2", "--rounds", "2", "--dropout", "0.1"]
    command += ["--skip", "bert,gated,modernbert", "--precision", "bf16"]
    command += ["--json", str(tmp_path / "numbers.json")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())["1x64"]
    assert len(numbers["loop"]["real"]) == len(numbers["loop"]["bare"]) == 2
    assert list(numbers["dropout 0.1"]["models"]) == ["ours"]
    assert numbers["loop"]["precision"] == numbers["dropout 0.1"]["precision"] == "bf16"
    assert "the loop costs" in done.stdout and VOCAB_SIZE == 30522
