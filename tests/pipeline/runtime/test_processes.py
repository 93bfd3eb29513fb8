"""Children are logged, their failure is seen, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.executor import local_pool, run_unordered
from pipeline.runtime.processes import python_command, run_logged

PROJECT = Path(__file__).resolve().parent.parent.parent.parent


def test_output_reaches_log_and_caller(tmp_path):
    lines = []
    script = "import sys; print('one'); print('two'); print('bad', file=sys.stderr); sys.exit(5)"
    log = tmp_path / "deep" / "child.log"
    code = run_logged(python_command("-c", script), log, on_line=lines.append)
    assert code == 5
    assert lines == ["one", "two"]
    assert "two" in log.read_text()
    assert log.with_suffix(".err").read_text() == "bad\n"


def test_environment_is_added(tmp_path):
    lines = []
    script = "import os; print(os.environ['SOME_VALUE'])"
    run_logged(python_command("-c", script), tmp_path / "a.log", {"SOME_VALUE": "7"}, lines.append)
    assert lines == ["7"]


def wait_until_gone(pid: int, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


SLEEPER = """
import os, time
from pipeline.runtime.processes import exit_with_parent
exit_with_parent(0.1)
print(os.getpid(), flush=True)
time.sleep(60)
"""

LAUNCHER = """
import subprocess, sys
subprocess.run([sys.executable, sys.argv[1]])
"""

PARENT = """
import sys
from pathlib import Path
from pipeline.runtime.processes import python_command, run_logged
log = Path(sys.argv[1])
run_logged(python_command(*sys.argv[2:]), log, on_line=lambda line: print(line, flush=True))
"""


def start(folder: Path, *child: str) -> tuple[subprocess.Popen, int]:
    """Starts a parent that runs the child scripts; returns it and the last child's pid."""
    scripts = {"sleeper.py": SLEEPER, "launcher.py": LAUNCHER, "parent.py": PARENT}
    for name, script in scripts.items():
        (folder / name).write_text(script)
    parent = subprocess.Popen(
        [sys.executable, "parent.py", "child.log", *child],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    return parent, int(parent.stdout.readline())


def test_grandchild_dies_with_the_killed_parent(tmp_path):
    parent, grandchild = start(tmp_path, "launcher.py", "sleeper.py")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(grandchild)


def test_interrupted_parent_ends_its_child(tmp_path):
    parent, child = start(tmp_path, "sleeper.py")
    parent.send_signal(signal.SIGINT)
    parent.wait()
    assert wait_until_gone(child)


SAVER = """
import os, signal, time
from pathlib import Path
from pipeline.runtime.processes import exit_with_parent
exit_with_parent(0.1)
def save(*_):
    time.sleep(1.0)
    Path("saved").write_text("all")
    print("saved", flush=True)
    raise SystemExit(0)
signal.signal(signal.SIGTERM, save)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_an_interrupted_parent_lets_its_grandchild_save(tmp_path):
    (tmp_path / "saver.py").write_text(SAVER)
    parent, grandchild = start(tmp_path, "launcher.py", "saver.py")
    parent.send_signal(signal.SIGINT)  # the launcher dies of SIGTERM at once
    parent.wait()
    assert wait_until_gone(grandchild, 0.1)
    assert (tmp_path / "saved").read_text() == "all"
    assert (tmp_path / "child.log").read_text().endswith("saved\n")


IMPATIENT_LAUNCHER = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
def kill(*_):
    child.kill()
    sys.exit(1)
signal.signal(signal.SIGTERM, kill)
child.wait()
"""
SLOW_SAVER = """
import os, signal, time
def save(*_):
    for number in range(6):
        print("saving", flush=True)
        time.sleep(0.2)
    print("saved", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("of_the_child", [True, False])
def test_workers_save_as_long_as_they_say_so(tmp_path, of_the_child):
    """Longer than the patience, where they are asked and the launcher that kills them is not."""

    def on_line(line):
        if line == "ready":
            raise InterruptedError

    def workers(launcher):
        return [child.pid for child in psutil.Process(launcher).children() if of_the_child]

    command = python_command("-c", IMPATIENT_LAUNCHER, SLOW_SAVER)
    log = tmp_path / "x.log"
    with pytest.raises(InterruptedError):
        run_logged(command, log, on_line=on_line, patience_seconds=0.8, workers=workers)
    assert ("saved" in log.read_text().splitlines()) == of_the_child


def test_pool_runs_all_jobs():
    with local_pool(2) as pool:
        assert dict(run_unordered(pool, abs, [-1, -2, -3])) == {-1: 1, -2: 2, -3: 3}
