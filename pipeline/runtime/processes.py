"""Child processes that are logged, never outlive their parent and never fail unnoticed."""

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
PR_SET_PDEATHSIG = 1  # of prctl(2): a signal that the kernel sends a child when its parent ends
IDLE_SECONDS = 5.0
BLOCK_BYTES = 1 << 16


def this_process() -> str:
    """`process 123 on server`, as others read it who share the file system."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process as soon as its parent ends, or the parent's thread that has
    started it. parent: told by itself, as it may have died already."""
    _prctl()(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def exit_with_parent(poll_seconds: float = 1.0) -> None:
    """Ends this process soon after the process that `run_logged` was called in has gone.

    Called by grandchildren too (a launcher may stand in between), so the process to follow is
    named in the environment. Without it nobody is followed.
    """
    if PARENT_VARIABLE in os.environ:
        end_with(int(os.environ[PARENT_VARIABLE]), signal.SIGKILL, poll_seconds)


def end_with(process: int, number: signal.Signals, poll_seconds: float = 1.0) -> None:
    """Sends this process a signal when another one, which may not be its parent, has gone."""
    started = _start_time(process)
    if started is None:  # gone already, or not of this container
        return

    def watch() -> None:
        while _start_time(process) == started:
            time.sleep(poll_seconds)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="end_with", daemon=True).start()


def _prctl() -> Callable[..., int]:
    """prctl(2), to be looked up before a fork."""
    return ctypes.CDLL(None).prctl


def parent_of(process: int) -> int:
    """The process that has started another one, 0 if that is not to be seen from here."""
    fields = _stat(process)
    return int(fields[1]) if fields else 0


def _start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot: tells a reused pid from the old one."""
    fields = _stat(pid)
    return None if not fields or fields[0] == "Z" else fields[19]


def _stat(pid: int) -> list[str]:
    """What /proc says of a process from its state on (proc(5)); empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


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

    Output goes to `log` (appended) and, line by line, to `on_line`; errors go to the same name
    with `.err`. `on_idle` is called whenever nothing has come for IDLE_SECONDS. When this process
    is interrupted, the child and its children are terminated first; what is left when no output has
    come for `patience_seconds` is killed. inherited: files that stay open in them, even if this
    process is killed. workers: names the processes, given the child, that are asked to end where
    the child would not wait for them; none: all are asked.
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
            # DeepSpeed's launcher then ends its ranks on other servers, which cannot see us.
            preexec_fn=partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        try:
            for line in _lines(_blocks(child.stdout.fileno(), on_idle), out):
                on_line(line.decode("utf-8", errors="replace"))
            return child.wait()
        finally:
            if child.poll() is None:
                os.set_blocking(child.stdout.fileno(), False)  # another may hold the other end
                _terminate(child, workers(child.pid), patience_seconds, out)


def _log(out: BinaryIO, block: bytes) -> None:
    """Hours of work do not fail by a log that cannot be written, on a full disk, say."""
    with suppress(OSError):
        out.write(block)


def _blocks(pipe: int, on_idle: Callable[[], None]) -> Iterator[bytes]:
    """What comes through a pipe, as it comes, until all that write to it have ended."""
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
    """Lines without their ends; the blocks go to `out` as they are."""
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
    """SIGTERM to the workers, or else to the child's process group; SIGKILL to what is left of the
    group after a while of silence. What they say goes to `out`."""
    asked = [(os.kill, worker) for worker in workers] or [(os.killpg, child.pid)]
    _send(signal.SIGTERM, asked)
    if not _ends(child, patience_seconds, out):
        _send(signal.SIGKILL, [(os.killpg, child.pid)])
        _ends(child, 20.0, out)


def _send(number: signal.Signals, targets: list[tuple[Callable[[int, int], None], int]]) -> None:
    for send, target in targets:
        with suppress(ProcessLookupError):
            send(target, number)


def _ends(child: subprocess.Popen, patience_seconds: float, out: BinaryIO) -> bool:
    """Whether the child's process group ends; False when it has said nothing for so long."""
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
    """Whether a process of the group runs; one that ended and was not waited for does not."""
    processes = (_stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*"))
    return any(fields and int(fields[2]) == group and fields[0] != "Z" for fields in processes)


def answer(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] = {},
    folder: Path | None = None,
) -> subprocess.CompletedProcess:
    """What a short program writes to stdout and stderr, as text, and its exit code.

    Raises subprocess.TimeoutExpired after `seconds`. The program is killed then and not waited for,
    as `subprocess.run` would: one that hangs in a driver does not end by that. Raises OSError if it
    cannot be run. folder: where it runs, here by default.
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
    try:
        out, err = child.communicate(timeout=seconds)
    finally:
        child.kill()
        child.stdout.close()
        child.stderr.close()
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def python_command(*arguments: str) -> list[str]:
    """A command line that runs the present Python."""
    return [sys.executable, *arguments]
