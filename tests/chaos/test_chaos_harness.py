"""The parts of the chaos harness: what it injects, what it sees, what it leaves alone."""

import errno
import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tests.chaos.campaign import append_result, figures, problem_with, read_results, schedule
from tests.chaos.comparison import differences, outcome
from tests.chaos.episode import Result, remedy_in
from tests.chaos.faults import KINDS, pick, unclear
from tests.chaos.pipeline_folder import STAGES, stage_at, write_inputs
from tests.chaos.processes import INJECT, MARK, PLAN, End, marked, role_in, send

# Writes two files as the pipeline does, and deletes a folder.
CHILD = """
import os, shutil, sys
from pipeline.store.atomic_files import write_text
from pathlib import Path
root = Path(sys.argv[1])
for name in ("first", "second"):
    write_text(root / "data" / name, name)
    print(name, flush=True)
(root / "data" / "scratch").mkdir()
(root / "data" / "scratch" / "file").write_bytes(b"")
shutil.rmtree(root / "data" / "scratch")
"""


def run_child(root: Path, **plan) -> subprocess.CompletedProcess:
    places = {"root": str(root), "fired": str(root.parent / "fired")}
    environment = os.environ | {PLAN: json.dumps(places | plan), "PYTHONPATH": f"{INJECT}:."}
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root)],
        cwd=INJECT.parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_every_change_below_the_root_is_a_point(tmp_path):
    root = tmp_path / "root"
    assert run_child(root, do="record", file=str(tmp_path / "points")).returncode == 0
    points = [json.loads(line) for line in (tmp_path / "points").read_text().splitlines()]
    assert points[-4:] == [
        ["os.mkdir data/scratch", 1],
        ["open data/scratch/file", 1],
        ["os.remove data/scratch/file", 1],
        ["os.rmdir data/scratch", 1],
    ]
    assert ["open data/.second.*.tmp", 1] in points and ["os.rename data/second", 1] in points


def test_a_signal_comes_just_before_the_change(tmp_path):
    moment = ["os.rename data/second", 1]
    killed = run_child(tmp_path / "root", do="signal", moment=moment, signal=9, to="self")
    assert killed.returncode == -signal.SIGKILL and killed.stdout == "first\n"
    left = sorted(path.name for path in (tmp_path / "root" / "data").iterdir())
    assert left[0].startswith(".second.") and left[1:] == ["first"]
    assert "-c" in (tmp_path / "fired").read_text()
    # Once in a run: the same command again is left alone.
    again = run_child(tmp_path / "root", do="signal", moment=moment, signal=9, to="self")
    assert again.returncode == 0


@pytest.mark.parametrize("lasting", [False, True])
def test_a_change_fails_with_the_error_of_a_disk(tmp_path, lasting):
    moment = ["open data/.second.*.tmp", 1]
    plan = {"do": "fail", "moment": moment, "errno": errno.ENOSPC, "lasting": lasting}
    failed = run_child(tmp_path / "root", **plan)
    assert "OSError: [Errno 28] No space left on device" in failed.stderr
    assert failed.stdout == "first\n"
    assert (run_child(tmp_path / "root", **plan).returncode == 0) != lasting


def test_the_clock_is_set_back_from_some_look_on(tmp_path):
    child = "import time; print(time.time(), time.time(), time.time_ns() / 1e9)"
    plan = {"do": "set_clock_back", "look": 2, "seconds": 3600, "fired": str(tmp_path / "fired")}
    printed = subprocess.run(
        [sys.executable, "-c", child],
        env=os.environ | {PLAN: json.dumps(plan), "PYTHONPATH": str(INJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third = map(float, printed.stdout.split())
    assert first - second == pytest.approx(3600, abs=1) and third - second < 1


def test_only_marked_processes_are_seen_and_signalled():
    child = [sys.executable, "-c", "input()"]
    ours = subprocess.Popen(child, stdin=subprocess.PIPE, env=os.environ | {MARK: "mine.1."})
    other = subprocess.Popen(child, stdin=subprocess.PIPE, env=os.environ | {MARK: "mine.11."})
    try:
        while not marked("mine.1."):
            assert ours.poll() is None
        assert marked("mine.1.") == [ours.pid]
        assert not send(other.pid, "mine.1.", signal.SIGKILL)
        assert send(ours.pid, "mine.1.", signal.SIGKILL) and ours.wait() == -signal.SIGKILL
        assert not send(ours.pid, "mine.1.", signal.SIGKILL) and other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_process_is_told_by_its_command_line():
    launch = "python -u -m deepspeed.launcher.launch pretrain/run_pretraining.py"
    assert role_in(launch) == "launcher"
    assert role_in("python -u pretrain/run_pretraining.py --local_rank=0") == "rank"
    assert role_in("python -c from multiprocessing.spawn import spawn_main") == "worker"
    assert role_in("python -c from multiprocessing.resource_tracker import main") == ""


def test_whose_a_path_is():
    assert stage_at("data") == stage_at("tmp/dataset/x/runs") == stage_at("log/dataset/x.log")
    assert stage_at("saved_models/pretrain/x") == stage_at("log/pretrain/x/y.log") == "pretrain"
    assert stage_at("data2/x") == stage_at("log") == ""


# --- what is compared --------------------------------------------------------------------------


def make_root(root: Path, **files: str) -> dict[str, str]:
    for name, text in files.items():
        path = root / "data" / "x" / name.replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return outcome(root)


def test_times_do_not_count_and_everything_else_does(tmp_path):
    record = '{"loss": 1.5, "inner": [{"seconds": %s}]}'
    expected = make_root(tmp_path / "a", a_json=record % 1, b_hdf5="abc")
    assert differences(expected, make_root(tmp_path / "b", a_json=record % 2, b_hdf5="abc")) == []
    other = make_root(tmp_path / "c", a_json=record.replace("1.5", "1.6") % 1, c_hdf5="abc")
    assert differences(expected, other) == [
        "differs: data/x/a.json",
        "is missing: data/x/b.hdf5",
        "is left over: data/x/c.hdf5",
    ]
    cut = make_root(tmp_path / "d", a_json=record[:9], b_hdf5="abc")
    assert differences(expected, cut) == ["differs: data/x/a.json"]


def test_logs_may_differ_and_what_is_half_made_may_not_stay(tmp_path):
    expected = make_root(tmp_path, b_hdf5="abc")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.log").write_text("at 12:00")
    (tmp_path / "data" / "x" / "curve.png").write_bytes(b"1")
    (tmp_path / "data" / ".x.heartbeat.tmp").write_text("")
    assert differences(expected, outcome(tmp_path)) == []
    (tmp_path / "tmp" / "y").mkdir(parents=True)
    (tmp_path / "tmp" / "y" / ".a.0123456789ab.tmp").write_text("")
    assert differences(expected, outcome(tmp_path)) == ["is left over: tmp/y/.a.0123456789ab.tmp"]


def test_how_a_run_may_end():
    assert not unclear(End(0, ""))
    assert not unclear(End(3, "x\ndataset failed: no space\nlog: root/log/a.log\n"))
    assert not unclear(End(2, "DATASET.ID: is wrong\n"))
    interrupted = "interrupted; the same command goes on from here\n"
    assert not unclear(End(130, f"{interrupted}Traceback (most recent call last): of a worker"))
    assert unclear(End(130, "Traceback (most recent call last):\nKeyboardInterrupt"))
    assert not unclear(End(-9, ""), killed_by=9)
    assert unclear(End(-9, "")) and unclear(End(1, "Traceback ...\nOSError: x"))
    assert unclear(End(3, "dataset failed: no space\nTraceback (most recent call last):\n"))


def test_it_does_what_an_error_says_and_deletes_nothing_outside(tmp_path):
    (tmp_path / "root").mkdir()
    for name in ("root/shard", "text"):
        (tmp_path / name).write_text("")
    said = "pretrain failed: %s: damaged; delete it and run again"
    assert remedy_in(End(3, said % "root/shard"), tmp_path) == []
    assert remedy_in(End(3, said % "root/../text"), tmp_path) is None
    assert not (tmp_path / "root/shard").exists() and (tmp_path / "text").exists()
    forced = End(3, "finetune failed: a is damaged; redo it with --force finetune")
    assert remedy_in(forced, tmp_path) == ["--force", "finetune"]


# --- a campaign ----------------------------------------------------------------------------------


def test_in_four_rounds_every_kind_meets_every_stage_once():
    faults = [*islice(schedule(5), len(KINDS) * len(STAGES))]
    assert {(fault.kind, fault.stage) for fault in faults} == {
        (kind, stage) for kind in KINDS for stage in STAGES
    }
    assert [fault.number for fault in faults] == [*range(1, len(faults) + 1)]
    assert faults == [*islice(schedule(5), len(faults))] != [*islice(schedule(6), len(faults))]
    assert {fault.kind for fault in faults[: len(KINDS)]} == set(KINDS)


def test_results_are_kept_and_counted(tmp_path):
    file = tmp_path / "results"
    results = [
        Result(1, "dataset", "kill", "at once", "survived", "", 1.0, [1]),
        Result(2, "dataset", "kill", "later", "failed", "it hangs", 1.0, [2]),
        Result(3, "pretrain", "missing", "a file", "clear error", "", 1.0, [3]),
    ]
    for result in results:
        append_result(file, result)
    with open(file, "a") as cut_off:
        cut_off.write('{"number": 4')
    assert read_results(file) == results
    assert "1 of 2, 1 failed" in figures(results)
    assert figures(results).endswith("3 faults: 1 survived, 1 clear error, 1 failed, 0 skipped")


def test_a_folder_with_other_things_is_no_work_directory(tmp_path):
    assert not problem_with(tmp_path) and not problem_with(tmp_path / "new")
    (tmp_path / "mine").write_text("")
    assert "holds other things" in problem_with(tmp_path)
    (tmp_path / "code").write_text("of last week")
    assert "other code" in problem_with(tmp_path)


def test_kinds_of_things_are_equally_likely():
    things = [*(f"train_{number}.hdf5" for number in range(99)), "manifest.json"]
    drawn = [pick(things, Random(seed)) for seed in range(40)]
    assert 10 < drawn.count("manifest.json") < 30


def test_the_inputs_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_inputs(tmp_path / name)
    files = sorted((tmp_path / "a").rglob("*.*"))
    assert len(files) == 6
    for path in files:
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == other.read_bytes()
