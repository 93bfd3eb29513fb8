"""Measurements of the GPU check's sections, without a GPU."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_check import attention, numbers, speed
from benchmarks.gpu_check.bench import FULL, Bench, as_large_as_berts
from benchmarks.gpu_check.correctness import check_correctness, synthetic_batch
from benchmarks.gpu_check.outcome import FAILED, PASSED, SKIPPED
from benchmarks.gpu_check.profiling import idle_share
from benchmarks.gpu_check.synchronisation import (
    Synchronisation,
    attribute,
    check_data,
    check_waits,
    recorded_synchronisations,
)
from benchmarks.harness import PROJECT
from benchmarks.models import LENGTH, VOCAB_SIZE, read_batches
from pretrain.training.data_loader import MicroBatch

CPU = torch.device("cpu")
PACKAGES = "/somewhere/site-packages"
FP32 = {"precision": "fp32"}


# --- waits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (
            [f"{PROJECT}/pretrain/loop.py", f"{PACKAGES}/torch/_tensor.py"],
            Synchronisation("pretrain/loop.py:0", "ours"),
        ),
        (
            [f"{PROJECT}/pretrain/loop.py", f"{PACKAGES}/deepspeed/runtime/zero/stage.py"],
            Synchronisation("zero/stage.py:1", "DeepSpeed"),
        ),
        (
            [f"{PACKAGES}/deepspeed/runtime/engine.py", f"{PROJECT}/pretrain/model/model.py"],
            Synchronisation("pretrain/model/model.py:1", "ours"),
        ),
        (
            [f"{PACKAGES}/deepspeed/runtime/engine.py", f"{PACKAGES}/torch/autograd/graph.py"],
            Synchronisation("backward pass", "ours"),
        ),
        # The environment may be in the project's folder.
        (
            [f"{PROJECT}/main.py", f"{PROJECT}/.venv/site-packages/deepspeed/a.py"],
            Synchronisation("deepspeed/a.py:1", "DeepSpeed"),
        ),
        (["torch/x.py"], Synchronisation("torch/x.py:0", "ours")),
        ([], Synchronisation("unknown", "ours")),
    ],
)
def test_a_wait_has_an_owner(frames, expected):
    assert attribute([(file, line) for line, file in enumerate(frames)]) == expected


def test_waits_are_recorded_where_they_come_from(monkeypatch):
    calls, found = [], []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: calls.append(args))
    before = torch.cuda.synchronize
    with recorded_synchronisations(CPU, found):
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        torch.cuda.synchronize(0)
    assert torch.cuda.synchronize is before and calls == [(0,)]
    assert len(found) == 3 and found[0] == found[1] != found[2]
    assert {one.owner for one in found} == {"ours"}
    assert all("tests/benchmarks/test_gpu_check_numbers.py:" in one.place for one in found)


def test_batches_that_are_not_pinned_are_told(bench):
    outcome = check_data(bench)
    assert outcome.status == PASSED and "0 of 32 batches pinned" in outcome.seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:called a synchronizing")  # of the warm-up steps
def test_waits_in_the_real_loop(bench, device, monkeypatch):
    outcome = check_waits(bench, "fine", FP32)
    assert outcome.status == PASSED and outcome.seen == "0 a step: no waits"
    forward = MicroBatch.inputs

    def waits(self, device):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return forward(self, device)

    monkeypatch.setattr(MicroBatch, "inputs", waits)
    outcome = check_waits(bench, "slow", FP32)
    assert outcome.status == FAILED and "1 a step: 1 by ours (tests/" in outcome.seen


# --- numbers -----------------------------------------------------------------------------------


def test_the_cpu_computes_what_the_cpu_computes(bench):
    outcome = check_correctness(bench)
    assert outcome.status == PASSED, outcome
    assert all(errors["worst"] < 1e-6 for errors in outcome.numbers.values())


@pytest.mark.slow
def test_a_gradient_that_is_off_fails(bench, monkeypatch):
    monkeypatch.setattr(Bench, "precisions", ["fp16"])
    assert check_correctness(bench).status == PASSED
    outcome = check_correctness(bench, {"fp32": (1e-4, 1e-4), "fp16": (0.02, 1e-5)})
    assert outcome.status == FAILED and "fp16 absolute is off" in outcome.advice


def test_rows_of_synthetic_batches():
    packed, plain = synthetic_batch(num_samples=3), synthetic_batch()
    assert packed.position_ids is not None and int(packed.position_ids.max()) == 42
    assert plain.attention_mask is None and plain.num_predictions == packed.num_predictions
    padded = synthetic_batch(2, 64, real_share=0.75)
    assert padded.num_tokens == 2 * 48 and int(padded.prediction_index.max()) < 64 + 48


def test_losses_of_steps_that_were_not_taken_are_seen():
    expected = [10.3555 - 0.04 * step for step in range(numbers.LOSS_STEPS)]
    near = [loss * 1.0003 for loss in expected]
    assert numbers.compare_losses(near, expected, 1e-3).status == PASSED
    for wrong in (
        [10.3555, *near[:-1]],  # a step was skipped
        [*near[:-1], math.nan],
        near[:-1],
        [loss * 1.01 for loss in expected],
    ):
        assert numbers.compare_losses(wrong, expected, 1e-3).status == FAILED


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", numbers.OPTIMIZERS)
def test_an_overflow_in_fp16_is_survived(bench, device, optimizer):
    outcome = numbers.check_overflow(bench, optimizer)
    assert outcome.status == PASSED, outcome


@pytest.mark.slow
def test_a_run_that_is_resumed(bench, device, monkeypatch):
    monkeypatch.setattr(numbers, "RESUME_STEPS", 4)
    outcome = numbers.check_resume(bench)
    assert outcome.status == PASSED, outcome
    assert outcome.seen == "resumed after step 2, the same bits in 4 steps"


# --- attention ---------------------------------------------------------------------------------


def test_backends_that_work_and_those_that_do_not(bench, monkeypatch):
    query = torch.randn(1, 1, 32, 64).requires_grad_()

    def attend():
        attention._attend(query, query, query, None)

    found = attention.by_backend(bench, attend, SDPBackend.MATH)
    assert found["ms"] > 0
    assert attention.by_backend(bench, attend, SDPBackend.CUDNN_ATTENTION)["why_not"]
    outcome = attention.check_backends(bench, 32)
    assert outcome.status == PASSED and "math padded" in outcome.seen
    assert "why_not" in outcome.numbers["varlen packed"]  # needs a GPU
    with sdpa_kernel(SDPBackend.MATH):
        assert attention.timed(bench, attend)["ms"] > 0


@pytest.mark.slow
def test_layers_with_each_sort_of_rows(bench):
    outcome = attention.check_layers(bench, 32)
    assert outcome.status == PASSED, outcome
    kinds = {"unpadded", "padded", "packed", "window", "packed window"}
    assert set(outcome.numbers) == kinds


# --- speed -------------------------------------------------------------------------------------


def test_the_idle_share_is_what_no_kernel_covers():
    assert idle_share([]) is None
    assert idle_share([(0, 4), (6, 10)]) == pytest.approx(0.2)
    assert idle_share([(6, 10), (0, 4), (1, 3), (3, 5)]) == pytest.approx(0.1)  # two streams
    assert idle_share([(0, 10), (2, 3)]) == 0


@pytest.mark.slow
def test_the_engine_without_the_loop(bench, device):
    engine = speed.new_engine(bench, speed.engine_args(bench, bench.scale.watched))
    speed.take_steps(engine, read_batches(bench.dataset, 4, 2))
    assert engine.global_steps == 2


@pytest.mark.slow
def test_a_speed_beside_its_numbers(bench, device):
    kept = {}
    outcome = speed.measure(bench, "1x64", 4, False, kept)
    again = speed.measure(bench, "1x64", 2, False, kept)  # by the same engine
    assert outcome.status == again.status == PASSED
    found = outcome.numbers
    assert found["positions_per_second"] == LENGTH * found["samples_per_second"] > 0
    assert (found["model"], found["micro_batch"], found["idle_share"]) == ("1x64", 4, None)
    assert again.numbers["micro_batch"] == 2


@pytest.mark.slow
def test_a_micro_batch_that_does_not_fit_is_left_out(bench, device, monkeypatch):
    kept = {}
    monkeypatch.setattr(speed, "take_steps", lambda *_: torch.empty(1 << 46, dtype=torch.uint8))
    outcome = speed.measure(bench, "1x64", 4, False, kept)
    assert outcome.status == SKIPPED and "does not fit" in outcome.seen and not kept
    monkeypatch.undo()
    assert speed.measure(bench, "1x64", 4, False, kept).status == PASSED  # by a new engine


def test_recipes_and_shapes_are_what_their_names_say(bench, monkeypatch):
    monkeypatch.setattr(Bench, "on_gpu", True)
    monkeypatch.setattr(Bench, "precisions", ["fp16", "bf16"])
    recipe = speed.flags_of(bench, "fast-base")
    assert (recipe.num_hidden_layers, recipe.hidden_size, recipe.intermediate_size) == (
        12,
        768,
        2048,
    )
    assert (recipe.optimizer_type, recipe.precision, recipe.glu) == ("muon", "bf16", True)
    shape = speed.flags_of(bench, "modernbert-base")
    assert (shape.num_hidden_layers, shape.intermediate_size, shape.use_bias) == (22, 1152, False)
    assert set(FULL.speeds) >= {"24x1024", "12x768", "fast-base", "modernbert-base"}
    assert speed.flags_of(bench, "24x1024").intermediate_size == 4096


def test_the_vocabulary_grows_to_berts(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    path = as_large_as_berts(tmp_path / "vocab.txt", tmp_path / "large" / "vocab.txt")
    words = Path(path).read_text().splitlines()
    assert words[:3] == ["[PAD]", "[UNK]", "word"] and len(set(words)) == VOCAB_SIZE
