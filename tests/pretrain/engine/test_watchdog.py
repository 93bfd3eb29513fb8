"""A rank that stands still writes its stacks, and the stage says so, once."""

import subprocess
from pathlib import Path

import pytest

from pipeline.runtime.processes import python_command, run_logged
from pretrain.engine import watchdog
from pretrain.engine.watchdog import Patience, SilenceReport

PROJECT = Path(__file__).resolve().parents[3]
RANK = """
import sys, time
from pretrain.engine import watchdog
from pretrain.engine.watchdog import Patience, stacks_when_silent
watchdog.REARM_SECONDS = 0.0
def stand_still(seconds):
    time.sleep(seconds)
rank, first, least, *waits = map(float, sys.argv[1:])
with stacks_when_silent(int(rank), Patience(first, least)) as alive:
    for seconds in waits:
        stand_still(seconds)
        alive()
"""


@pytest.fixture(autouse=True)
def project_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


def stacks_of(rank, first, *waits, least=0.2):
    words = python_command("-c", RANK, *map(str, (rank, first, least, *waits)))
    return subprocess.run(words, capture_output=True, text=True, check=True).stderr


@pytest.mark.slow
def test_a_rank_at_work_writes_nothing():
    assert stacks_of(0, 5.0, *[0.1] * 15, least=1.0) == ""


@pytest.mark.slow
def test_a_rank_that_stands_still_says_where_once():
    text = stacks_of(0, 5.0, 0.0, 0.0, 0.9)
    assert text.count("Timeout (") == 1
    assert "in stand_still" in text


@pytest.mark.slow
def test_the_first_line_has_the_rank():
    """Whole seconds of patience, and the rank on top: ranks write one after the other."""
    assert stacks_of(1, 0.0, 1.5).startswith("Timeout (0:00:01)!")


@pytest.mark.slow
def test_the_start_has_a_patience_of_its_own():
    assert "Timeout (" in stacks_of(0, 0.2, 0.6)
    assert Patience().seconds > Patience(first=0).least == watchdog.SILENT_LATER


def clock(monkeypatch):
    """Time that passes when the test says so."""
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return pass_


def test_patience_is_twice_the_longest_wait(monkeypatch):
    wait, patience = clock(monkeypatch), Patience(first=1200, least=600)
    wait(1100)
    patience.sign_of_life()
    assert patience.seconds == 600  # the start does not count
    for seconds, expected in ((5, 600), (300, 600), (301, 1200), (10, 1200), (700, 1800)):
        wait(seconds)
        patience.sign_of_life()
        assert patience.seconds == expected
    wait(2000)
    patience.sign_of_life()
    assert patience.seconds == watchdog.SILENT_AT_MOST  # torch would not wait for twice as long


def test_the_stage_tells_of_silence_once_and_of_its_end(tmp_path, monkeypatch):
    errors, said = tmp_path / "x.err", []
    errors.write_text("Timeout (0:10:00)!\nof an earlier run\n")
    wait = clock(monkeypatch)
    report = SilenceReport(errors, said.append, Patience(first=1200, least=600))
    report.sign_of_life()
    wait(650)
    report.look()
    assert said == []  # the ranks may still be writing
    with open(errors, "a") as file:
        file.write("Timeout (0:10:00)!\n")
    wait(20)
    for _ in range(3):
        report.look()
    assert said == [
        f"no sign of life from training for 11 min; the stacks of the ranks are in {errors}"
    ]
    wait(600)
    report.sign_of_life()
    assert said[1:] == ["training has resumed after 21 min"]
    wait(10000)
    report.look()
    assert said[2].endswith("no rank has written its stacks; the processes may be suspended")


STALLED_RANK = """
import sys, time
from pathlib import Path
from pretrain.engine.watchdog import Patience, stacks_when_silent
def stand_still(end):
    while not end.exists():
        time.sleep(0.01)
with stacks_when_silent(0, Patience(0.1, 0.1)) as alive:
    stand_still(Path(sys.argv[1]))
    print("@progress", flush=True)
"""


def test_a_stall_is_heard_of_while_the_ranks_say_nothing(tmp_path, monkeypatch):
    """The whole way: a process that stands still, its log, and the one who waits for its lines.

    The process stands still until it is told of, so that it does not matter how long that takes.
    """
    monkeypatch.setattr(watchdog, "TO_WRITE_STACKS", 0.0)
    monkeypatch.setattr("pipeline.runtime.processes.IDLE_SECONDS", 0.05)
    log, end, said = tmp_path / "x.log", tmp_path / "end", []
    errors = log.with_suffix(".err")

    def tell(text):
        said.append(text)
        end.touch()

    def look():
        # Its end, once it may go on, can be silent for longer than the patience, too.
        if "in stand_still" in errors.read_text() and not end.exists():
            report.look()

    report = SilenceReport(errors, tell, Patience(0.1, 0.1))
    command = python_command("-c", STALLED_RANK, str(end))
    code = run_logged(command, log, on_line=lambda line: report.sign_of_life(), on_idle=look)
    assert code == 0
    silence, over = said
    assert "the stacks of the ranks are in" in silence and over.startswith("training has resumed")
