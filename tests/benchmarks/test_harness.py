"""Contestants take turns, each in its own process."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks.harness import (
    PROJECT,
    Contestant,
    Ended,
    Spread,
    ratio,
    run_command,
    started,
    take_turns,
    write_numbers,
)
from pipeline.runtime.processes import parent_of
from pretrain.kernels.cpu_settings import SPIN_COUNT
from tests.benchmarks.processes import await_end


def note(report, name, path):
    number = 0
    while True:
        report((name, number))
        number += 1
        with open(path, "a") as file:
            file.write(f"{name}{number} ")


def tell_settings(report):
    names = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    report([os.environ.get(name) for name in names])


def fail(report):
    report(None)
    sys.exit(3)


def hang(report):
    print("about to hang", flush=True)
    time.sleep(60)


def test_turns_are_taken_in_order(tmp_path):
    path = tmp_path / "order"
    found = take_turns({name: Contestant(note, name, path) for name in "ab"}, 2)
    assert found == {name: [(name, 2), (name, 3)] for name in "ab"}  # after a warm-up
    assert path.read_text().split() == ["a1", "b1", "a2", "b2", "a3", "b3"]


@pytest.mark.parametrize(
    ("threads", "expected"), [(2, [str(SPIN_COUNT), "2", None]), (0, [None] * 3)]
)
def test_contestants_get_the_settings_of_a_real_run(threads, expected, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    contestant = Contestant(tell_settings, threads=threads)
    assert contestant.await_report() == expected
    contestant.finish()
    assert "GOMP_SPINCOUNT" not in os.environ  # this process keeps its own


def test_one_that_fails_ends_the_turns():
    with pytest.raises(SystemExit, match="exit code 3"):
        take_turns({"bad": Contestant(fail)}, 2)
    contestant = Contestant(fail)
    contestant.await_report()
    with pytest.raises(Ended, match="exit code 3"):
        contestant.finish()


def test_one_that_hangs_is_killed(tmp_path):
    log = tmp_path / "log"
    contestant = Contestant(hang, log=log)
    while not (log.exists() and log.read_text()):
        with pytest.raises(TimeoutError):
            contestant.await_report(0.1)
    contestant.kill()
    assert log.read_text() == "about to hang\n"


def test_numbers_have_a_spread(tmp_path):
    times = ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
    assert times == Spread(2.0, 1.0, 3.0) and f"{times:.1f}" == "2.0 (1.0-3.0)"
    write_numbers(tmp_path / "numbers.json", {"times": times})
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert found == {"times": {"median": 2.0, "low": 1.0, "high": 3.0}}
    write_numbers(None, {})


def test_a_command_is_measured(tmp_path):
    done = run_command([sys.executable, "-c", "print(sum(range(10**6)))"], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "499999500000\n"
    assert done.wall > 0 and done.cpu > 0 and done.peak_bytes > 0
    with pytest.raises(SystemExit, match=r"(?s)exit code 1: .*oops"):
        run_command([sys.executable, "-c", "raise ValueError('oops')"], tmp_path / "log")


BENCHMARK = """
import sys
from pathlib import Path
from benchmarks.harness import run_command
run_command([sys.executable, *sys.argv[2:]], Path(sys.argv[1]))
"""
# Starts a process in a session of its own, which watches the benchmark as a rank does.
LAUNCHER = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True).pid, flush=True)
time.sleep(60)
"""
RANK = """
import time
from pipeline.runtime.processes import exit_with_parent
time.sleep({startup})
exit_with_parent(0.1)
time.sleep(60)
"""


def rank_in(log):
    while not (log.exists() and log.read_text().endswith("\n")):
        time.sleep(0.05)
    return int(log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("startup", [0, 2], ids=["runs", "starts"])
def test_a_command_ends_with_a_killed_benchmark(startup, tmp_path):
    log = tmp_path / "log"
    words = ["-c", BENCHMARK, log, "-c", LAUNCHER, RANK.format(startup=startup)]
    benchmark = subprocess.Popen([sys.executable, *words], cwd=PROJECT)
    rank = rank_in(log)
    launcher = parent_of(rank)
    benchmark.kill()
    benchmark.wait()
    await_end(launcher)
    await_end(rank)


def test_a_command_ends_with_its_descendants(tmp_path):
    with started([sys.executable, "-c", LAUNCHER, RANK.format(startup=60)], tmp_path / "log"):
        rank = rank_in(tmp_path / "log")
    await_end(rank)
