"""Locks on folders: one process at a time writes a folder; others wait for it or leave.

The lock is flock on a hidden file beside the folder. The system releases it when its process ends,
and servers that share a file system see each other's locks. Runs that read a folder share its lock,
so nobody rewrites it meanwhile. The owner's worker processes may outlive it for a moment; they have
locks of their own, and the next owner waits for those.
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

# Errors of file systems without locks: NFS without its lock service, Lustre without -o flock.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
FOREVER = float("inf")
WAIT_SECONDS = 2.0
# Workers notice within a second that their owner was killed, on other servers within a minute.
LEFTOVER_SECONDS = 90.0
# `is_owned` holds the lock for an instant; a few quick retries get past it.
GLANCES, GLANCE_SECONDS = 5, 0.05


class InUse(StageError):
    """Another process has the folder."""


def lock_path(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.lock")


def worker_lock_path(directory: Path, number: int) -> Path:
    directory = directory.resolve()  # the same for all names of the folder
    return directory.with_name(f"{lock_path(directory).name}.{number}")


@contextmanager
def owned(directory: Path, say: Callable[[str], None], wait: bool = False) -> Iterator[IO]:
    """Holds a folder's lock in a `with` block; yields the lock's file, for children to inherit.

    If another process writes or reads the folder, reports its name to `say` and waits, or raises
    InUse without `wait`. Always waits for the workers of a dead owner, without `wait` up to
    LEFTOVER_SECONDS. Warns through `say` if the file system has no locks. Raises OSError if the
    lock's file cannot be written.
    """
    with _opened(lock_path(directory)) as lock:
        _take(lock, fcntl.LOCK_EX, directory, say, FOREVER if wait else 0.0, _user)
        _sign(lock)
        if is_owned(directory):  # None without locks
            _wait_for_workers(directory, say, FOREVER if wait else LEFTOVER_SECONDS)
        # The previous run's: in a container it may have had the same process id.
        with suppress(OSError):
            heartbeat_path(directory).unlink()
        yield lock


@contextmanager
def worked_on(directory: Path, number: int, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of one of the owner's workers: the folder's next owner waits for it.

    number: of this worker. If another process has the lock, reports its name to `say` and waits;
    raises InUse after LEFTOVER_SECONDS. Warns through `say` if there can be no lock.
    """
    path = worker_lock_path(directory, number)
    with ExitStack() as held:
        try:
            lock = held.enter_context(_opened(path))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            say(f"{path} cannot be made ({error.strerror}); {_unprotected(directory)}")
        else:
            _take(lock, fcntl.LOCK_EX, directory, say, LEFTOVER_SECONDS, _worker)
            _sign(lock)
        yield


@contextmanager
def in_use(directory: Path, say: Callable[[str], None], wait: bool = False) -> Iterator[None]:
    """Shares a folder's lock with other readers in a `with` block: nobody rewrites it meanwhile.

    If another process writes it, waits or raises as `owned` does. A folder without a lock's file,
    or with an unreadable one, is not protected.
    """
    with ExitStack() as held:
        with suppress(FileNotFoundError, PermissionError):
            lock = held.enter_context(open(lock_path(directory), "rb"))
            _take(lock, fcntl.LOCK_SH, directory, say, FOREVER if wait else 0.0, _user)
        yield


def owner(directory: Path) -> str:
    """Returns the present or last owner: `process 123 on server since 2025-01-31 12:00:00 +0100`.

    "" if there was none, or the lock's file is unreadable.
    """
    try:
        return lock_path(directory).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_owned(directory: Path) -> bool | None:
    """True if a process is writing a folder, None if unknown. Changes nothing."""
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


def _opened(lock: Path) -> IO:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return open(lock, "a+", encoding="utf-8", opener=refusing_links)


def _sign(lock: IO) -> None:
    """Writes this process and the time into the lock's file."""
    lock.truncate(0)
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    lock.write(f"{this_process()} since {since}")
    lock.flush()


def _wait_for_workers(directory: Path, say: Callable[[str], None], patience: float) -> None:
    first = worker_lock_path(directory, 0)
    prefix = first.name.removesuffix("0")
    for path in first.parent.glob(f"{glob.escape(prefix)}*"):
        if path.name.removeprefix(prefix).isdecimal():
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
    """Takes a lock, after up to `patience` seconds; raises InUse then. who: names the holder."""
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
            say(f"waiting: {user}")
        time.sleep(WAIT_SECONDS)
        waited += WAIT_SECONDS


def _try(lock: IO, how: int, directory: Path, say: Callable[[str], None]) -> bool:
    """Returns False if another process has the lock; warns if there are no locks."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say(f"this file system has no locks ({error.strerror}); {_unprotected(directory)}")
    return True


def _unprotected(directory: Path) -> str:
    return f"make sure that no second run works on {directory}"


def _user(lock: IO, directory: Path) -> str:
    """Describes the holder of a folder's lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return f"{directory} is being made by {owner(directory) or 'another process'}"
    fcntl.flock(lock, fcntl.LOCK_UN)
    return f"{directory} is being read by another run, which builds on it"


def _worker(lock: IO, directory: Path) -> str:
    """Describes the holder of a worker's lock."""
    lock.seek(0)
    return f"{directory} is still being written by {lock.read() or 'another process'}"
