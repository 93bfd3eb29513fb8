"""Where a search stands: which jobs are done, which can run now, which wait for others."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from finetune.search.grid import HALVING, STILT_SOURCE, Job, best_job, halving_jobs, possible_best
from finetune.search.job_folder import JobRun, drop_model, has_model


class SearchProgress:
    """Hands out jobs and takes their results.

    jobs: the whole grid, in the order in which they should run. make_run: a job and the MNLI job
    that it starts from (or None) to a JobRun. search: `grid` or `halving`. results: of the jobs
    that are done, this run's and earlier ones'.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        make_run: Callable[[Job, Job | None], JobRun],
        search: str = "grid",
    ):
        self.order = list(jobs)
        self.make_run = make_run
        self.search = search
        self.results: dict[Job, dict] = {}
        self.failures: dict[Job, Exception] = {}
        self.running: set[Job] = set()
        self._looked_at: set[Job] = set()
        self._grids: dict[str, list[Job]] = defaultdict(list)
        for job in self.order:
            self._grids[job.task].append(job)
        self._reuse_results()

    def next_run(self) -> JobRun | None:
        """A job that can begin now, or None."""
        for job in self.waiting:
            if not job.stilt:
                return self._begin(job)
            source = self.best_source()
            if source is None or source in self.running:
                continue
            if has_model(self._folder(source)):
                return self._begin(job)
            if source not in self.failures:  # done long ago, its weights were dropped, or damaged
                return self._begin(source)
        return None

    def record(self, job: Job, outcome: dict | Exception) -> None:
        """Takes a job's result, or the reason why it has none."""
        self.running.discard(job)
        if isinstance(outcome, Exception):
            self.failures[job] = outcome
            self.results.pop(job, None)
            return
        if job in self.results:
            # Done again for its weights, it can have another score: the hardware or the number of
            # threads may have changed. What follows from the score is looked up anew.
            self.results.clear()
            self._looked_at = {job}
        self.results[job] = outcome
        self._reuse_results()

    @property
    def waiting(self) -> list[Job]:
        """The jobs that are to be run, as far as is known, and have not begun."""
        begun = {*self.results, *self.failures, *self.running}
        wanted = {job for task in self._grids for job in self.wanted(task)}
        return [job for job in self.order if job in wanted and job not in begun]

    def wanted(self, task: str) -> list[Job]:
        """The jobs of a task that are to be run, as far as the results tell."""
        grid = self._grids.get(task, [])
        return halving_jobs(grid, self._scores(task)) if self.search == HALVING else grid

    def is_complete(self, task: str) -> bool:
        return all(job in self.results for job in self.wanted(task))

    @property
    def incomplete_tasks(self) -> list[str]:
        return sorted(task for task in self._grids if not self.is_complete(task))

    def best_source(self) -> Job | None:
        """The best MNLI job, once all of them are done."""
        if STILT_SOURCE not in self._grids or not self.is_complete(STILT_SOURCE):
            return None
        return best_job(self._scores(STILT_SOURCE))

    def run_of(self, job: Job) -> JobRun:
        return self.make_run(job, self.best_source() if job.stilt else None)

    def _scores(self, task: str) -> dict[Job, float]:
        done = (job for job in self._grids[task] if job in self.results)
        return {job: self.results[job]["score"] for job in done}

    def _begin(self, job: Job) -> JobRun:
        self.running.add(job)
        return self.run_of(job)

    def _reuse_results(self) -> None:
        """Takes over what an earlier run of the same search left.

        One result can show that others are wanted, and which MNLI job is best decides what a
        STILT result is worth.
        """
        while new := [job for job in self.waiting if self._can_look_at(job)]:
            for job in new:
                self._looked_at.add(job)
                if (result := self.run_of(job).result) is not None:
                    self.results[job] = result
        self._drop_losers()

    def _can_look_at(self, job: Job) -> bool:
        return job not in self._looked_at and (not job.stilt or self.best_source() is not None)

    def _drop_losers(self) -> None:
        """Weights of MNLI models that cannot be the best one any more are not needed.

        As long as those that can be it lack their own, a run is to come that may change this.
        """
        scores = self._scores(STILT_SOURCE) if STILT_SOURCE in self._grids else {}
        kept = possible_best(self.wanted(STILT_SOURCE), scores)
        if all(has_model(self._folder(job)) for job in kept):
            for job in scores.keys() - kept - self.running:
                drop_model(self._folder(job))

    def _folder(self, source: Job) -> Path:
        return self.make_run(source, None).folder
