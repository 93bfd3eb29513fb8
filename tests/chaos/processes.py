"""One call of the pipeline's command, and all the processes that come of it.

They are told by a mark in their environment, so that no other process is ever looked at.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
INJECT = Path(__file__).resolve().parent / "inject"
MARK, PLAN = "EXTREMEBERT_CHAOS_RUN", "EXTREMEBERT_CHAOS_PLAN"
POLL_SECONDS = 0.02
# The first word that a command line has tells the process's role; "" is a helper of Python's own.
ROLES = {
    "resource_tracker": "",
    "spawn_main": "worker",
    "deepspeed.launcher": "launcher",
    "run_pretraining.py": "rank",
    "main.py": "parent",
}


@dataclass(frozen=True)
class End:
    """code: exit code, negative for the signal that it died of; text: all that it printed."""

    code: int
    text: str

    @property
    def last_words(self) -> str:
        """The last line that says something."""
        lines = [line for line in self.text.splitlines() if line and not line.startswith("log: ")]
        return lines[-1] if lines else "nothing was printed"


class StillRunning(Exception):
    """A run has not ended, or come to where it was to come, in the time that it was given."""


class PipelineRun:
    """The command, started in a folder with `config.yaml`, in a session of its own.

    mark: of all its processes. output: the file that takes what it prints. seconds: after which it
    counts as hanging; whoever waits for it then gets StillRunning. plan: for
    inject/sitecustomize.py. wrapper: words before the command. arguments: words after it.
    """

    def __init__(
        self,
        folder: Path,
        mark: str,
        output: Path,
        seconds: float,
        plan: Mapping[str, Any] | None = None,
        wrapper: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ):
        self.mark, self.output = mark, output
        self.seconds, self.deadline = seconds, time.monotonic() + seconds
        command = [sys.executable, str(PROJECT / "main.py"), "--config", "config.yaml"]
        with open(output, "wb") as file:
            self.process = subprocess.Popen(
                [*wrapper, *command, "--output-root", "root", *arguments],
                cwd=folder,
                env=_environment(mark, plan),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def comes_to(self, stage: str) -> bool:
        """Waits until it begins a stage; False if it ended before."""
        while f"{stage}: running" not in self.text:
            if self._ends_within(POLL_SECONDS):
                return False
        return True

    def sleep(self, seconds: float) -> None:
        """Waits, at most until it ends."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def find(self, role: str) -> list[int]:
        """Its processes of a role, as soon as there are any; none if it ended before."""
        while not (found := [pid for pid in marked(self.mark) if role_of(pid) == role]):
            if self._ends_within(POLL_SECONDS):
                return []
        return found

    def send_to_group(self, number: signal.Signals) -> bool:
        """As Ctrl-C in a terminal: to all but the ranks, which have a group of their own."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.returncode is None

    def end(self) -> End:
        """Waits for it."""
        while not self._ends_within(1.0):
            pass
        return End(self.process.returncode, self.text)

    def _ends_within(self, seconds: float) -> bool:
        """Waits for its end, but no longer than this."""
        self.sleep(seconds)
        ended = self.process.poll() is not None
        if not ended and time.monotonic() > self.deadline:
            raise StillRunning(f"it still runs after {self.seconds:.0f} s")
        return ended


def _environment(mark: str, plan: Mapping[str, Any] | None) -> dict[str, str]:
    """One thread: more would only get in each other's way on models of this size."""
    mine = {MARK: mark, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if plan:
        mine |= {PLAN: json.dumps(plan), "PYTHONPATH": str(INJECT)}
    return {**os.environ, **mine}


# --- processes by their mark -----------------------------------------------------------------


def marked(mark: str) -> list[int]:
    """The running processes whose mark begins like this."""
    found = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [pid for pid in found if _has_mark(pid, mark)]


def _has_mark(pid: int, mark: str) -> bool:
    with suppress(OSError):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return any(word.startswith(f"{MARK}={mark}".encode()) for word in variables)
    return False


def role_of(pid: int) -> str:
    with suppress(OSError):
        return role_in(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
    return ""


def role_in(command_line: str) -> str:
    return next((role for word, role in ROLES.items() if word in command_line), "")


def send(pid: int, mark: str, number: signal.Signals) -> bool:
    """Sends a signal to a marked process; False if it is gone. Another of its number is safe."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _has_mark(pid, mark):
            return False
        signal.pidfd_send_signal(process, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(process)


def wait_until_gone(mark: str, seconds: float) -> list[int]:
    """The marked processes that are still there after so long."""
    deadline = time.monotonic() + seconds
    while (found := marked(mark)) and time.monotonic() < deadline:
        time.sleep(5 * POLL_SECONDS)
    return found


def end_all(mark: str) -> None:
    """Kills all marked processes, those too that one of them is just starting."""
    deadline = time.monotonic() + 10.0
    while (found := marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            send(pid, mark, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
