"""Where a search stands: which jobs are done, which can run now, which wait for MNLI."""

from collections.abc import Callable, Iterable

from finetune.runs import JobRun, drop_model, model_path
from finetune.search import STILT_SOURCE, Job, best_job


class SearchProgress:
    """Hands out jobs and takes their results.

    jobs: in the order in which they should run. make_run: a job and the MNLI job that it starts
    from (or None) to a JobRun. results: of the jobs that are done, this run's and earlier ones'.
    """

    def __init__(self, jobs: Iterable[Job], make_run: Callable[[Job, Job | None], JobRun]):
        self.make_run = make_run
        self.waiting = list(jobs)
        self.sources = [job for job in self.waiting if job.task == STILT_SOURCE]
        self.results: dict[Job, dict] = {}
        self.failures: dict[Job, Exception] = {}
        self.running: set[Job] = set()
        self._reuse_results()
        self._drop_losers()

    def best_source(self) -> Job | None:
        """The best MNLI job, once all of them are done."""
        if not self.sources or any(job not in self.results for job in self.sources):
            return None
        return best_job({job: self.results[job]["score"] for job in self.sources})

    def next_run(self) -> JobRun | None:
        """A job that can begin now, or None."""
        for job in self.waiting:
            if not job.stilt:
                return self._begin(job)
            source = self.best_source()
            if source is None or source in self.running:
                continue
            if model_path(self.make_run(source, None).folder).exists():
                return self._begin(job)
            if source not in self.failures:  # done long ago, its weights were dropped since
                return self._begin(source)
        return None

    def record(self, job: Job, outcome: dict | Exception) -> None:
        """Takes a job's result, or the reason why it has none."""
        self.running.discard(job)
        if isinstance(outcome, Exception):
            self.failures[job] = outcome
            self.results.pop(job, None)
            return
        self.results[job] = outcome
        if job.task == STILT_SOURCE:
            self._drop_losers()
            self._reuse_results()

    def run_of(self, job: Job) -> JobRun:
        return self.make_run(job, self.best_source() if job.stilt else None)

    def _begin(self, job: Job) -> JobRun:
        if job in self.waiting:
            self.waiting.remove(job)
        self.running.add(job)
        return self.run_of(job)

    def _reuse_results(self) -> None:
        """Takes over what an earlier run of the same search left."""
        for stilt in (False, True):  # which MNLI job is best decides what a STILT result is worth
            for job in [job for job in self.waiting if job.stilt == stilt]:
                if stilt and self.best_source() is None:
                    continue
                if (result := self.run_of(job).result) is not None:
                    self.results[job] = result
                    self.waiting.remove(job)

    def _drop_losers(self) -> None:
        """Only the best MNLI model's weights are needed from now on."""
        best = self.best_source()
        for job in self.sources:
            if best is not None and job != best:
                drop_model(self.make_run(job, None).folder)
