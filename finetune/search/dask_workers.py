"""Runs the jobs of a search on the workers of a Dask cluster."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.search.scheduler import WorkerDied, attempt
from pipeline.errors import StageError
from pipeline.runtime.executor import num_cores

if TYPE_CHECKING:
    from pipeline.runtime.cluster import Cluster


@contextmanager
def dask_workers(
    scheduler: str, shared_folder: Path, inputs: Iterable[Path]
) -> Iterator["DaskWorkers"]:
    """Yields the workers of a scheduler's address, for a `with` block.

    inputs: files and folders that every worker must be able to read. Raises StageError if the
    cluster cannot be used.
    """
    from pipeline.runtime.cluster import cluster

    with cluster(scheduler, shared_folder, _prepare_worker) as executor:
        executor.check_sees(path.absolute() for path in inputs)
        yield DaskWorkers(executor)


class DaskWorkers:
    """Runs as many jobs at a time as there are workers; Dask assigns them.

    Dask itself retries a job whose worker died, up to three times.
    """

    def __init__(self, cluster: "Cluster"):
        self.cluster = cluster
        self.num_workers = cluster.num_workers

    def submit(self, number: int, function: Callable, job: Any) -> Future:
        return self.cluster.submit(_on_cluster, self.cluster.workers_per_host, function, job)

    def collect(self, number: int, future: Future) -> Any:
        try:
            return future.result()
        except (Exception, CancelledError) as error:
            from distributed import KilledWorker

            if isinstance(error, KilledWorker):
                deaths = error.allowed_failures + 1
                cause = f"it ended {deaths} worker(s), most likely out of memory"
                return WorkerDied(cause, retry=False)
            raise StageError(self.cluster.problem(error) or f"Dask: {error}") from error

    def problem(self) -> str:
        return self.cluster.problem()


def _prepare_worker() -> None:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _on_cluster(workers_per_host: Mapping[str, int], function: Callable, job: Any) -> Any:
    """Runs a job in a worker, with an equal share of its server's cores.

    The visible GPUs are those that the worker was started with.
    """
    import torch

    from pipeline.runtime.cluster_worker import host_name

    torch.set_num_threads(max(1, num_cores() // workers_per_host.get(host_name(), num_cores())))
    return attempt(function, job)
