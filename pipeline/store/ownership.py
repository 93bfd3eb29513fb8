"""One process at a time makes a folder, and says who it is; others wait for it or leave.

The lock is flock on a hidden file beside the folder. It ends with its process, however that ends,
and on a file system that servers share, each of them sees the locks of the others. Whoever builds
on a folder holds it too, together with others who read it, so that nobody makes it anew meanwhile.
Processes that write for the owner, and may live on for a moment when it is killed, have locks of
their own, which the next owner waits for.
"""

import errno
import fcntl
import glob
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from pipeline.errors import StageError
from pipeline.runtime.processes import this_process
from pipeline.store.heartbeat import heartbeat_path
from pipeline.store.record_files import refusing_links

# What is answered where there are no locks: NFS without its lock service, Lustre without -o flock.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
FOREVER = float("inf")
WAIT_SECONDS = 2.0
# What a killed run has left notices within a second, on other servers perhaps within a minute.
LEFTOVER_SECONDS = 90.0
# `is_owned` holds the lock for an instant, which must not turn anyone away.
GLANCES, GLANCE_SECONDS = 5, 0.05


class InUse(StageError):
    """Another process has the folder."""


def lock_path(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.lock")


def worker_lock_path(directory: Path, number: int) -> Path:
    directory = directory.resolve()  # where workers write, whatever name they know it by
    return directory.with_name(f"{lock_path(directory).name}.{number}")


@contextmanager
def owned(directory: Path, say: Callable[[str], None], wait: bool = False) -> Iterator[IO]:
    """Holds a folder for this process, for a `with` block, and for all that inherit the lock's
    file, which it yields.

    If another process has it, or reads it, `say` hears who and this one waits, or, without `wait`,
    leaves with InUse. For workers of an owner that died it waits in any case, without `wait` no
    longer than LEFTOVER_SECONDS. Raises OSError if the lock's file cannot be written. Where the
    file system has no locks, `say` hears that nobody will be kept away.
    """
    with _opened(lock_path(directory)) as lock:
        _take(lock, fcntl.LOCK_EX, directory, say, FOREVER if wait else 0.0, _user)
        _sign(lock)
        if is_owned(directory):  # None where there are no locks
            _outlast_workers(directory, say, FOREVER if wait else LEFTOVER_SECONDS)
        # Of the run before, which in a container may have had the same number as this process.
        with suppress(OSError):
            heartbeat_path(directory).unlink()
        yield lock


@contextmanager
def worked_on(directory: Path, number: int, say: Callable[[str], None]) -> Iterator[None]:
    """Tells who owns the folder next, for a `with` block, that this process still writes to it.

    number: of this process among those that work for one owner. If another process has it, `say`
    hears who, and this one waits, but after LEFTOVER_SECONDS leaves with InUse. Where no lock can
    be made beside the folder, `say` hears that nobody will be kept away.
    """
    path = worker_lock_path(directory, number)
    with ExitStack() as held:
        try:
            lock = held.enter_context(_opened(path))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            say(f"{path} cannot be made ({error.strerror}); {_no_second_run(directory)}")
        else:
            _take(lock, fcntl.LOCK_EX, directory, say, LEFTOVER_SECONDS, _worker)
            _sign(lock)
        yield


@contextmanager
def in_use(directory: Path, say: Callable[[str], None], wait: bool = False) -> Iterator[None]:
    """Keeps a folder from being made anew for a `with` block; any number of processes may do so.

    As `owned` if another process is making it. One that was made without a lock, or whose lock
    this user may not read, cannot be kept.
    """
    with ExitStack() as held:
        with suppress(FileNotFoundError, PermissionError):
            lock = held.enter_context(open(lock_path(directory), "rb"))
            _take(lock, fcntl.LOCK_SH, directory, say, FOREVER if wait else 0.0, _user)
        yield


def _opened(lock: Path) -> IO:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return open(lock, "a+", encoding="utf-8", opener=refusing_links)


def _sign(lock: IO) -> None:
    lock.truncate(0)
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    lock.write(f"{this_process()} since {since}")
    lock.flush()


def _outlast_workers(directory: Path, say: Callable[[str], None], patience: float) -> None:
    first = worker_lock_path(directory, 0)
    begin = first.name.removesuffix("0")
    for path in first.parent.glob(f"{glob.escape(begin)}*"):
        if path.name.removeprefix(begin).isdecimal():
            with _opened(path) as lock:
                _take(lock, fcntl.LOCK_EX, directory, say, patience, _worker)


def _take(
    lock: IO,
    how: int,
    directory: Path,
    say: Callable[[str], None],
    patience: float,
    who: Callable[[IO, Path], str],
) -> None:
    """Waits for a lock so many seconds; then InUse. who: describes the process that has it."""
    glances, waited = 0, 0.0
    while not _try(lock, how, directory, say):
        if glances < GLANCES:
            glances += 1
            time.sleep(GLANCE_SECONDS)
            continue
        user = who(lock, directory)
        if waited >= patience:
            raise InUse(user)
        if not waited:
            say(f"waits, as {user}")
        time.sleep(WAIT_SECONDS)
        waited += WAIT_SECONDS


def _try(lock: IO, how: int, directory: Path, say: Callable[[str], None]) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say(f"this file system has no locks ({error.strerror}); {_no_second_run(directory)}")
    return True


def _no_second_run(directory: Path) -> str:
    return f"see to it that no second run works on {directory}"


def _user(lock: IO, directory: Path) -> str:
    """Who has a folder whose lock could not be taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return f"{directory} is being made by {owner(directory) or 'another process'}"
    fcntl.flock(lock, fcntl.LOCK_UN)
    return f"{directory} is being read by another run, which builds on it"


def _worker(lock: IO, directory: Path) -> str:
    """Who has a worker's lock that could not be taken."""
    lock.seek(0)
    return f"{directory} is still being written by {lock.read() or 'another process'}"


def owner(directory: Path) -> str:
    """`process 123 on server since 2025-01-31 12:00:00 +0100`: who has, or had, a folder last.

    Empty if nobody had it, or this user may not know.
    """
    try:
        return lock_path(directory).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_owned(directory: Path) -> bool | None:
    """Whether a process is making a folder, None if that cannot be told. Changes nothing."""
    try:
        with open(lock_path(directory), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
