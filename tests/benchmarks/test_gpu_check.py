"""The GPU check, as far as it means something without a GPU."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.contestants import LENGTH, VOCAB_SIZE, read_batches
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import attention, numbers, ranks, speed, stages
from benchmarks.gpu_check.bench import FULL, REHEARSAL, Bench, as_large_as_berts, tensors_in
from benchmarks.gpu_check.cards import find_card
from benchmarks.gpu_check.correctness import check_correctness, synthetic_batch
from benchmarks.gpu_check.goals import goals, paper_hours
from benchmarks.gpu_check.machine import check_matmul, driver_version
from benchmarks.gpu_check.outcome import FAILED, PASSED, SKIPPED, failed, passed
from benchmarks.gpu_check.profiling import idle_share
from benchmarks.gpu_check.sections import SECTIONS
from benchmarks.gpu_check.synchronisation import (
    Synchronisation,
    attribute,
    check_data,
    check_waits,
    is_pinned,
    recorded_synchronisations,
)
from benchmarks.gpu_check.worker import Section, outcomes_of, run_check, run_section
from benchmarks.stage_runs import PROJECT
from pipeline.folders import read_json
from pretrain.data import MicroBatch
from pretrain.distributed import start_ranks
from pretrain.interrupts import Interrupted
from tests.pretrain.shards import write_dataset

CPU = torch.device("cpu")
PACKAGES = "/somewhere/site-packages"
FP32 = {"precision": "fp32"}


@pytest.fixture
def bench(tmp_path):
    bench = Bench(CPU, REHEARSAL, tmp_path)
    vars(bench)["dataset"] = write_dataset(tmp_path / "dataset", length=LENGTH)
    return bench


@pytest.fixture(scope="module")
def one_rank():
    """This process as the one rank of its own runs; its variables are not for its children."""
    before = set(os.environ)
    start_ranks()
    torch.set_num_threads(1)
    for name in os.environ.keys() - before - {"LOCAL_RANK"}:
        del os.environ[name]
    yield
    os.environ.pop("LOCAL_RANK", None)


# --- sections ----------------------------------------------------------------------------------


def test_without_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "no GPU to check: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("too\nbad"), SystemExit("too\nbad")])
def test_what_a_check_raises_is_its_failure_and_the_others_go_on(error, bench):
    def broken():
        raise error

    checks = iter([("first", broken), ("second", lambda: passed("fine", number=1.5))])
    outcomes = dict(outcomes_of(checks, bench))
    assert [outcome.status for outcome in outcomes.values()] == [FAILED, PASSED]
    assert outcomes["first"].seen == f"{type(error).__name__}: too"
    assert "broken" in outcomes["first"].numbers["traceback"]


def test_an_interrupt_ends_it_all():
    def interrupted():
        raise Interrupted(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_check(interrupted)


def test_no_check_begins_when_the_time_is_over(tmp_path):
    late = Bench(CPU, REHEARSAL, tmp_path, deadline=time.monotonic() - 1)
    [(_, outcome)] = outcomes_of(iter([("late", lambda: passed("fine"))]), late)
    assert outcome.status == SKIPPED and "time was over" in outcome.seen


@pytest.fixture
def forked(monkeypatch):
    """Sections begin at once; their own process imports torch first, for seconds."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: get_context("fork"))


def test_a_section_that_hangs_is_killed_with_all_that_it_started(forked, tmp_path):
    child = tmp_path / "child"

    def hang():
        os.write(1, b"about to hang\n")  # as a library would, past sys.stdout
        child.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)

    section = Section("", 0, lambda bench: iter([("good", lambda: passed("fine")), ("bad", hang)]))
    begin = time.monotonic()
    outcomes = dict(run_section("hangs", section, tmp_path, 1.0, rehearses=True))
    assert time.monotonic() - begin < 10
    assert outcomes["good"].status == PASSED  # what was measured stays
    assert outcomes["hangs"].seen == "killed: its time was over"
    assert outcomes["hangs"].numbers["log"] == ["about to hang"]
    state = Path(f"/proc/{child.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_section_that_dies_is_a_failure(forked, tmp_path):
    section = Section("", 0, lambda bench: iter([("bad", lambda: os._exit(3))]))
    [(name, outcome)] = run_section("dies", section, tmp_path, 20.0, rehearses=True)
    assert (name, outcome.status) == ("dies", FAILED) and "exit code 3" in outcome.seen


def test_the_report_is_there_after_each_check(forked, tmp_path, capsys):
    report, seen = tmp_path / "report.json", tmp_path / "seen.json"

    def first(bench):
        yield "one", lambda: passed("fine")

    def second(bench):
        yield "two", lambda: failed("slow", "buy a faster one", speed=2.0)
        seen.write_text(report.read_text())  # what a kill would leave now

    sections = {"first": Section("", 9, first), "second": Section("", 9, second)}
    results = command.run_sections(sections, tmp_path, 100.0, True, report)
    assert read_json(seen)["sections"]["first"]["one"]["status"] == PASSED
    two = read_json(report)["sections"]["second"]["two"]
    assert two["numbers"] == {"speed": 2.0} and two["advice"] == "buy a faster one"
    assert "FAIL  second" in command.result_table(results)
    assert "  OK   one: fine" in capsys.readouterr().out


def test_a_section_that_has_no_time_is_left_out(tmp_path):
    report = tmp_path / "report.json"
    results = command.run_sections({"late": Section("", 9, iter)}, tmp_path, 1.0, True, report)
    assert (
        results["late"]["late"].status == SKIPPED and "--only late" in results["late"]["late"].seen
    )


@pytest.mark.parametrize(("outcome", "code"), [(passed("fine"), 0), (failed("bad", "mend"), 1)])
def test_exit_code_and_file(outcome, code, forked, monkeypatch, tmp_path):
    section = Section("", 0, lambda bench: iter([("one", lambda: outcome)]))
    monkeypatch.setattr(command, "SECTIONS", {"some": section})
    assert command.main(["--rehearse", "--json", str(tmp_path / "numbers.json")]) == code
    found = read_json(tmp_path / "numbers.json")["sections"]["some"]["one"]
    assert found["status"] == outcome.status


def test_some_sections_are_asked_for(capsys):
    chosen = command.parse_arguments(["--only", "memory,machine"]).sections
    assert list(chosen) == ["machine", "memory"]
    with pytest.raises(SystemExit):
        command.parse_arguments(["--only", "nothing"])
    assert "got nothing" in capsys.readouterr().err


def test_all_sections_fit_into_ten_minutes_on_one_gpu():
    """With several GPUs, the last section has what the others have left."""
    seconds = sum(one.seconds for name, one in SECTIONS.items() if name != "ranks")
    assert seconds <= 60 * command.parse_arguments([]).minutes <= 600
    assert list(SECTIONS)[:2] == ["machine", "stage"]


# --- the card ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "half", "bandwidth"),
    [
        ("NVIDIA H200", 989, 4800),
        ("NVIDIA H100 80GB HBM3", 989, 3350),
        ("NVIDIA H100 PCIe", 756, 2039),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A10", 125, 600),
        ("NVIDIA A10G", 70, 600),
        ("Tesla V100-SXM2-16GB", 125, 900),
        ("Tesla T4", 65, 320),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA L40S", 362, 864),
        ("NVIDIA GeForce RTX 3090", 71, 936),
        ("NVIDIA GeForce RTX 4090", 165.2, 1008),
    ],
)
def test_data_sheets(name, half, bandwidth):
    card = find_card(name)
    assert (card.half, card.bandwidth) == (half, bandwidth)


@pytest.fixture
def products(monkeypatch):
    """All precisions at 20 TFLOP/s."""
    monkeypatch.setattr("benchmarks.gpu_check.machine.matmul_peak", lambda *_: 20e12)


def test_an_unknown_card_is_measured_without_a_data_sheet(bench, products):
    assert find_card("NVIDIA GeForce GTX 1080") is None
    outcome = check_matmul(bench)
    assert outcome.status == PASSED and outcome.seen == "fp16 20.0, bf16 20.0, fp32 20.0 TFLOP/s"


def test_a_card_far_from_its_data_sheet_fails(bench, products, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu_check.machine._card", lambda bench: find_card("Tesla T4"))
    outcome = check_matmul(bench)
    assert outcome.status == FAILED and outcome.advice.startswith("fp16, bf16: is another program")
    assert "fp16 20.0 (31% of 65)" in outcome.seen


def test_the_driver_is_read(tmp_path, monkeypatch):
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    assert driver_version(path) == "570.86.15"
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release\n")
    assert driver_version(path) == "570.86.15"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_version(tmp_path / "none") == "unknown"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.159.04\necho 580.159.04\n")
    tool.chmod(0o755)
    assert driver_version(tmp_path / "none") == "580.159.04"


def measured(model, rate, expected=0.0):
    return {
        "model": model,
        "samples_per_second": rate,
        "positions_per_second": 128 * rate,
        "expected": expected,
    }


def test_goals_are_beside_what_was_measured():
    assert paper_hours(163) == pytest.approx(20.07, abs=0.01)  # 94.2 million samples
    slow, fast = measured("12x768", 4000.0), measured("12x768", 5000.0, 2891.0)
    lines = list(goals("NVIDIA H100 80GB HBM3", [slow, fast, {"seen": "another check"}]))
    assert lines == [
        "12x768: 640,000 tokens/s; goal on an H100 or H200: 600,000 (reached)",
        "12x768: 5,000 samples/s, 173% of the expected",
    ]
    [_, line] = goals("NVIDIA GeForce RTX 3090", [measured("24x1024", 150.0, 163.0)])
    assert line.startswith("the paper's run on 8 of this card: 21.8 h") and "(missed)" in line
    assert list(goals("NVIDIA L4", [])) == []


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
    batch = synthetic_batch(num_samples=3)
    assert not is_pinned(batch) and len(list(tensors_in(batch))) >= 5
    outcome = check_data(bench)
    assert outcome.status == PASSED and "0 of 32 batches pinned" in outcome.seen


@pytest.mark.filterwarnings("ignore:called a synchronizing")  # of the steps that warm up
def test_waits_in_the_real_loop(bench, one_rank, monkeypatch):
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


@pytest.mark.parametrize("optimizer", numbers.OPTIMIZERS)
def test_an_overflow_in_fp16_is_survived(bench, one_rank, optimizer):
    outcome = numbers.check_overflow(bench, optimizer)
    assert outcome.status == PASSED, outcome


def test_a_run_that_is_resumed(bench, one_rank, monkeypatch):
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
    assert "why_not" in outcome.numbers["varlen packed"]  # flash attention is the GPU's
    with sdpa_kernel(SDPBackend.MATH):
        assert attention.timed(bench, attend)["ms"] > 0


def test_layers_with_each_sort_of_rows(bench):
    outcome = attention.check_layers(bench, 32)
    assert outcome.status == PASSED, outcome
    assert {"unpadded", "padded", "packed"} <= set(outcome.numbers)
    assert bool(attention.window_flags()) == ("window" in outcome.numbers)


# --- speed -------------------------------------------------------------------------------------


def test_the_idle_share_is_what_no_kernel_covers():
    assert idle_share([]) is None
    assert idle_share([(0, 4), (6, 10)]) == pytest.approx(0.2)
    assert idle_share([(6, 10), (0, 4), (1, 3), (3, 5)]) == pytest.approx(0.1)  # two streams
    assert idle_share([(0, 10), (2, 3)]) == 0


def test_the_engine_without_the_loop(bench, one_rank):
    engine = speed.new_engine(bench, speed.engine_args(bench, bench.scale.watched))
    speed.take_steps(engine, read_batches(bench.dataset, 4, 2))
    assert engine.global_steps == 2


def test_a_speed_beside_its_numbers(bench, one_rank):
    kept = {}
    outcome = speed.measure(bench, "1x64", 4, False, kept)
    again = speed.measure(bench, "1x64", 2, False, kept)  # by the same engine
    assert outcome.status == again.status == PASSED
    found = outcome.numbers
    assert found["positions_per_second"] == LENGTH * found["samples_per_second"] > 0
    assert (found["model"], found["micro_batch"], found["idle_share"]) == ("1x64", 4, None)
    assert again.numbers["micro_batch"] == 2


def test_a_micro_batch_that_does_not_fit_is_left_out(bench, one_rank, monkeypatch):
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


def test_the_loop_is_measured_behind_its_first_line(bench, one_rank, monkeypatch):
    monkeypatch.setattr(speed, "LINE_STEPS", 2)
    outcome = speed.check_loop(bench, 4)
    assert outcome.status == PASSED and outcome.numbers["samples_per_second"] > 0


def test_the_vocabulary_grows_to_berts(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    path = as_large_as_berts(tmp_path / "vocab.txt", tmp_path / "large" / "vocab.txt")
    words = Path(path).read_text().splitlines()
    assert words[:3] == ["[PAD]", "[UNK]", "word"] and len(set(words)) == VOCAB_SIZE


# --- main.py and ranks -------------------------------------------------------------------------


def main_run(code=0, gpu_bytes=0.0):
    return stages.MainRun(code, "said something", 1.0, gpu_bytes)


def test_a_run_that_leaves_the_gpu_alone_is_seen(bench, monkeypatch):
    assert stages.device_problem(bench, main_run()) == ""
    monkeypatch.setattr(Bench, "on_gpu", True)
    assert "it ran on the CPU" in stages.device_problem(bench, main_run(gpu_bytes=1e6))
    assert stages.device_problem(bench, main_run(gpu_bytes=5e8)) == ""


LINE = json.dumps({"kind": "train", "step": 1}) + "\n"
TRAINS = f"""
import pathlib, sys, time
time.sleep(0.3)
pathlib.Path(sys.argv[1]).write_text({LINE!r})
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("after", "counted"), [(0.0, 0.0), (5e8, 5e8)])
def test_memory_counts_from_the_first_step_on(bench, tmp_path, monkeypatch, after, counted):
    """Before it, main.py takes the GPU just to ask whether it works."""
    metrics = tmp_path / "metrics.jsonl"
    program = [sys.executable, "-c", TRAINS, str(metrics), "0.5"]
    monkeypatch.setattr(stages, "main_command", lambda *_: program)
    taken = iter([0.0])
    monkeypatch.setattr(stages, "_taken", lambda _: next(taken, after if metrics.exists() else 5e8))
    run = stages.run_main(bench, tmp_path / "x.yaml", "pretrain", stages.has_trained(metrics))
    assert (run.code, run.gpu_bytes) == (0, counted)


def test_a_run_is_ended_at_a_step(bench, tmp_path, monkeypatch):
    metrics = tmp_path / "metrics.jsonl"
    program = [sys.executable, "-c", TRAINS, str(metrics), "60"]
    monkeypatch.setattr(stages, "main_command", lambda *_: program)
    trains = stages.has_trained(metrics)
    run = stages.run_main(bench, tmp_path / "x.yaml", "pretrain", trains, ends=trains)
    assert run.code == -signal.SIGTERM and not stages.has_trained(metrics)()


@pytest.mark.parametrize(
    ("limit", "steps", "code", "status"),
    [
        (512, 6, 0, PASSED),
        (1024, 6, 0, FAILED),  # it fitted
        (512, 3, 0, FAILED),
        (512, 6, 3, FAILED),
    ],
)
def test_a_micro_batch_that_was_halved(tmp_path, limit, steps, code, status):
    (tmp_path / "micro_batch.json").write_text(json.dumps({"limit": limit}))
    lines = [json.dumps({"kind": "train", "step": step + 1}) + "\n" for step in range(steps)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert stages.judge_halving(tmp_path, 1024, main_run(code)).status == status


def test_ranks_are_found_by_their_folder(tmp_path):
    settings = {"output_dir": tmp_path / "run"}
    words = ["-c", "import time; time.sleep(60)", f"--output_dir={settings['output_dir']}"]
    started = [
        subprocess.Popen([sys.executable, *words], env={**os.environ, "RANK": rank})
        for rank in ("1", "0")
    ]
    launcher = subprocess.Popen([sys.executable, *words])  # has no rank
    try:
        while len(found := ranks.ranks_of(settings)) < 2:
            time.sleep(0.05)
        assert found == [started[1].pid, started[0].pid]
    finally:
        for process in (*started, launcher):
            process.kill()
            process.wait()
