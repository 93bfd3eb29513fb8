"""Console output: lines, progress bars on a terminal, and the same lines in a log file."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from pipeline.errors import ConfigError, StageError
from pipeline.privacy import hidden
from pipeline.store.heartbeat import Heart, Position

PLAIN_LINE_SECONDS = 10.0
WARNING_PREFIX = "WARNING: "  # of a line about a possible mistake


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Prints a line to standard output or `stream`, flushed; never fails.

    Hides secrets, and escapes characters missing in the stream's encoding. After an error, like a
    pipe without a reader, the stream gets no more output.
    """
    stream = stream or sys.stdout
    if stream is None:  # Python was started without one
        return
    encoding = stream.encoding or "utf-8"
    printable = hidden(text).encode(encoding, errors="backslashreplace").decode(encoding)
    try:  # in one piece: other threads and processes print too
        print(f"{printable}\n", end="", file=stream, flush=True)
    except OSError:
        with open(os.devnull, "wb") as nowhere:  # for the buffer too
            os.dup2(nowhere.fileno(), stream.fileno())


def escape_unprintable() -> None:
    """Makes every `print` escape characters missing in the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Console:
    """Prints the lines of a stage and appends them, with the time, to its log file."""

    def __init__(self, stage: str, log: Path):
        self.stage = stage
        self.log = log
        self.heart = Heart()
        log.parent.mkdir(parents=True, exist_ok=True)

    def show_life(self, directory: Path) -> None:
        """Starts the heartbeat of the stage that writes a folder."""
        self.heart = Heart(directory)

    def say(self, text: str) -> None:
        self.heart.say(text)
        self.tell(text)

    def tell(self, text: str) -> None:
        """As `say`, but without a heartbeat: for observers of the work."""
        for line in text.splitlines():
            print_line(f"{self.stage}: {line}")
        self.note(text)

    def note(self, text: str) -> None:
        """Writes to the log file only; ignores errors like a full disk."""
        stamp = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{stamp} {line}\n" for line in hidden(text).splitlines())
        with suppress(OSError), open(self.log, "ab") as file:
            file.write(lines.encode(errors="backslashreplace"))

    @contextmanager
    def progress(self, description: str, total: float, unit: str) -> Iterator["Progress"]:
        """Yields a progress bar with rate and remaining time; off a terminal, occasional lines."""
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        kind = _TerminalBar if on_terminal else Progress
        progress = kind(self, description, total, unit)
        try:
            yield progress
        finally:
            self.heart.stop_counting()
            progress.close()


class Progress:
    """Counts finished work: `advance` by an amount or `update` to a total. note: free text.

    Prints a line at most every PLAIN_LINE_SECONDS, for logs and pipes.
    """

    def __init__(self, console: Console, description: str, total: float, unit: str):
        self.console, self.description, self.total, self.unit = console, description, total, unit
        self.completed = 0.0
        self.start = self.last_line = time.monotonic()
        self.start_completed: float | None = None
        console.heart.count(self._position(""))

    def advance(self, amount: float, note: str = "") -> None:
        self.update(self.completed + amount, note)

    def update(self, completed: float, note: str = "") -> None:
        self.completed = completed
        if self.start_completed is None:  # resumed work does not count for the rate
            self.start, self.start_completed = time.monotonic(), completed
        position = self._position(note)
        self.console.heart.count(position)
        self._show(position)

    def _position(self, note: str) -> Position:
        done = self.completed - (self.start_completed or 0.0)
        seconds = time.monotonic() - self.start
        rate = done / seconds if seconds > 0 else 0.0
        return Position(self.description, self.completed, self.total, self.unit, rate, note)

    def close(self) -> None:
        pass

    def _show(self, position: Position) -> None:
        now = time.monotonic()
        if now - self.last_line >= PLAIN_LINE_SECONDS:
            self.last_line = now
            self.console.say(", ".join(position_in_words(position)))


class _TerminalBar(Progress):
    """A rich progress bar."""

    def __init__(self, *args):
        super().__init__(*args)
        from rich import progress

        self.bar = progress.Progress(
            progress.TextColumn(f"{self.console.stage}: {{task.description}}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + self.unit),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
        )
        self.task = self.bar.add_task(self.description, total=self.total, note="", rate="")
        self.bar.start()

    def _show(self, position: Position) -> None:
        speed = self.bar.tasks[0].speed
        rate = f"{speed:,.1f} {self.unit}/s" if speed else ""
        self.bar.update(self.task, completed=self.completed, note=position.note, rate=rate)

    def close(self) -> None:
        self.bar.stop()


@contextmanager
def stage_console(stage: str, log: Path) -> Iterator[Console]:
    """Yields the console of a stage; logs errors and raises them as StageError."""
    try:
        console = Console(stage, log)
    except OSError as error:
        raise StageError(f"no log can be written: {error}", stage=stage) from error
    try:
        yield console
    except (ConfigError, KeyboardInterrupt):
        raise
    except StageError as error:
        console.heart.fail(error.cause)
        console.note(f"failed: {error.cause}")
        raise StageError(error.cause, error.log or log, stage) from error
    except Exception as error:
        console.note(traceback.format_exc())
        lines = str(error).strip().splitlines()
        cause = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        console.heart.fail(cause)
        raise StageError(cause, log, stage) from error


def position_in_words(position: Position) -> list[str]:
    """Returns `training 50/100 steps (50 %)`, `3.2 steps/s`, `12 min left`, `loss 3.2`."""
    seconds = position.seconds_left
    left = "" if seconds is None else f"{duration(seconds)} left"
    return [text for text in (position.share, position.speed, left, position.note) if text]


def duration(seconds: float) -> str:
    """Returns `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def table(rows: list[list[str]]) -> str:
    """Returns rows of strings as aligned text columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    header, *body = rows
    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, body)])
