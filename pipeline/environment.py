"""The packages in .venv, and the restart of every program of this repository in it.

Standard library only, in the syntax of Python 3.7: an old Python loads this, and then restarts the
program in a .venv with a newer one, or prints an error message.
"""

import hashlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

OLDEST_PYTHON = (3, 10)
PROJECT = Path(__file__).resolve().parent.parent
REQUIREMENTS = PROJECT / "requirements.txt"
ENVIRONMENT = PROJECT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
RECORD = ENVIRONMENT / "installed.json"

# Set in the environment of a restarted process.
REEXECUTED_VARIABLE = "EXTREMEBERT_REEXECUTED"

# The user's choice of a torch: a package index, a release.
TORCH_VARIABLES = ("TORCH_INDEX_URL", "TORCH_VERSION")

# Import names that differ from the distribution's.
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "pytorch-optimizer": "pytorch_optimizer",
    "protobuf": "google.protobuf",
}


# --- the state of .venv ------------------------------------------------------------------------


def pinned_requirements() -> "dict[str, str]":
    """Returns `{distribution: version}` of requirements.txt for this Python."""
    pins = {}
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition(";")
        name, pinned, version = requirement.strip().partition("==")
        if pinned and (not marker or ("<" in marker) == (sys.version_info < (3, 11))):
            pins[name] = version
    return pins


def missing_packages() -> "list[str]":
    """Returns the distributions of requirements.txt missing here; imports nothing."""
    return [
        name for name in pinned_requirements() if not _can_be_found(IMPORT_NAMES.get(name, name))
    ]


def _can_be_found(module: str) -> bool:
    """True if a module is installed."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of `a`, looking for `a.b`
        return False


def inside_environment() -> bool:
    return Path(sys.prefix).resolve() == ENVIRONMENT.resolve()


def was_reexecuted() -> bool:
    """True if `continue_inside_environment` has started this process."""
    return os.environ.get(REEXECUTED_VARIABLE) == "1"


def environment_is_ready() -> bool:
    """True if .venv is complete for the present requirements, and its Python runs.

    That is a link to the system's Python, which an update may have removed.
    """
    complete = installation().get("requirements") == requirements_digest()
    return complete and has_asked_torch() and os.access(str(PYTHON), os.X_OK)


def installation() -> "dict[str, Any]":
    """Returns install.sh's record of .venv, {} if it is unreadable."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def has_asked_torch() -> bool:
    """True if .venv has the torch of TORCH_VARIABLES, or if none is set."""
    recorded = installation().get("asked", {})
    return all(recorded.get(name) == value for name, value in asked_torch().items())


def asked_torch() -> "dict[str, str]":
    """Returns the TORCH_VARIABLES of the environment, without secrets."""
    return {
        name: without_secrets(os.environ[name]) for name in TORCH_VARIABLES if os.environ.get(name)
    }


def without_secrets(url: str) -> str:
    """Removes user, password, query and fragment from a URL."""
    return re.split("[?#]", re.sub("//.*@", "//", url))[0]


def requirements_digest() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


# --- restarting in it --------------------------------------------------------------------------


def enter_environment() -> None:
    """Restarts this command in .venv if packages are missing here.

    Every program calls it before it imports packages. Exits with 3 and a line with the remedy if
    .venv lacks them too.
    """
    is_old = sys.version_info < OLDEST_PYTHON
    if not is_old and not missing_packages():
        return
    if environment_is_ready() and not inside_environment() and not was_reexecuted():
        continue_inside_environment(sys.argv[1:])
    print(_why_not(is_old), file=sys.stderr)
    sys.exit(3)


def _why_not(is_old: bool) -> str:
    if is_old:
        version, oldest = sys.version.split()[0], ".".join(map(str, OLDEST_PYTHON))
        return f"ExtremeBERT needs Python {oldest} or newer, this is {version} ({sys.executable})"
    missing = "missing packages: " + ", ".join(missing_packages())
    if environment_is_ready():  # it has lost them
        return f"{missing}; `{install_command()}` puts them into {ENVIRONMENT} again"
    main = f"python3 {PROJECT / 'main.py'} --config YAML"
    return f"{missing}; `{install_command()}` or `{main}` puts them into {ENVIRONMENT}"


def install_command() -> str:
    """Returns the command to put missing packages into .venv, even if its record is complete."""
    again = "EXTREMEBERT_REINSTALL=1 " if environment_is_ready() else ""
    return f"{again}bash {PROJECT / 'install.sh'}"


def continue_inside_environment(arguments: "list[str]") -> None:
    """Replaces this process by the same program in .venv; does not return.

    Exits with 3, and a line, if the system cannot run its Python.
    """
    sys.stdout.flush()
    os.environ[REEXECUTED_VARIABLE] = "1"
    spec = sys.modules["__main__"].__spec__  # of `python -m`: sys.argv lacks the module's name
    program = ["-m", spec.name] if spec else [sys.argv[0]]
    try:
        os.execv(str(PYTHON), [str(PYTHON), *program, *arguments])
    except OSError as error:  # e.g. made for another machine
        install = f"bash {PROJECT / 'install.sh'}"
        print(
            f"{PYTHON} cannot be run ({error.strerror}); `{install}` makes {ENVIRONMENT} again",
            file=sys.stderr,
        )
        sys.exit(3)
