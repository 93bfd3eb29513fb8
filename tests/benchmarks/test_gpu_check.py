"""The GPU check, without a GPU."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import ranks, stages
from benchmarks.gpu_check.bench import REHEARSAL, Bench
from benchmarks.gpu_check.cards import find_card
from benchmarks.gpu_check.goals import goals, paper_hours
from benchmarks.gpu_check.machine import check_matmul
from benchmarks.gpu_check.outcome import FAILED, PASSED, SKIPPED, judged
from benchmarks.gpu_check.sections import SECTIONS
from benchmarks.gpu_check.worker import Section, outcomes_of, run_check, run_section
from pipeline.store.record_files import read_json
from pretrain.engine.interrupts import Interrupted
from tests.benchmarks.processes import await_end

CPU = torch.device("cpu")


# --- sections ----------------------------------------------------------------------------------


def test_without_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "no GPU to check: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("too\nbad"), SystemExit("too\nbad")])
def test_what_a_check_raises_is_its_failure_and_the_others_go_on(error, bench):
    def broken():
        raise error

    checks = iter([("first", broken), ("second", lambda: judged("fine", number=1.5))])
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
    [(_, outcome)] = outcomes_of(iter([("late", lambda: judged("fine"))]), late)
    assert outcome.status == SKIPPED and "time was over" in outcome.seen


@pytest.fixture
def forked(monkeypatch):
    """Forks sections, which start at once; a new process would import torch for seconds."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: get_context("fork"))


@pytest.mark.slow
def test_a_section_that_hangs_is_killed_with_all_that_it_started(forked, tmp_path):
    child = tmp_path / "child"

    def hang():
        os.write(1, b"about to hang\n")  # as a library would, past sys.stdout
        child.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)

    section = Section("", 0, lambda bench: iter([("good", lambda: judged("fine")), ("bad", hang)]))
    begin = time.monotonic()
    outcomes = dict(run_section("hangs", section, tmp_path, 3.0, rehearses=True))
    assert time.monotonic() - begin < 10
    assert outcomes["good"].status == PASSED  # the results so far are kept
    assert outcomes["hangs"].seen == "killed: its time was over"
    assert outcomes["hangs"].numbers["log"] == ["about to hang"]
    await_end(int(child.read_text()))


def test_a_section_that_dies_is_a_failure(forked, tmp_path):
    section = Section("", 0, lambda bench: iter([("bad", lambda: os._exit(3))]))
    [(name, outcome)] = run_section("dies", section, tmp_path, 20.0, rehearses=True)
    assert (name, outcome.status) == ("dies", FAILED) and "exit code 3" in outcome.seen


@pytest.mark.slow
def test_the_report_is_there_after_each_check(forked, tmp_path, capsys):
    report, seen = tmp_path / "report.json", tmp_path / "seen.json"

    def first(bench):
        yield "one", lambda: judged("fine")

    def second(bench):
        yield "two", lambda: judged("slow", "buy a faster one", speed=2.0)
        seen.write_text(report.read_text())  # the state after a kill

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


@pytest.mark.slow
@pytest.mark.parametrize(("outcome", "code"), [(judged("fine"), 0), (judged("bad", "mend"), 1)])
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
    """With several GPUs, the last section gets the remaining time."""
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


@pytest.mark.slow
@pytest.mark.parametrize(("after", "counted"), [(0.0, 0.0), (5e8, 5e8)])
def test_memory_counts_from_the_first_step_on(bench, tmp_path, monkeypatch, after, counted):
    """Before it, main.py uses the GPU just for a test."""
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
