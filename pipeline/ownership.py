"""One process at a time makes a folder, and says who it is; others wait for it or leave.

The lock is flock on a hidden file beside the folder. It ends with its process, however that ends,
and on a file system that servers share, each of them sees the locks of the others. Whoever builds
on a folder holds it too, together with others who read it, so that nobody makes it anew meanwhile.
"""

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from pipeline.errors import StageError
from pipeline.folders import refusing_links
from pipeline.heartbeat import heartbeat_path
from pipeline.processes import this_process

# What is answered where there are no locks: NFS without its lock service, Lustre without -o flock.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
WAIT_SECONDS = 2.0
# `is_owned` holds the lock for an instant, which must not turn anyone away.
GLANCES, GLANCE_SECONDS = 5, 0.05


class InUse(StageError):
    """Another process has the folder."""


def lock_path(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.lock")


@contextmanager
def owned(directory: Path, say: Callable[[str], None], wait: bool = False) -> Iterator[None]:
    """Holds a folder for this process, for a `with` block.

    If another process has it, or reads it, `say` hears who and this one waits, or, without `wait`,
    leaves with InUse. Raises OSError if the lock's file cannot be written. Where the file system
    has no locks, `say` hears that nobody will be kept away.
    """
    lock_path(directory).parent.mkdir(parents=True, exist_ok=True)
    with open(lock_path(directory), "a+", encoding="utf-8", opener=refusing_links) as lock:
        _take(lock, fcntl.LOCK_EX, directory, say, wait)
        lock.truncate(0)
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        lock.write(f"{this_process()} since {since}")
        lock.flush()
        # Of the run before, which in a container may have had the same number as this process.
        with suppress(OSError):
            heartbeat_path(directory).unlink()
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
            _take(lock, fcntl.LOCK_SH, directory, say, wait)
        yield


def _take(lock: IO, how: int, directory: Path, say: Callable[[str], None], wait: bool) -> None:
    glances, told = 0, False
    while not _try(lock, how, directory, say):
        if glances < GLANCES:
            glances += 1
            time.sleep(GLANCE_SECONDS)
            continue
        user = _user(lock, directory)
        if not wait:
            raise InUse(user)
        if not told:
            say(f"waits, as {user}")
            told = True
        time.sleep(WAIT_SECONDS)


def _try(lock: IO, how: int, directory: Path, say: Callable[[str], None]) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say(
            f"this file system has no locks ({error.strerror}); see to it that no second run "
            f"works on {directory}"
        )
    return True


def _user(lock: IO, directory: Path) -> str:
    """Who has a folder whose lock could not be taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return f"{directory} is being made by {owner(directory) or 'another process'}"
    fcntl.flock(lock, fcntl.LOCK_UN)
    return f"{directory} is being read by another run, which builds on it"


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
