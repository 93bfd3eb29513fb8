"""The packages in .venv, and how every program of this repository goes on in there.

Standard library only, and no syntax of a newer Python: an old one loads this, and then goes on in
a .venv that has a newer one, or gets a sentence.
"""

import hashlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)
PROJECT = Path(__file__).resolve().parent.parent
REQUIREMENTS = PROJECT / "requirements.txt"
ENVIRONMENT = PROJECT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
RECORD = ENVIRONMENT / "installed.json"

# Set for the process that a command goes on in.
ANEW_VARIABLE = "EXTREMEBERT_BEGUN_ANEW"

# What a user asks for instead of the torch that fits: an index of pip's, a release.
TORCH_VARIABLES = ("TORCH_INDEX_URL", "TORCH_VERSION")

# Names under which distributions are imported, where the two differ.
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "pytorch-optimizer": "pytorch_optimizer",
    "protobuf": "google.protobuf",
}


# --- what is there -----------------------------------------------------------------------------


def pinned_requirements() -> "dict[str, str]":
    """`{distribution: version}` as requirements.txt pins them for this Python."""
    pins = {}
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition(";")
        name, pinned, version = requirement.strip().partition("==")
        if pinned and (not marker or ("<" in marker) == (sys.version_info < (3, 11))):
            pins[name] = version
    return pins


def missing_packages() -> "list[str]":
    """Distributions of requirements.txt that cannot be imported here; nothing is imported."""
    return [
        name for name in pinned_requirements() if not _can_be_found(IMPORT_NAMES.get(name, name))
    ]


def _can_be_found(module: str) -> bool:
    """True if a module is installed; looking for `a.b` raises where there is no `a`."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def inside_environment() -> bool:
    return Path(sys.prefix).resolve() == ENVIRONMENT.resolve()


def begun_anew() -> bool:
    """Whether this process was started by `continue_inside_environment`."""
    return os.environ.get(ANEW_VARIABLE) == "1"


def environment_is_ready() -> bool:
    """True if .venv was completed from the requirements as they are now, and its Python runs.

    It is a link to the system's, which an update may have taken away.
    """
    complete = installation().get("requirements") == requirements_digest()
    return complete and has_asked_torch() and os.access(str(PYTHON), os.X_OK)


def installation() -> "dict[str, object]":
    """What install.sh has recorded of .venv; empty without a readable record."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def has_asked_torch() -> bool:
    """True if .venv has the torch that TORCH_VARIABLES ask for now; any, if they ask for none."""
    recorded = installation().get("asked", {})
    return all(recorded.get(name) == value for name, value in asked_torch().items())


def asked_torch() -> "dict[str, str]":
    """Those of TORCH_VARIABLES that are set, as they may be shown."""
    return {
        name: without_secrets(os.environ[name]) for name in TORCH_VARIABLES if os.environ.get(name)
    }


def without_secrets(url: str) -> str:
    """A URL without its user, password, query and fragment; what is no URL stays as it is."""
    return re.split("[?#]", re.sub("//.*@", "//", url))[0]


def requirements_digest() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def locked_out() -> str:
    """A line if .venv has a Python that this user may not run, else an empty string."""
    try:
        os.stat(str(PYTHON))
    except PermissionError:
        pass
    except OSError:  # not there, or a link to what an update has taken away
        return ""
    else:
        if os.access(str(PYTHON), os.X_OK):
            return ""
    return (
        f"{PYTHON} leads to {os.path.realpath(str(PYTHON))}, which this user may not run; make "
        f"{ENVIRONMENT} again with a Python that all may run (PYTHON=/usr/bin/python3 bash "
        "install.sh), or work in a copy of this folder without it"
    )


# --- going on in there -------------------------------------------------------------------------


def enter_environment() -> None:
    """Goes on in .venv with this very command if packages are missing here.

    The first thing that a program does, before it imports them. Exits with 3, and a line that says
    what to do, if .venv cannot help.
    """
    is_old = sys.version_info < OLDEST_PYTHON
    if not is_old and not missing_packages():
        return
    if environment_is_ready() and not inside_environment() and not begun_anew():
        continue_inside_environment(sys.argv[1:])
    print(_why_not(is_old), file=sys.stderr)
    sys.exit(3)


def _why_not(is_old: bool) -> str:
    problem = locked_out()
    if problem:
        return problem
    if is_old:
        version, oldest = sys.version.split()[0], ".".join(map(str, OLDEST_PYTHON))
        return f"ExtremeBERT needs Python {oldest} or newer, this is {version} ({sys.executable})"
    missing = "missing packages: " + ", ".join(missing_packages())
    if environment_is_ready():  # and this is what is in it
        return f"{missing}; `{install_command()}` puts them into {ENVIRONMENT} again"
    main = f"python3 {PROJECT / 'main.py'} --config YAML"
    return f"{missing}; `{install_command()}` or `{main}` puts them into {ENVIRONMENT}"


def install_command() -> str:
    """What puts missing packages into .venv; one whose record is complete is up to date without."""
    again = "EXTREMEBERT_REINSTALL=1 " if environment_is_ready() else ""
    return f"{again}bash {PROJECT / 'install.sh'}"


def continue_inside_environment(arguments: "list[str]") -> None:
    """Replaces this process by the same program in .venv; does not return.

    Exits with 3, and a line, if the system cannot run what is there.
    """
    sys.stdout.flush()
    os.environ[ANEW_VARIABLE] = "1"
    spec = sys.modules["__main__"].__spec__  # of `python -m`, which hides the name from sys.argv
    program = ["-m", spec.name] if spec else [sys.argv[0]]
    try:
        os.execv(str(PYTHON), [str(PYTHON), *program, *arguments])
    except OSError as error:  # it was made for another machine, say
        install = f"bash {PROJECT / 'install.sh'}"
        print(
            f"{PYTHON} cannot be run ({error.strerror}); `{install}` makes {ENVIRONMENT} again",
            file=sys.stderr,
        )
        sys.exit(3)
