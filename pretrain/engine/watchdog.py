"""Detects a hanging run: each rank writes its stacks, and the stage informs the user.

Each rank resets a timer of faulthandler, a C thread independent of Python, with every sign of life.
When the timer expires, the stacks of all threads go to stderr, that is, to the `.err` log. The
stage times the progress lines of rank 0. Neither ends the run: the disk or the network may recover.
"""

import faulthandler
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.console import duration
from pretrain.engine.time_limits import (
    SILENT_AT_FIRST,
    SILENT_AT_MOST,
    SILENT_LATER,
    TO_WRITE_STACKS,
)

TIMES_SLOWEST = 2
REARM_SECONDS = 1.0
MARK = b"Timeout ("  # begins the output of faulthandler


class Patience:
    """Permitted silence: twice the longest one so far, rounded up to a multiple of `least`.

    first: seconds up to the first sign of life. least, most: bounds afterwards, in seconds.
    """

    def __init__(
        self,
        first: float = SILENT_AT_FIRST,
        least: float = SILENT_LATER,
        most: float = SILENT_AT_MOST,
    ):
        self.seconds, self.least, self.most = first, least, most
        self.last = time.monotonic()
        self._slowest: float | None = None

    def sign_of_life(self) -> None:
        silent, self.last = self.silent_seconds, time.monotonic()
        # The time before the first sign is no measure of a step.
        self._slowest = 0.0 if self._slowest is None else max(self._slowest, silent)
        periods = math.ceil(TIMES_SLOWEST * self._slowest / self.least)
        self.seconds = min(self.least * max(1, periods), self.most)

    @property
    def silent_seconds(self) -> float:
        return time.monotonic() - self.last


@contextmanager
def stacks_when_silent(rank: int, patience: Patience) -> Iterator[Callable[[], None]]:
    """Yields a cheap function to call after each bit of work.

    Without a call for too long, writes the stacks of all threads to stderr, once until the next
    call. The time limit is `rank` seconds longer than that of rank 0: ranks then do not mix their
    lines, and `Timeout (0:10:03)!` in the first line is rank 3.
    """
    armed = -math.inf

    def alive() -> None:
        nonlocal armed
        patience.sign_of_life()
        if patience.last - armed >= REARM_SECONDS:
            armed = patience.last
            faulthandler.dump_traceback_later(patience.seconds + rank, file=sys.stderr)

    faulthandler.dump_traceback_later(patience.seconds + rank, file=sys.stderr)
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()


class SilenceReport:
    """Tells the user, in the process of the stage, when the ranks fall silent and resume.

    errors: log file of their stderr.
    """

    def __init__(self, errors: Path, tell: Callable[[str], None], patience: Patience):
        self.errors, self.tell, self.patience = errors, tell, patience
        self.reported = False
        self._begin = errors.stat().st_size if errors.exists() else 0

    def sign_of_life(self) -> None:
        if self.reported:
            self.tell(f"training has resumed after {duration(self.patience.silent_seconds)}")
            self.reported = False
        self.patience.sign_of_life()

    def look(self) -> None:
        """Reports a long silence, once; call it regularly."""
        silent = self.patience.silent_seconds
        if not self.reported and silent > self.patience.seconds + TO_WRITE_STACKS:
            self.reported = True
            self.tell(f"no sign of life from training for {duration(silent)}; {self._stacks()}")

    def _stacks(self) -> str:
        try:
            with open(self.errors, "rb") as file:
                file.seek(self._begin)
                written = MARK in file.read()
                self._begin = file.tell()
        except OSError as error:
            return f"the log cannot be read: {error}"
        if written:
            return f"the stacks of the ranks are in {self.errors}"
        return "no rank has written its stacks; the processes may be suspended"
