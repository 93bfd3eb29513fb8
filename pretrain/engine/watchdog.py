"""Training that stands still is noticed, and every rank says where it stands.

Each rank arms a timer of faulthandler's, a thread in C that needs nothing of Python, and puts it
off with every sign of life; when it runs out, the stacks of all its threads go to stderr, which is
the `.err` log. The stage does the same with the lines that it hears from the first rank, tells the
user, and waits on: a disk or a network that comes back is no reason to end a run.
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
MARK = b"Timeout ("  # how faulthandler begins


class Patience:
    """How long nothing may come: twice as long as ever before, rounded up to multiples of `least`.

    first: seconds up to the first sign of life; least and most: seconds afterwards.
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
        # What comes before the first sign is no step, and tells nothing of steps.
        self._slowest = 0.0 if self._slowest is None else max(self._slowest, silent)
        periods = math.ceil(TIMES_SLOWEST * self._slowest / self.least)
        self.seconds = min(self.least * max(1, periods), self.most)

    @property
    def silent_seconds(self) -> float:
        return time.monotonic() - self.last


@contextmanager
def stacks_when_silent(rank: int, patience: Patience) -> Iterator[Callable[[], None]]:
    """Yields a function to call whenever a bit of work is done; it takes no time.

    When it has not been called for too long, the stacks of all threads are written to stderr, once
    until the next call. The seconds in their first line, `Timeout (0:10:03)!`, are the rank: so
    ranks do not write at the same time either, which would mix their lines.
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
    """For the one who started the ranks: says when they fall silent, and when they go on.

    errors: the file that their stderr goes to.
    """

    def __init__(self, errors: Path, tell: Callable[[str], None], patience: Patience):
        self.errors, self.tell, self.patience = errors, tell, patience
        self.reported = False
        self._begin = errors.stat().st_size if errors.exists() else 0

    def sign_of_life(self) -> None:
        if self.reported:
            self.tell(f"training goes on, after {duration(self.patience.silent_seconds)}")
            self.reported = False
        self.patience.sign_of_life()

    def look(self) -> None:
        """To be called now and then."""
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
        return "no rank says where it stands, as if its process had been stopped"
