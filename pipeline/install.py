"""The install stage: checks the packages, and runs install.sh if any is missing.

Standard library only, for a bare Python. install.sh ends with `python -m pipeline.install`, which
imports all packages, and prints and records their versions and the GPUs.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import print_line
from pipeline.environment import (
    ENVIRONMENT,
    IMPORT_NAMES,
    PROJECT,
    RECORD,
    asked_torch,
    environment_is_ready,
    has_asked_torch,
    inside_environment,
    installation,
    pinned_requirements,
    requirements_digest,
)
from pipeline.errors import ConfigError, StageError
from pipeline.runtime.devices import usable_gpus
from pipeline.runtime.nvidia import listed, read_system
from pipeline.runtime.processes import run_logged
from pipeline.stage_plan import Estimate
from pipeline.store.artifacts import Status
from pipeline.store.atomic_files import write_json
from pipeline.store.ownership import owned
from pipeline.store.paths import log_path

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Set once this command has run install.sh, for the processes that it goes on in.
INSTALLED_VARIABLE = "EXTREMEBERT_INSTALLED"


class InstallPlan:
    """The plan of the packages in .venv; install.sh keeps their record."""

    upstream = None
    config = None
    phase = 0
    label = ""
    headline: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._others = other_versions()

    @property
    def place(self) -> str:
        return ", ".join((sys.prefix, *self._others.values()))

    @property
    def links(self) -> tuple["InstallPlan", ...]:
        return (self,)

    def pending(self) -> list["InstallPlan"]:
        return [] if self.status().done else [self]

    def status(self) -> Status:
        if inside_environment() and has_changed(self._others):
            named = ", ".join(self._others.values())
            return Status("changed", named or "another torch is asked for")
        return Status("done", "up to date")

    def check_owner(self, forced: bool) -> None:
        """Does nothing: .venv is the project's own."""

    def locked(self, say: Callable[[str], None], wait: bool) -> AbstractContextManager[None]:
        return nullcontext()  # `run_install_script` locks .venv

    def clear(self) -> None:
        """Does nothing: install.sh makes .venv again."""

    def record_time(self, seconds: float) -> None:
        """Does nothing: there is no manifest."""


def plan(config: "CfgNode", upstream: None = None) -> InstallPlan:
    return InstallPlan()


def estimate(config: "CfgNode", plan: InstallPlan) -> Estimate:
    return Estimate()


def check_machine(config: "CfgNode", plan: InstallPlan) -> None:
    """Does nothing: install.sh checks the machine."""


def run(config: "CfgNode", plan: InstallPlan) -> None:
    """Installs the packages again."""
    run_install_script(log_path(Path(config.SYSTEM.OUTPUT_ROOT), "install"), again=True)


def other_versions() -> dict[str, str]:
    """Returns `numpy 2.3.0 (tested with 2.4.6)` for each package with another version.

    Local version labels do not count: `2.13.0+cu126` is 2.13.0.
    """
    return {
        name: f"{name} {installed} (tested with {pinned})"
        for name, pinned in pinned_requirements().items()
        if (installed := _release(name)) != pinned
    }


def has_changed(others: Iterable[str]) -> bool:
    """True if install.sh would change .venv.

    others: names of the packages with another version.

    Either a version differs, except for the torch that install.sh itself chose, or TORCH_INDEX_URL
    and TORCH_VERSION ask for another torch.
    """
    others = set(others)
    if str(installation().get("torch", "")).partition("+")[0] == _release("torch"):
        others.discard("torch")
    return bool(others) or not has_asked_torch()


def _release(name: str) -> str:
    return importlib.metadata.version(name).partition("+")[0]


def has_run() -> bool:
    """True if this command has run install.sh, in this process or the one it replaced."""
    return os.environ.get(INSTALLED_VARIABLE) == "1"


def run_install_script(log: Path, again: bool = False) -> None:
    """Runs install.sh. Raises StageError with its last line if it fails.

    Waits for another command that runs it, and then returns, unless `again`.
    """
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        print_line(f"install: {line}")

    settings = {"EXTREMEBERT_REINSTALL": "1"} if again else {}
    command = ["bash", str(PROJECT / "install.sh")]
    try:
        with owned(ENVIRONMENT, show, wait=True) as lock:
            if environment_is_ready() and not again:
                return
            # The script's children outlive a kill of this process, and so must the lock.
            code = run_logged(command, log, settings, on_line=show, inherited=[lock])
    except OSError as error:  # a read-only folder, no bash
        raise StageError(f"install.sh cannot be run: {error}", stage="install") from error
    if code:
        cause = next((line for line in reversed(lines) if line.strip()), "install.sh failed")
        raise StageError(cause, log, "install")
    os.environ[INSTALLED_VARIABLE] = "1"


def switched_off_in(config: Path, overrides: Sequence[str]) -> bool:
    """True if INSTALL.ENABLED is False, read without a YAML parser (not installed yet)."""
    pairs = dict(zip(overrides[::2], overrides[1::2], strict=False))  # checked by the loader
    if "INSTALL.ENABLED" in pairs:
        return pairs["INSTALL.ENABLED"].lower() in ("false", "off", "no")
    for text in _texts_from(config):
        section = re.search(
            r"^[\"']?INSTALL[\"']?:([^\n]*\n(?:[ \t#][^\n]*\n?|\n)*)", text, re.MULTILINE
        )
        setting = section and re.search(
            r"(?:^\s+|\{\s*)[\"']?ENABLED[\"']?:\s*[\"']?(\w+)", section[1], re.MULTILINE
        )
        if setting:
            return setting[1].lower() in ("false", "off", "no")
    return False


def _texts_from(config: Path) -> Iterator[str]:
    """Yields the text of a config, of its _BASE_, and so on."""
    seen: list[Path] = []
    while config.is_file() and config.resolve() not in seen:
        text = config.read_text(encoding="utf-8-sig", errors="replace")
        yield text
        seen.append(config.resolve())
        base = re.search(r"^_BASE_:\s*[\"']?([^\"'#\n]+)", text, re.MULTILINE)
        if not base:
            return
        config = config.parent / base[1].strip()


def _report() -> None:
    """Imports all packages, and prints and records the environment.

    Names GPUs that torch cannot use; the environment is complete without them.
    """
    for name in pinned_requirements():
        importlib.import_module(IMPORT_NAMES.get(name, name))
    import deepspeed
    import torch

    system = read_system()
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "kernels": " ".join(torch.cuda.get_arch_list()) or "none",
        "driver": system.driver or system.problem or "none",
        "gpus": listed(system.cards) or "none (training will use the CPU)",
        "deepspeed": deepspeed.__version__,
        "c++ compiler": compiler or "none (not needed)",
    }
    try:
        usable_gpus(-1)
    except ConfigError as error:
        found["not usable"] = error.problems[0].removeprefix("SYSTEM.NUM_GPUS: ")
    for name, value in found.items():
        print(f"{name}: {value}")
    write_json(RECORD, {**found, "asked": asked_torch(), "requirements": requirements_digest()})


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if environment_is_ready() else 1)
    _report()
