"""The GPU checklist, as far as it means something without a GPU."""

import json
import math
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.contestants import LENGTH, VOCAB_SIZE, Size, read_batches
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import speed
from benchmarks.gpu_check.__main__ import (
    as_json,
    main,
    parse_arguments,
    result_table,
    run_check,
    run_checks,
)
from benchmarks.gpu_check.correctness import check_correctness, synthetic_batch
from benchmarks.gpu_check.kernels import (
    FUSED_KERNEL,
    attending_cases,
    backend_of,
    check_optimizer,
    forced_seconds,
)
from benchmarks.gpu_check.machine import driver_version
from benchmarks.gpu_check.outcome import FAILED, PASSED, SKIPPED, failed, passed
from benchmarks.gpu_check.resume_and_ranks import check_resume
from benchmarks.gpu_check.runs import Bench, as_large_as_berts
from benchmarks.gpu_check.synchronisation import (
    Synchronisation,
    attribute,
    check_data,
    check_synchronisation,
    is_pinned,
    recorded_synchronisations,
)
from benchmarks.stage_runs import PROJECT
from pretrain.data import MicroBatch
from pretrain.distributed import start_ranks
from pretrain.interrupts import Interrupted
from pretrain.metrics import read_metrics
from tests.pretrain.shards import write_dataset

CPU = torch.device("cpu")
PACKAGES = "/somewhere/site-packages"


@pytest.fixture
def bench(tmp_path):
    bench = Bench(CPU, Size(1, 64), 4, tmp_path, warm_up=1, watched_steps=2)
    vars(bench)["dataset"] = write_dataset(tmp_path / "dataset", length=LENGTH)
    return bench


@pytest.fixture(scope="module")
def ranks():
    """This process as the one rank of its own runs; its variables are not for its children."""
    before = set(os.environ)
    start_ranks()
    torch.set_num_threads(1)
    for name in os.environ.keys() - before - {"LOCAL_RANK"}:
        del os.environ[name]
    yield
    os.environ.pop("LOCAL_RANK", None)


# --- what is reported --------------------------------------------------------------------------


def test_without_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "no GPU to check: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("too\nbad"), SystemExit("too\nbad")])
def test_what_a_check_raises_is_its_failure_and_the_others_go_on(error, bench, capsys):
    def broken(_):
        raise error

    checks = {"first": broken, "second": lambda _: passed("fine", number=1.5)}
    outcomes = run_checks(checks, bench)
    assert [outcome.status for outcome in outcomes.values()] == [FAILED, PASSED]
    assert outcomes["first"].seen == f"{type(error).__name__}: too"
    assert "broken" in outcomes["first"].numbers["traceback"]
    assert "OK   second: fine" in capsys.readouterr().out


def test_an_interrupt_ends_it_all(bench):
    def interrupted(_):
        raise Interrupted(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_check(interrupted, bench)


def test_a_lack_of_memory_has_its_own_advice(bench):
    def hungry(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert "--batch" in run_check(hungry, bench).advice


def test_no_check_begins_when_the_time_is_over(bench):
    outcomes = run_checks({"late": lambda _: passed("fine")}, bench, limit=-1.0)
    assert outcomes["late"].status == SKIPPED and "--only late" in outcomes["late"].seen


def test_without_a_rank_the_others_are_left_out(bench):
    checks = {"start": lambda _: failed("no NCCL", "get it"), "other": lambda _: passed("fine")}
    assert run_checks(checks, bench)["other"].status == SKIPPED


def test_all_numbers_are_in_the_table_and_the_json(bench):
    def slow(_):
        return failed("slow", "buy a faster one", speed=2.0)

    outcomes = run_checks({"speed": slow}, bench)
    assert "FAIL  speed" in result_table(outcomes)
    found = json.loads(as_json(outcomes))["speed"]
    assert found["numbers"] == {"speed": 2.0} and found["advice"] == "buy a faster one"


@pytest.mark.parametrize(("outcome", "code"), [(passed("fine"), 0), (failed("bad", "mend"), 1)])
def test_exit_code_and_file(outcome, code, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "why_no_gpu", lambda: "")
    monkeypatch.setattr(command, "_is_broken", lambda _: False)
    monkeypatch.setattr(command, "CHECKS", {"one": lambda _: outcome})
    assert main(["--json", str(tmp_path / "numbers.json")]) == code
    assert json.loads((tmp_path / "numbers.json").read_text())["one"]["status"] == outcome.status


def test_some_checks_are_asked_for(capsys):
    assert list(parse_arguments(["--only", "resume,data"]).checks) == ["start", "data", "resume"]
    with pytest.raises(SystemExit):
        parse_arguments(["--only", "nothing"])
    assert "got nothing" in capsys.readouterr().err


def test_the_driver_is_read(tmp_path):
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    assert driver_version(path) == "570.86.15"
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release\n")
    assert driver_version(path) == "570.86.15"
    assert driver_version(tmp_path / "none") == "unknown"


# --- synchronisation ---------------------------------------------------------------------------


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
            [f"{PACKAGES}/deepspeed/runtime/engine.py", f"{PROJECT}/pretrain/model.py"],
            Synchronisation("pretrain/model.py:1", "ours"),
        ),
        (
            [f"{PACKAGES}/deepspeed/runtime/engine.py", f"{PACKAGES}/torch/autograd/graph.py"],
            Synchronisation("backward pass", "ours"),
        ),
        # The environment may lie inside of the project.
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
    assert all("tests/benchmarks/test_gpu_check.py:" in one.place for one in found)


def test_batches_that_are_not_pinned_are_told(bench):
    assert not is_pinned(synthetic_batch(packed=True))
    outcome = check_data(bench)
    assert outcome.status == PASSED and "0 of 32 batches pinned" in outcome.seen


@pytest.mark.filterwarnings("ignore:called a synchronizing")  # of the steps that warm up
def test_waits_in_the_real_loop(bench, ranks, monkeypatch):
    outcome = check_synchronisation(bench)
    assert outcome.status == PASSED and outcome.seen == "fp32: no waits"
    forward = MicroBatch.inputs

    def waits(self, device):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return forward(self, device)

    monkeypatch.setattr(MicroBatch, "inputs", waits)
    outcome = check_synchronisation(bench)
    assert outcome.status == FAILED and "1 a step by ours (tests/" in outcome.seen


# --- the other checks --------------------------------------------------------------------------


def test_backends_of_attention(bench):
    cases = attending_cases(bench, torch.float32, dropout=0.0)
    assert list(cases) == ["unpadded", "padded", "packed"]
    assert backend_of(cases["unpadded"]) == "flash"
    with sdpa_kernel(SDPBackend.MATH):
        assert backend_of(cases["packed"]) == "math"
    seconds, reason = forced_seconds(bench, cases["packed"], SDPBackend.MATH)
    assert seconds > 0 and not reason
    seconds, reason = forced_seconds(bench, cases["packed"], SDPBackend.CUDNN_ATTENTION)
    assert math.isnan(seconds) and reason


def test_the_fused_kernel_is_known_by_its_name():
    kernel = "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::"
    assert FUSED_KERNEL.search(f"{kernel}FusedOptimizerTensorListMetadata<4>, FusedAdamMathFunctor")
    assert not FUSED_KERNEL.search("void at::native::fused_dropout_kernel_vec<c10::Half, float>")


def test_the_optimizer_is_fused(bench, ranks):
    outcome = check_optimizer(bench)
    assert outcome.status == PASSED, outcome
    assert outcome.seen.startswith("2 of 2 groups are fused, 2 calls a step")


def test_the_cpu_computes_what_the_cpu_computes(bench):
    outcome = check_correctness(bench)
    assert outcome.status == PASSED, outcome
    assert all(errors["worst"] < 1e-6 for errors in outcome.numbers.values())


def test_a_gradient_that_is_off_fails(bench, monkeypatch):
    monkeypatch.setattr(Bench, "precisions", ["fp16"])
    assert check_correctness(bench).status == PASSED
    outcome = check_correctness(bench, {"fp32": (1e-4, 1e-4), "fp16": (0.02, 1e-5)})
    assert outcome.status == FAILED and "fp16 absolute is off" in outcome.advice


def test_packed_batches_are_packed():
    packed, plain = synthetic_batch(packed=True), synthetic_batch(packed=False)
    assert packed.is_packed and packed.inputs(CPU)[2].shape == (8, LENGTH, LENGTH)
    assert plain.attention_mask is None and plain.num_predictions == packed.num_predictions


def test_a_run_that_is_resumed(bench, ranks):
    outcome = check_resume(bench, num_steps=4)
    assert outcome.status == PASSED, outcome
    assert outcome.seen == "resumed after step 2, the same bits in 4 steps"


def test_the_engine_without_the_loop(bench, ranks):
    engine = speed.new_engine(bench, speed.engine_args(bench, bench.size))
    speed.take_steps(bench, engine, read_batches(bench.dataset, bench.batch, 2))
    assert engine.global_steps == 2


def test_throughput_of_the_loop_and_in_turns(bench, ranks, monkeypatch):
    smaller = {"MEASURED_FROM": 10, "THROUGHPUT_SECONDS": 0.0, "NUM_SLICES": 2, "SLICE_STEPS": 1}
    for name, value in smaller.items():
        monkeypatch.setattr(speed, name, value)
    numbers = speed.check_throughput(bench).numbers
    assert len(numbers["real"]) == len(numbers["usual"]) == 2
    ratios = [usual / real for real, usual in zip(numbers["real"], numbers["usual"], strict=True)]
    assert min(ratios) <= numbers["times_usual"] <= max(ratios)
    assert min(numbers["samples_per_second"], numbers["peak_share"]) > 0
    lines = read_metrics(bench.folder / "throughput" / "metrics.jsonl")
    assert numbers["tokens_per_second"] == lines[0]["tokens_per_second"]


def test_the_vocabulary_grows_to_berts(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    path = as_large_as_berts(tmp_path / "vocab.txt", tmp_path / "large" / "vocab.txt")
    words = Path(path).read_text().splitlines()
    assert words[:3] == ["[PAD]", "[UNK]", "word"] and len(set(words)) == VOCAB_SIZE
