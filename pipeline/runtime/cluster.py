"""A Dask cluster behind the interface of `concurrent.futures.Executor`.

    dask scheduler                                                      on one server
    dask worker tcp://server:8786 --nworkers 16 --nthreads 1 --memory-limit 0     on each server

The workers need the same packages as this machine and a folder that all see under the same path.
They get this project's code from here, so nothing of it need be there.
"""

import logging
import pickle
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StageError

if TYPE_CHECKING:
    from distributed import Client

KEY = "SYSTEM.DASK_SCHEDULER"
PROJECT = Path(__file__).resolve().parents[2]
CONNECT_SECONDS = 10
FIRST_WORKER_SECONDS = 10
NO_WORKER_SECONDS = 60  # a worker that was killed needs some seconds to come back
DRAIN_SECONDS = 60
RETRIES = 2  # of a job that raised: network file systems have their moments
# What decides the bytes of text shards and samples, and the results of finetuning.
SAME_PACKAGES = (
    *("distributed", "h5py", "numpy", "pyarrow", "sentencex", "tokenizers"),
    *("torch", "transformers"),
)
LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")


class Cluster(Executor):
    """The workers of a Dask cluster that passed all checks.

    workers_per_host: number of workers by host name. num_workers: their sum, the jobs that run at
    the same time. A job whose worker died runs again on another one.
    """

    def __init__(self, client: "Client", address: str, workers_per_host: dict[str, int]):
        self.address = address
        self.workers_per_host = workers_per_host
        self.num_workers = sum(workers_per_host.values())
        self._client = client
        self._jobs = client.get_executor(pure=False, retries=RETRIES)
        self._last_seen = time.monotonic()

    def submit(self, function: Callable, /, *args: Any) -> Future:
        from pipeline.runtime.cluster_worker import Call

        return self._jobs.submit(pickle.loads, pickle.dumps(Call(function, args)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._jobs.shutdown(wait=wait and not cancel_futures)

    def problem(self, error: Exception | None = None) -> str:
        """What is wrong with the cluster itself, or an empty string."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return (
                f"{KEY}: one and the same job ended {error.allowed_failures + 1} workers, the last "
                f"{error.last_worker.address}, most likely because the server ran out of memory; "
                "lower SYSTEM.MAX_MEMORY_IN_GB and look into the worker's log"
            )
        if isinstance(error, CancelledError) or self._client.status not in (
            "running",
            "connecting",
        ):
            return f"{KEY}: the Dask scheduler at {self.address} went away"
        return "" if error else self._without_workers()

    def _without_workers(self) -> str:
        with suppress(OSError):
            if self._client.nthreads():
                self._last_seen = time.monotonic()
        if time.monotonic() - self._last_seen < NO_WORKER_SECONDS:
            return ""
        return (
            f"{KEY}: all workers of {self.address} are gone; "
            "start them and run again, finished files are kept"
        )

    def check_sees(self, paths: Iterable[Path]) -> None:
        """StageError if a path that exists here does not exist on one of the hosts."""
        from pipeline.runtime.cluster_worker import missing_paths

        wanted = [str(path) for path in paths if path.exists()]
        for worker, missing in self._client.run(missing_paths, wanted).items():
            if missing:
                raise StageError(
                    f"{KEY}: worker {worker} does not see {missing[0]}; "
                    "all servers need the text under the same path"
                )


@contextmanager
def cluster(
    address: str,
    shared_folder: Path,
    initializer: Callable[..., None] | None = None,
    initargs: tuple = (),
    project: Path = PROJECT,
) -> Iterator[Cluster]:
    """The cluster behind a scheduler's address, for a `with` block.

    shared_folder: what the workers write to; it must be the same folder on all servers. initializer
    and initargs: called once in every worker, as with `local_pool`. Raises StageError, naming what
    to do, if the cluster cannot be used. At the end, jobs that still run are waited for.
    """
    with _quiet(), _connected(address) as client:
        _check_workers(client, address)
        _check_versions(client)
        _send_project(client, project, initializer, initargs)
        _check_shared(client, shared_folder)
        executor = Cluster(client, address, _workers_per_host(client))
        try:
            yield executor
        finally:
            _drain(client)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Dask's own log lines and warnings off our console."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(ImportError):
                import distributed  # noqa: F401 (sets up its loggers)
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    try:
        from cloudpickle import register_pickle_by_value
        from distributed import Client

        from pipeline.runtime import cluster_worker
    except ImportError as error:
        raise StageError(
            f"{KEY}: the package {error.name} is missing: "
            f"{sys.executable} -m pip install -r requirements-dask.txt"
        ) from error
    register_pickle_by_value(cluster_worker)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise StageError(
            f"{KEY}: no Dask scheduler answers at {address}; start one with `dask scheduler`, "
            "and mind that it and its workers run the version in requirements-dask.txt"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_SECONDS)


def _check_workers(client: "Client", address: str) -> None:
    from distributed.exceptions import WorkerStartTimeoutError

    command = f"`dask worker {address} --nworkers N --nthreads 1 --memory-limit 0`"
    with suppress(WorkerStartTimeoutError):
        client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
    threads = client.nthreads()
    if not threads:
        raise StageError(f"{KEY}: {address} has no workers; start some on each server: {command}")
    for worker, number in threads.items():
        if number != 1:
            raise StageError(
                f"{KEY}: worker {worker} has {number} threads, expected 1 and as many workers as "
                f"cores: {command}"
            )


def _check_versions(client: "Client") -> None:
    """StageError if Python or a package that decides the results is not the same everywhere."""
    from pipeline.runtime.cluster_worker import installed_versions

    here = installed_versions(SAME_PACKAGES)
    for worker, found in client.run(installed_versions, SAME_PACKAGES).items():
        for package, version in found.items():
            if version != here[package]:
                raise StageError(
                    f"{KEY}: worker {worker} has {package} {version}, this machine "
                    f"{here[package]}; install requirements.txt and requirements-dask.txt there "
                    "with the same Python"
                )


def _send_project(
    client: "Client", project: Path, initializer: Callable[..., None] | None, initargs: tuple
) -> None:
    from pipeline.runtime.cluster_worker import ProjectPlugin, pack_project

    try:
        client.register_plugin(ProjectPlugin(pack_project(project), initializer, initargs))
    except Exception as error:  # raised in a worker, so it can be anything
        raise StageError(
            f"{KEY}: a worker cannot take over this project's code: {type(error).__name__}: {error}"
        ) from error


def _check_shared(client: "Client", folder: Path) -> None:
    """Every worker must see a file that is made here, and must be able to write beside it."""
    from pipeline.runtime.cluster_worker import answer_probe

    folder.mkdir(parents=True, exist_ok=True)
    probe = folder.absolute() / f".probe-{uuid.uuid4().hex}"
    try:
        probe.touch()
        for worker, problem in client.run(answer_probe, str(probe)).items():
            if problem:
                raise StageError(
                    f"{KEY}: {folder.absolute()} is not shared: worker {worker} {problem}; set "
                    "SYSTEM.OUTPUT_ROOT to a folder that all servers see under the same path"
                )
    finally:
        for path in folder.glob(f"{probe.name}*"):
            path.unlink(missing_ok=True)


def _workers_per_host(client: "Client") -> dict[str, int]:
    from pipeline.runtime.cluster_worker import host_name

    return dict(sorted(Counter(client.run(host_name).values()).items()))


def _drain(client: "Client") -> None:
    """Lets jobs that were running end: they write files, and what comes next may write them too."""
    from pipeline.runtime.cluster_worker import ProjectPlugin, until_idle

    with suppress(OSError, RuntimeError, ValueError):  # there may be nobody left to wait for
        if client.status == "running":
            client.run(until_idle, DRAIN_SECONDS, on_error="ignore")
            client.unregister_worker_plugin(ProjectPlugin.name)
