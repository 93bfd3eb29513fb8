"""A Dask cluster behind the interface of `concurrent.futures.Executor`.

    dask scheduler                                                      on one server
    dask worker tcp://server:8786 --nworkers 16 --nthreads 1 --memory-limit 0     on each server

The workers need the same packages as this machine and a shared folder with the same path. They get
this project's code from here.
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
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import StageError

with suppress(ImportError):  # reported by `_connected`
    from cloudpickle import register_pickle_by_value
    from distributed import Client, KilledWorker
    from distributed.exceptions import WorkerStartTimeoutError

    from pipeline.runtime import cluster_worker

KEY = "SYSTEM.DASK_SCHEDULER"
PROJECT = Path(__file__).resolve().parents[2]
CONNECT_SECONDS = 10
FIRST_WORKER_SECONDS = 10
NO_WORKER_SECONDS = 60  # a killed worker needs some seconds to restart
DRAIN_SECONDS = 60
RETRIES = 2  # of a failed job: errors of network file systems can be temporary
# Packages that affect the bytes of text shards and samples, and the results of finetuning.
SAME_PACKAGES = (
    *("distributed", "h5py", "numpy", "pyarrow", "sentencex", "tokenizers"),
    *("torch", "transformers"),
)
LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")


class Cluster(Executor):
    """The workers of a checked Dask cluster.

    workers_per_host: number of workers by host name. num_workers: their sum, the number of jobs at
    the same time. Jobs of a dead worker run again on another.
    """

    def __init__(self, client: "Client", address: str, workers_per_host: dict[str, int]):
        self.address = address
        self.workers_per_host = workers_per_host
        self.num_workers = sum(workers_per_host.values())
        self._client = client
        self._jobs = client.get_executor(pure=False, retries=RETRIES)
        self._last_seen = time.monotonic()

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        call = cluster_worker.Call(partial(function, *args, **kwargs))
        return self._jobs.submit(pickle.loads, pickle.dumps(call))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._jobs.shutdown(wait=wait and not cancel_futures)

    def problem(self, error: Exception | None = None) -> str:
        """Returns why the cluster itself failed, "" if it did not."""
        if isinstance(error, KilledWorker):
            return (
                f"{KEY}: one and the same job ended {error.allowed_failures + 1} workers, the last "
                f"{error.last_worker.address}, most likely because the server ran out of memory; "
                "lower SYSTEM.MAX_MEMORY_IN_GB and look into the worker's log"
            )
        has_scheduler = self._client.status in ("running", "connecting")
        if isinstance(error, CancelledError) or not has_scheduler:
            return f"{KEY}: the Dask scheduler at {self.address} went away"
        return "" if error else self._lack_of_workers()

    def _lack_of_workers(self) -> str:
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
        """Raises StageError if one of the local paths is missing on one of the hosts."""
        wanted = [str(path) for path in paths if path.exists()]
        for worker, missing in self._client.run(cluster_worker.missing_paths, wanted).items():
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
    """Yields the cluster of the scheduler at an address; at the end waits for running jobs.

    shared_folder: the output folder, the same on all servers. initializer and initargs: called once
    in every worker, as with `local_pool`. Raises StageError with the remedy if the cluster is
    unusable.
    """
    with _quiet(), _connected(address) as client:
        _check_workers(client, address)
        _check_versions(client)
        _send_project(client, project, initializer, initargs)
        _check_shared(client, shared_folder)
        hosts = Counter(client.run(cluster_worker.host_name).values())
        try:
            yield Cluster(client, address, dict(sorted(hosts.items())))
        finally:
            _drain(client)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Dask's log lines and warnings off the console."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    try:
        import distributed  # noqa: F401
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
    """Raises StageError if Python or one of SAME_PACKAGES differs between the machines."""
    here = cluster_worker.installed_versions(SAME_PACKAGES)
    for worker, found in client.run(cluster_worker.installed_versions, SAME_PACKAGES).items():
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
    packed = cluster_worker.pack_project(project)
    try:
        client.register_plugin(cluster_worker.ProjectPlugin(packed, initializer, initargs))
    except Exception as error:  # raised in a worker, so it can be anything
        raise StageError(
            f"{KEY}: a worker cannot take over this project's code: {type(error).__name__}: {error}"
        ) from error


def _check_shared(client: "Client", folder: Path) -> None:
    """Raises StageError unless every worker sees a new file here and can write beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder.absolute() / f".probe-{uuid.uuid4().hex}"
    try:
        probe.touch()
        for worker, problem in client.run(cluster_worker.answer_probe, str(probe)).items():
            if problem:
                raise StageError(
                    f"{KEY}: {folder.absolute()} is not shared: worker {worker} {problem}; set "
                    "SYSTEM.OUTPUT_ROOT to a folder that all servers see under the same path"
                )
    finally:
        for path in folder.glob(f"{probe.name}*"):
            path.unlink(missing_ok=True)


def _drain(client: "Client") -> None:
    """Waits for running jobs: the next command may write the same files."""
    with suppress(OSError, RuntimeError, ValueError):  # the scheduler or the workers may be gone
        if client.status == "running":
            client.run(cluster_worker.until_idle, DRAIN_SECONDS, on_error="ignore")
            client.unregister_worker_plugin(cluster_worker.ProjectPlugin.name)
