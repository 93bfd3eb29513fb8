"""What happens inside the processes of a disturbed run.

Python imports this module when it starts, as its folder is on PYTHONPATH. The plan stands in the
environment, as JSON. Changes of files are seen as Python's audit events, so that nothing of the
program itself is changed; what libraries write that are not Python is not seen.

A point is such a change below the run's root and what it is done to, `os.rename data/x/shard`; with
a count, it is a moment of the run: just before a process does that for the n-th time.
"""

import ctypes
import itertools
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable

PLAN = "EXTREMEBERT_CHAOS_PLAN"
PARENT = "EXTREMEBERT_CHAOS_PARENT"  # process id of the run's first Python
# Audit event -> where its path stands among the arguments, and the folder that this is relative to.
CHANGES = {
    "open": (0, None),
    "os.mkdir": (0, 2),
    "os.rename": (1, 3),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
}
CREATING = ("open ", "os.mkdir ")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
RANDOM_PART = re.compile(r"\.[0-9a-f]{12}\.tmp")

Act = Callable[[str, int], None]


def begin(plan: dict) -> None:
    os.environ.setdefault(PARENT, str(os.getpid()))
    if plan["do"] == "set_clock_back":
        set_clock_back(plan)
        return
    act = {"record": recorder, "signal": signaller, "fail": failer}[plan["do"]](plan)
    counts: Counter = Counter()

    def see(event: str, arguments: tuple) -> None:
        if event not in CHANGES:
            return
        if point := point_of(event, arguments, plan["root"]):
            counts[point] += 1
            act(point, counts[point])

    sys.addaudithook(see)


def point_of(event: str, arguments: tuple, root: str) -> str:
    """`os.rename data/x/shard` for a change below the root, else an empty string."""
    if event == "open" and not arguments[2] & WRITING:
        return ""
    path_place, folder_place = CHANGES[event]
    path = arguments[path_place]
    if isinstance(path, int):
        return ""
    path = os.fsdecode(path)
    folder = -1 if folder_place is None else arguments[folder_place]
    if folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    path = os.path.abspath(path)
    if not path.startswith(root + os.sep):
        return ""
    return f"{event} {RANDOM_PART.sub('.*.tmp', path[len(root) + 1 :])}"


# --- what is done at a point -----------------------------------------------------------------


def recorder(plan: dict) -> Act:
    """Writes all points with their counts to a file."""
    file = os.open(plan["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return lambda point, count: os.write(file, json.dumps([point, count]).encode() + b"\n")


def signaller(plan: dict) -> Act:
    """Sends a signal to the process that comes to a point, or to the run's first one.

    Another than that one then hangs for a while, and does not notice that the first one has gone.
    """

    def act(point: str, count: int) -> None:
        if [point, count] == plan["moment"] and is_first(plan):
            process = os.getpid() if plan["to"] == "self" else int(os.environ[PARENT])
            os.kill(process, plan["signal"])
            if process != os.getpid():
                hang(plan["lag"])

    return act


def hang(seconds: float) -> None:
    """With all threads, and whatever signal comes, but for one that kills."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # as a PyDLL it keeps Python's lock
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def failer(plan: dict) -> Act:
    """Fails a change, and if it is to last all later ones that create a file, in any process."""
    number = plan["errno"]

    def act(point: str, count: int) -> None:
        now = [point, count] == plan["moment"] and is_first(plan)
        still = plan["lasting"] and point.startswith(CREATING) and os.path.exists(plan["fired"])
        if now or still:
            path = os.path.join(plan["root"], point.partition(" ")[2])
            raise OSError(number, os.strerror(number), path)

    return act


def set_clock_back(plan: dict) -> None:
    """From the n-th look at the time of day on, this process's clock is behind.

    The monotonic clock is not, nor are those of the file system and of datetime, which is not
    Python's to change.
    """
    looks, now, now_ns = itertools.count(1), time.time, time.time_ns

    def seconds_behind() -> int:
        look = next(looks)
        if look == plan["look"]:
            is_first(plan)
        return plan["seconds"] if look >= plan["look"] else 0

    time.time = lambda: now() - seconds_behind()
    time.time_ns = lambda: now_ns() - seconds_behind() * 10**9


def is_first(plan: dict) -> bool:
    """Whether it has not happened yet in this run; leaves a note that it has, and to whom."""
    try:
        note = os.open(plan["fired"], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    os.write(note, " ".join(sys.orig_argv).encode(errors="replace"))
    os.close(note)
    return True


if PLAN in os.environ:
    begin(json.loads(os.environ[PLAN]))
