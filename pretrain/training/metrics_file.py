"""Metrics of a run: metrics.jsonl, progress lines for the stage, W&B and TensorBoard."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.console import WARNING_PREFIX, Console, print_line
from pipeline.store.artifacts import fingerprint
from pipeline.store.atomic_files import flush_to_disk, write_text
from pipeline.store.disk import is_full

PROGRESS_PREFIX = "@progress "
NOTE_PREFIX = "@note "
PROGRESS_SECONDS = 1.0
TEXT_KEYS = ("kind", "step")


def parse_progress(line: str) -> dict[str, Any] | None:
    """Returns `{"done", "total", "loss"}` of a progress line, None for any other line."""
    # The launcher prefixes lines of other servers with their names.
    _, found, numbers = line.partition(PROGRESS_PREFIX)
    return _parsed(numbers) if found else None


def parse_warning(line: str) -> str:
    """Returns the text of a warning line, "" for any other line."""
    return line.partition(WARNING_PREFIX)[2]


def parse_note(line: str) -> str:
    """Returns the text of a line for the stage's console, "" for any other line."""
    return line.partition(NOTE_PREFIX)[2]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, without truncated ones."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [found for line in lines[:-1] if (found := _parsed(line))]


def _parsed(line: str) -> dict[str, Any] | None:
    """Returns None for a damaged line, truncated or mixed with another."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def train_line_in_words(line: dict[str, Any]) -> str:
    """Returns the main numbers of a line of kind train."""
    return (
        f"step {line['step']}: loss {line['loss']:.4f}, lr {line['lr']:.3g}, "
        f"{line['samples_per_second']:.1f} samples/s, {line['tokens_per_second']:,.0f} "
        f"tokens/s, {100 * line['peak_share']:.0f} % of the matmul peak"
    )


class ProgressLines:
    """Prints progress for the stage, in the format of `parse_progress`."""

    def __init__(self) -> None:
        self.last = 0.0

    def show(self, now: bool, **numbers) -> None:
        """Prints a line, at most one per PROGRESS_SECONDS unless `now`."""
        if now or time.monotonic() - self.last >= PROGRESS_SECONDS:
            self.last = time.monotonic()
            print_line(PROGRESS_PREFIX + json.dumps(numbers))

    def close(self) -> None: ...


class ProgressBar:
    """Shows progress to a person: a bar with rate and remaining time on a terminal, else lines.

    total, unit, factor: of pretrain.optimization.budget.progress_unit.
    """

    def __init__(self, log: Path, total: float, unit: str, factor: float):
        self.factor = factor
        self._context = Console("pretrain", log).progress("pretraining", total, unit)
        self._bar = self._context.__enter__()

    def show(self, now: bool, done: float, total: float, loss: float | None) -> None:
        self._bar.update(done * self.factor, "" if loss is None else f"loss {loss:.3f}")

    def close(self) -> None:
        self._context.__exit__(None, None, None)


class MetricsLog:
    """The log of rank 0: appends to metrics.jsonl and prints."""

    def __init__(self, path: Path, wandb_run=None, tensorboard=None, progress=None):
        self.path = path
        self.wandb_run, self.tensorboard = wandb_run, tensorboard
        self.bar = progress or ProgressLines()
        self._waiting: list[str] = []  # lines to write once the disk has room
        path.parent.mkdir(parents=True, exist_ok=True)

    def truncate(self, step: int, is_validated: bool) -> None:
        """Deletes the lines after a step, to resume from there.

        Unless it is_validated, also those of the step's validation.
        """
        lines = read_metrics(self.path)
        kept = [line for line in lines if line["step"] <= step]
        if not is_validated:
            kept = [line for line in kept if line["step"] < step or line["kind"] == "train"]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: dict[str, Any]) -> None:
        """Writes a line; infinite numbers and nan become null.

        On a full disk, keeps the line until there is room.
        """
        for key, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                line = line | {key: None}
        self._waiting.append(json.dumps(line) + "\n")
        self._append_waiting()
        step = line["step"]
        numbers = {f"{line['kind']}/{key}": line[key] for key in line if key not in TEXT_KEYS}
        if self.wandb_run:
            self.wandb_run.log(numbers, step)
        if self.tensorboard:
            for name, value in numbers.items():
                if value is not None:
                    self.tensorboard.add_scalar(name, value, step)

    def _append_waiting(self) -> None:
        """Appends all waiting lines or none, without truncated lines."""
        if not self._waiting:
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(self._waiting)
            self._waiting.clear()
        except OSError as error:
            if not is_full(error):
                raise
            if self.path.exists():
                os.truncate(self.path, size)

    def flush(self) -> None:
        self._append_waiting()
        if self.path.exists():
            flush_to_disk(self.path)

    def say(self, text: str) -> None:
        print_line(text)  # does not fail if the reader is gone: a checkpoint may follow

    def tell(self, text: str) -> None:
        """Prints a line; the stage shows it on the console at once."""
        self.say(NOTE_PREFIX + text if isinstance(self.bar, ProgressLines) else text)

    def warn(self, text: str) -> None:
        """Prints a warning; the stage shows it on the console at once."""
        self.say(WARNING_PREFIX + text)

    def progress(self, now: bool, **numbers) -> None:
        """Shows done, total and the newest loss, immediately if `now`."""
        self.bar.show(now, **numbers)

    def close(self) -> None:
        self.bar.close()
        if self.wandb_run:
            self.wandb_run.finish()
        if self.tensorboard:
            self.tensorboard.close()


class SilentLog:
    """The log of the other ranks: ignores every call of a method of MetricsLog."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


Log = MetricsLog | SilentLog


def start_wandb(mode: str, project: str, name: str, directory: Path, settings: dict[str, Any]):
    """Starts a W&B run with the key in WANDB_API_KEY, or returns None if mode is "disabled".

    mode: disabled | offline | online. Raises ModuleNotFoundError if wandb is not installed
    (requirements-wandb.txt), and ValueError if mode is online without a key.
    """
    if mode == "disabled":
        return None
    import wandb

    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        raise ValueError("WANDB.MODE is online, but WANDB_API_KEY is not set")
    directory.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=project,
        name=name,
        id=fingerprint({"output": str(directory.resolve())})[:16],  # a restart resumes it
        mode=mode,
        dir=str(directory),
        config=settings,
        resume="allow",
    )


def start_tensorboard(wanted: bool, directory: Path):
    """Returns a TensorBoard writer or None.

    Raises ModuleNotFoundError without tensorboard (requirements-tensorboard.txt).
    """
    if not wanted:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory / "tensorboard"))
