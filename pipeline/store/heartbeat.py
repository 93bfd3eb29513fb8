"""Signs of life of a stage, for whoever looks at it from outside: `main.py --status`.

A hidden file beside the stage's folder says what is being done and how far it is. It is written as
work is done, not by a clock, so that its age tells of a stall. It is part of no result: a disk that
is full or slow costs nothing but the news.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.privacy import hidden
from pipeline.runtime.processes import this_process
from pipeline.store.record_files import read_json, refusing_links

BEAT_SECONDS = 10.0


def heartbeat_path(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.heartbeat.json")


@dataclass(frozen=True)
class Position:
    """How far some work is. rate: units per second, 0.0 if not known yet; note: free text."""

    doing: str
    done: float
    total: float
    unit: str
    rate: float = 0.0
    note: str = ""

    @property
    def share(self) -> str:
        """`training 50/100 steps (50 %)`."""
        percent = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        return f"{self.doing} {self.done:,.0f}/{self.total:,.0f} {self.unit}{percent}"

    @property
    def speed(self) -> str:
        """`3.2 steps/s`, empty if it is not known."""
        digits = ",.1f" if self.rate >= 1 else ".2g"
        return f"{self.rate:{digits}} {self.unit}/s" if self.rate > 0 else ""

    @property
    def seconds_left(self) -> float | None:
        return max(0.0, self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class Beat:
    """What a heartbeat file says. at: seconds since 1970, by the clock of the machine that wrote.

    by: which process; said: the last thing it said to the console; position: of the work that was
    counted last; failed: why the stage ended, if it did.
    """

    by: str
    at: float
    said: str = ""
    position: Position | None = None
    failed: str = ""

    @property
    def age_seconds(self) -> float:
        return max(0.0, time.time() - self.at)  # clocks differ, and are set back


class Heart:
    """Writes the heartbeat of a stage; without a directory, nothing."""

    def __init__(self, directory: Path | None = None):
        self.path = heartbeat_path(directory) if directory else None
        self.said = self.failed = ""
        self.position: Position | None = None
        self._counting = False
        self._beat()

    def say(self, text: str) -> None:
        """A first line is enough: below it, it may be the user's own text that is shown."""
        self.said = text.partition("\n")[0]
        if not self._counting:
            self.position = None
        self._beat()

    def count(self, position: Position) -> None:
        begins, self._counting = not self._counting, True
        self.position = position
        self._beat() if begins else self.alive()

    def stop_counting(self) -> None:
        """The next thing that is said takes the place of the last position."""
        self._counting = False

    def fail(self, cause: str) -> None:
        self.failed = cause
        self._beat()

    def alive(self) -> None:
        """There is nothing new, but the stage is at work. Takes no time: call it often."""
        if time.monotonic() - self._written >= BEAT_SECONDS:
            self._beat()

    def _beat(self) -> None:
        self._written = time.monotonic()
        if not self.path:
            return
        said, failed = hidden(self.said), hidden(self.failed)
        beat = Beat(this_process(), time.time(), said, self.position, failed)
        aside = self.path.with_suffix(".tmp")
        with suppress(OSError):  # without fsync: after a power cut nobody is alive
            with open(aside, "w", encoding="utf-8", opener=refusing_links) as file:
                json.dump(asdict(beat), file)
            os.replace(aside, self.path)


def read_heartbeat(directory: Path) -> Beat | None:
    """The last beat of the stage that makes this folder, None if there is no readable one."""
    try:
        found = read_json(heartbeat_path(directory))
        position = found["position"]
        return Beat(**found | {"position": Position(**position) if position else None})
    except (OSError, TypeError, KeyError):
        return None
