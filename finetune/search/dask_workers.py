"""The jobs of a search on the workers of a Dask cluster."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.search.job_folder import JobRun, Source
from finetune.search.scheduler import WorkerDied, attempt
from pipeline.errors import StageError
from pipeline.runtime.executor import num_cores

if TYPE_CHECKING:
    from pipeline.runtime.cluster import Cluster


@contextmanager
def cluster_workers(
    scheduler: str, shared_folder: Path, inputs: Iterable[Path]
) -> Iterator["ClusterWorkers"]:
    """The workers behind a scheduler's address, for a `with` block.

    inputs: files and folders that each of them has to see. Raises StageError if the cluster
    cannot be used.
    """
    from pipeline.runtime.cluster import cluster

    with cluster(scheduler, shared_folder, _prepare_worker) as executor:
        executor.check_sees(path.absolute() for path in inputs)
        yield ClusterWorkers(executor)


class ClusterWorkers:
    """As many jobs at a time as there are workers: which one does a job is Dask's choice.

    A job whose worker died is given to another one by Dask itself, up to three times.
    """

    def __init__(self, cluster: "Cluster"):
        self.cluster = cluster
        self.num_workers = cluster.num_workers

    def submit(self, place: int, function: Callable, job: Any) -> Future:
        return self.cluster.submit(_on_cluster, self.cluster.workers_per_host, function, job)

    def take_back(self, place: int, future: Future) -> Any:
        try:
            return future.result()
        except (Exception, CancelledError) as error:
            from distributed import KilledWorker

            if isinstance(error, KilledWorker):
                number = error.allowed_failures + 1
                cause = f"it ended {number} worker(s), most likely out of memory"
                return WorkerDied(cause, retry=False)
            raise StageError(self.cluster.problem(error) or f"Dask: {error}") from error

    def problem(self) -> str:
        return self.cluster.problem()


def with_absolute_paths(run: JobRun) -> JobRun:
    """The same run for a worker that has another working directory. Names on the Hub stay."""
    folder, log = run.folder.absolute(), run.log.absolute()
    return replace(run, source=absolute_source(run.source), folder=folder, log=log)


def absolute_source(source: Source) -> Source:
    return Source(
        start=_absolute(source.start),
        base=_absolute(source.base),
        data_dir=_absolute(source.data_dir),
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path and Path(path).exists() else path


def _prepare_worker() -> None:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _on_cluster(workers_per_host: Mapping[str, int], function: Callable, job: Any) -> Any:
    """Runs in a worker, which shares its server's cores with the others there evenly.

    The GPUs are those that the worker was started with.
    """
    import torch

    from pipeline.runtime.cluster_worker import host_name

    torch.set_num_threads(max(1, num_cores() // workers_per_host.get(host_name(), num_cores())))
    return attempt(function, job)
