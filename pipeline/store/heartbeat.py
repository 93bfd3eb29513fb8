"""Heartbeats of a running stage, for `main.py --status`.

A hidden file beside the stage's folder has the current work and its progress. It is written when
work is done, not by a clock: an old one means a stall. Failing to write it costs nothing else.
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
    """Progress of some work. rate: units per second, 0.0 if unknown. note: free text."""

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
        """`3.2 steps/s`, "" if unknown."""
        digits = ",.1f" if self.rate >= 1 else ".2g"
        return f"{self.rate:{digits}} {self.unit}/s" if self.rate > 0 else ""

    @property
    def seconds_left(self) -> float | None:
        return max(0.0, self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class Beat:
    """The content of a heartbeat file.

    by: the process. at: seconds since 1970 by its machine's clock. said: its last line on the
    console. position: of the last counted work. failed: the cause of a failure.
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
    """Writes the heartbeat of a stage; nothing without a directory."""

    def __init__(self, directory: Path | None = None):
        self.path = heartbeat_path(directory) if directory else None
        self.said = self.failed = ""
        self.position: Position | None = None
        self._counting = False
        self._beat()

    def say(self, text: str) -> None:
        """Keeps the first line only: further ones may quote the user's text."""
        self.said = text.partition("\n")[0]
        if not self._counting:
            self.position = None
        self._beat()

    def count(self, position: Position) -> None:
        begins, self._counting = not self._counting, True
        self.position = position
        self._beat() if begins else self.alive()

    def stop_counting(self) -> None:
        """Lets the next `say` replace the position."""
        self._counting = False

    def fail(self, cause: str) -> None:
        self.failed = cause
        self._beat()

    def alive(self) -> None:
        """Refreshes the file every BEAT_SECONDS; cheap, so call it often."""
        if time.monotonic() - self._written >= BEAT_SECONDS:
            self._beat()

    def _beat(self) -> None:
        self._written = time.monotonic()
        if not self.path:
            return
        said, failed = hidden(self.said), hidden(self.failed)
        beat = Beat(this_process(), time.time(), said, self.position, failed)
        aside = self.path.with_suffix(".tmp")
        with suppress(OSError):  # no fsync: after a power cut no process is alive
            with open(aside, "w", encoding="utf-8", opener=refusing_links) as file:
                json.dump(asdict(beat), file)
            os.replace(aside, self.path)


def read_heartbeat(directory: Path) -> Beat | None:
    """Returns the last beat for a stage's folder, None if there is no readable one."""
    try:
        found = read_json(heartbeat_path(directory)) or {}
        position = found["position"]
        return Beat(**found | {"position": Position(**position) if position else None})
    except (OSError, TypeError, KeyError):
        return None
