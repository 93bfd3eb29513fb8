"""The install stage: are the dependencies there, and if not, install.sh and on inside .venv.

Standard library only: this runs on a bare Python. As a program (`python -m pipeline.install`) it
checks that everything imports, prints what was found and records it; install.sh ends with that.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifacts import write_json
from pipeline.console import print_line
from pipeline.environment import (
    ENVIRONMENT,
    IMPORT_NAMES,
    PROJECT,
    RECORD,
    environment_is_ready,
    pinned_requirements,
    requirements_digest,
)
from pipeline.errors import StageError
from pipeline.ownership import owned
from pipeline.processes import run_logged

# Set once this command has run install.sh, for the processes that it goes on in.
INSTALLED_VARIABLE = "EXTREMEBERT_INSTALLED"


def other_versions() -> list[str]:
    """`numpy 2.3.0 (tested with 2.4.6)` for each package that is not at its pinned version."""
    return [
        f"{name} {installed} (tested with {pinned})"
        for name, pinned in pinned_requirements().items()
        if (installed := importlib.metadata.version(name).partition("+")[0]) != pinned
    ]


def has_run() -> bool:
    """Whether this command has run install.sh, in this process or before it began anew."""
    return os.environ.get(INSTALLED_VARIABLE) == "1"


def run_install_script(log: Path, again: bool = False) -> None:
    """Runs install.sh; its last line is the cause of the StageError if it fails.

    If another command is at that, waits for it, and has nothing to do then, unless it is to be done
    again.
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
            # What the script has started lives on if this process is killed, and so does the lock.
            code = run_logged(command, log, settings, on_line=show, inherited=[lock])
    except OSError as error:  # a folder that may not be written, no bash
        raise StageError(f"install.sh cannot be run: {error}", stage="install") from error
    if code:
        cause = next((line for line in reversed(lines) if line.strip()), "install.sh failed")
        raise StageError(cause, log, "install")
    os.environ[INSTALLED_VARIABLE] = "1"


def switched_off_in(config: Path, overrides: Sequence[str]) -> bool:
    """Whether INSTALL.ENABLED is False, read without a YAML parser, which is not there yet."""
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
    """A config, the one that it builds on, and so on, as far as they are there."""
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
    """Imports everything, prints what was found and records that the environment is complete."""
    for name in pinned_requirements():
        importlib.import_module(IMPORT_NAMES.get(name, name))
    import deepspeed
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpus": ", ".join(gpus) or "none (training will use the CPU)",
        "deepspeed": deepspeed.__version__,
        "c++ compiler": compiler or "none (not needed)",
    }
    for name, value in found.items():
        print(f"{name}: {value}")
    write_json(RECORD, {**found, "requirements": requirements_digest()})


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if environment_is_ready() else 1)
    _report()
