"""Child processes: logged, ended with their parent, and with errors reported."""

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

PARENT_VARIABLE = "EXTREMEBERT_PARENT_PID"
PR_SET_PDEATHSIG = 1  # prctl(2): the signal for a child when its parent ends
IDLE_SECONDS = 5.0
KILL_SECONDS = 20.0  # for the system to remove killed processes
BLOCK_BYTES = 1 << 16


def this_process() -> str:
    """Returns `process 123 on server`, for other servers on a shared file system."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the parent's thread that started it ends.

    parent: its process id; if it has died already, this process exits at once.
    """
    _prctl()(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def exit_with_parent(poll_seconds: float = 1.0) -> None:
    """Kills this process soon after the caller of `run_logged` has ended.

    For grandchildren too, started by a launcher: the caller is named in the environment. Does
    nothing without it.
    """
    if PARENT_VARIABLE in os.environ:
        caller = int(os.environ[PARENT_VARIABLE])
        if _start_time(caller) is None:  # ended while this process was starting
            os._exit(1)
        end_with(caller, signal.SIGKILL, poll_seconds)


def end_with(process: int, number: signal.Signals, poll_seconds: float = 1.0) -> None:
    """Sends this process a signal when another process, parent or not, has ended."""
    started = _start_time(process)
    if started is None:  # ended already, or in another container
        return

    def watch() -> None:
        while _start_time(process) == started:
            time.sleep(poll_seconds)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="end_with", daemon=True).start()


def parent_of(process: int) -> int:
    """Returns a process's parent, 0 if unknown."""
    fields = _stat(process)
    return int(fields[1]) if fields else 0


def _prctl() -> Callable[..., int]:
    """Returns prctl(2); look it up before a fork."""
    return ctypes.CDLL(None).prctl


def _start_time(pid: int) -> str | None:
    """Returns a process's start in clock ticks since boot, to recognise a reused pid."""
    fields = _stat(pid)
    return None if not fields or fields[0] == "Z" else fields[19]


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat from the state on (proc(5)), [] without the process."""
    return text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def text_of(path: Path) -> str:
    """Returns the content of a file, such as one of /proc; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- long-running commands ---------------------------------------------------------------------


def run_logged(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] = {},
    on_line: Callable[[str], None] = lambda line: None,
    patience_seconds: float = 20.0,
    on_idle: Callable[[], None] = lambda: None,
    inherited: Sequence[IO] = (),
    workers: Callable[[int], Sequence[int]] = lambda child: (),
) -> int:
    """Runs a command and returns its exit code.

    Appends stdout to `log` and calls `on_line` for each line; appends stderr to the same name with
    `.err`. Calls `on_idle` after each IDLE_SECONDS without output. If this process is interrupted,
    terminates the child and its children first, and kills them after `patience_seconds` without
    output.

    inherited: files kept open in the children, even if this process is killed. workers: returns,
    for the child's pid, the processes to terminate if the child would not wait for them; if there
    are none, all are terminated.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    prctl = _prctl()
    child_environment = {**os.environ, **environment, PARENT_VARIABLE: str(os.getpid())}
    with open(log, "ab", 0) as out, open(log.with_suffix(".err"), "ab") as err:
        _log(out, f"$ {' '.join(command)}\n".encode(errors="backslashreplace"))
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=err,
            env=child_environment,
            start_new_session=True,
            pass_fds=[file.fileno() for file in inherited],
            # DeepSpeed's launcher then ends its ranks on other servers: they cannot see us.
            preexec_fn=partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        assert child.stdout
        pipe = child.stdout.fileno()
        try:
            for line in _lines(_blocks(pipe, on_idle), out):
                on_line(line.decode("utf-8", errors="replace"))
            return child.wait()
        finally:
            if child.poll() is None:
                os.set_blocking(pipe, False)  # grandchildren may keep the other end open
                _terminate(child, workers(child.pid), patience_seconds, out)


def _log(out: BinaryIO, block: bytes) -> None:
    """Ignores errors: a full disk under the log must not end hours of work."""
    with suppress(OSError):
        out.write(block)


def _blocks(pipe: int, on_idle: Callable[[], None]) -> Iterator[bytes]:
    """Yields output as it arrives, until all writers of the pipe have ended."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(IDLE_SECONDS):
                on_idle()
            elif block := os.read(pipe, BLOCK_BYTES):
                yield block
            else:
                return


def _lines(blocks: Iterator[bytes], out: BinaryIO) -> Iterator[bytes]:
    """Copies blocks to `out` and yields their lines, without line ends."""
    begun = b""
    for block in blocks:
        _log(out, block)
        *lines, begun = (begun + block).split(b"\n")
        yield from lines
    if begun:
        yield begun


def _terminate(
    child: subprocess.Popen, workers: Sequence[int], patience_seconds: float, out: BinaryIO
) -> None:
    """Sends SIGTERM to the workers or the child's process group, after silence SIGKILL to all.

    Copies their output to `out`.
    """
    for target in workers or [-child.pid]:  # a negative pid is a process group
        with suppress(ProcessLookupError):
            os.kill(target, signal.SIGTERM)
    if not _has_ended(child, patience_seconds, out):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        _has_ended(child, KILL_SECONDS, out)


def _has_ended(child: subprocess.Popen, patience_seconds: float, out: BinaryIO) -> bool:
    """Waits for the child's process group; False after so long without output."""
    assert child.stdout
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        child.poll()
        alive = _group_is_alive(child.pid)
        if said := child.stdout.read():
            _log(out, said)
            end = time.monotonic() + patience_seconds
        if not alive:
            return True
        time.sleep(0.05)
    return False


def _group_is_alive(group: int) -> bool:
    """True if a process of the group runs; zombies do not count."""
    processes = (_stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*"))
    return any(fields and int(fields[2]) == group and fields[0] != "Z" for fields in processes)


# --- short commands ----------------------------------------------------------------------------


def answer(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] = {},
    folder: Path | None = None,
) -> subprocess.CompletedProcess:
    """Returns the exit code and the output, as text, of a short program.

    Raises subprocess.TimeoutExpired after `seconds`, OSError if the program cannot be run. Unlike
    `subprocess.run`, does not wait for a killed program: one that hangs in a driver does not end.
    folder: its working directory.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        encoding="utf-8",
        errors="replace",
    )
    assert child.stdout and child.stderr
    with child.stdout, child.stderr:
        try:
            out, err = child.communicate(timeout=seconds)
        finally:
            child.kill()
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def python_command(*arguments: str) -> list[str]:
    """Returns a command line for the present Python."""
    return [sys.executable, *arguments]
