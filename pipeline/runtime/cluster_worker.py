"""Code for Dask workers before they have this project.

Sent to them by value, so it uses only the standard library and `distributed`.
"""

import asyncio
import hashlib
import importlib
import io
import os
import pickle
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin

FOLDER = "extremebert-"  # followed by a digest, in the worker's own temporary folder


def pack_project(project: Path) -> bytes:
    """Returns the Python packages of a repository as a zip file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in sorted(path.parent for path in project.glob("*/__init__.py")):
            for path in sorted(package.rglob("*.py")):
                archive.write(path, path.relative_to(project))
    return packed.getvalue()


class ProjectPlugin(WorkerPlugin):
    """Installs the project's code in each worker, also in later and restarted ones.

    initializer: called once in each worker, after that.
    """

    name = "extremebert"

    def __init__(self, packed: bytes, initializer: Callable[..., None] | None, initargs: tuple):
        self.packed = packed
        self.initialize = pickle.dumps((initializer, initargs))  # its module is in the zip

    def setup(self, worker: Any) -> None:
        os.umask(0o077)  # the jobs' files are for this user only
        digest = hashlib.sha256(self.packed).hexdigest()[:16]
        folder = Path(worker.local_directory) / f"{FOLDER}{digest}"
        if str(folder) not in sys.path:
            self.unpack(folder)
        initializer, initargs = pickle.loads(self.initialize)
        if initializer:
            initializer(*initargs)

    def unpack(self, folder: Path) -> None:
        """Replaces the code of earlier runs: the user may have changed it since."""
        ours = f"{folder.parent}{os.sep}{FOLDER}"  # a checkout elsewhere may have such a name
        for old in [entry for entry in sys.path if entry.startswith(ours)]:
            sys.path.remove(old)
            shutil.rmtree(old, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(self.packed)) as archive:
            archive.extractall(folder)
        packages = {path.parent.name for path in folder.glob("*/__init__.py")}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


class Call:
    """A call without arguments, made by unpickling it: only the worker imports the function."""

    def __init__(self, function: Callable[[], Any]):
        self.function = function

    def __reduce__(self) -> tuple:
        return self.function, ()


def host_name() -> str:
    return socket.gethostname()


def installed_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of packages, "(none)" if missing, and of Python; imports nothing.

    Without local labels: servers with other drivers have the same torch for another CUDA.
    """
    versions = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in packages:
        try:
            versions[package] = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[package] = "(none)"
    return versions


def answer_probe(probe: str, patience_seconds: float = 10.0) -> str:
    """Waits for a file in the shared folder and writes one beside it; returns a problem or ""."""
    deadline = time.monotonic() + patience_seconds
    while not os.path.exists(probe):  # a network file system may show a new file with a delay
        if time.monotonic() > deadline:
            return "does not see it"
        time.sleep(0.2)
    try:
        Path(f"{probe}.{socket.gethostname()}").touch()
    except OSError as error:
        return f"cannot write to it ({error.strerror})"
    return ""


def missing_paths(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]


async def until_idle(patience_seconds: float, dask_worker: Any = None) -> None:
    """Waits for the worker's running job, even a cancelled one: its thread cannot be stopped."""
    deadline = time.monotonic() + patience_seconds
    while dask_worker.state.executing and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
