"""Tracks a search: finished jobs, jobs that can start now, and jobs that wait for others."""

from collections.abc import Callable, Iterable, Sequence

from finetune.search.grid import (
    ALL,
    ALL_ROWS,
    BEST,
    HALVING,
    NONE,
    STILT_SOURCE,
    Job,
    best_job,
    by_task,
    halving_jobs,
    possible_best,
)
from finetune.search.job_folder import JobRun, drop_model, has_model


class SearchState:
    """Hands out jobs and takes their results.

    jobs: the whole grid, in running order. make_run: returns the JobRun of a job and the MNLI job
    that it starts from (or None). search: `grid` or `halving`. keep_models: best | all | none; the
    model that other tasks start from is kept in any case. results: of all finished jobs, also of
    earlier searches.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        make_run: Callable[[Job, Job | None], JobRun],
        search: str = "grid",
        keep_models: str = BEST,
    ):
        self.jobs = jobs
        self.make_run = make_run
        self.search = search
        self.keep_models = keep_models
        self.results: dict[Job, dict] = {}
        self.failures: dict[Job, Exception] = {}
        self.running: set[Job] = set()
        self._looked_up: set[Job] = set()
        self._grids = by_task(jobs)
        self._reuse_results()

    def next_run(self) -> JobRun | None:
        """Returns a job that can start now, or None."""
        for job in self.waiting:
            if not job.stilt:
                return self._start(job)
            source = self.best_source()
            if source is None or source in self.running:
                continue
            if self._has_model(source):
                return self._start(job)
            if source not in self.failures:  # its weights were deleted or damaged: run it again
                return self._start(source)
        return next((self._start(job) for job in self.without_model), None)

    def record(self, job: Job, outcome: dict | Exception) -> None:
        """Takes a job's result, or its failure."""
        self.running.discard(job)
        if isinstance(outcome, Exception):
            self.failures[job] = outcome
            self.results.pop(job, None)
            return
        if job in self.results:
            # A repeated run can have another score, on other hardware or with other threads. The
            # jobs that depend on the score are looked up again.
            self.results.clear()
            self._looked_up = {job}
        self.results[job] = outcome
        self._reuse_results()

    @property
    def waiting(self) -> list[Job]:
        """The jobs known to be wanted and not started."""
        started = {*self.results, *self.failures, *self.running}
        wanted = {job for task in self._grids for job in self.wanted(task)} - started
        after_folds = [job for job in wanted if job.fold == ALL_ROWS]
        return [*(job for job in self.jobs if job in wanted), *sorted(after_folds, key=str)]

    @property
    def without_model(self) -> list[Job]:
        """The finished jobs that run again for a model to keep: it was not kept, or is damaged."""
        if self.keep_models == NONE:
            return []
        kept = [job for task in self._grids for job in self._to_keep(task)]
        busy = {*self.running, *self.failures}
        return [job for job in kept if job not in busy and not self._has_model(job)]

    def _to_keep(self, task: str) -> list[Job]:
        """Returns the finished jobs whose models are kept, once a task's search is complete."""
        if not self.is_complete(task):
            return []
        if self.keep_models == ALL:
            return [job for job in self.results if job.task == task]
        return [best_job(self._scores(task))]

    def wanted(self, task: str) -> list[Job]:
        """Returns the jobs of a task to run, as far as the results tell."""
        grid, scores = self._grids.get(task, []), self._scores(task)
        found = halving_jobs(grid, scores) if self.search == HALVING else grid
        if any(job.fold for job in found) and all(job in scores for job in found):
            return [*found, best_job(scores)]
        return found

    def is_complete(self, task: str) -> bool:
        return all(job in self.results for job in self.wanted(task))

    @property
    def incomplete_tasks(self) -> list[str]:
        return sorted(task for task in self._grids if not self.is_complete(task))

    def best_source(self) -> Job | None:
        """Returns the best MNLI job once all MNLI jobs are done."""
        if STILT_SOURCE not in self._grids or not self.is_complete(STILT_SOURCE):
            return None
        return best_job(self._scores(STILT_SOURCE))

    def run_of(self, job: Job) -> JobRun:
        return self.make_run(job, self.best_source() if job.stilt else None)

    def _scores(self, task: str) -> dict[Job, float]:
        done = (job for job in self._grids.get(task, []) if job in self.results)
        return {job: self.results[job]["score"] for job in done}

    def _start(self, job: Job) -> JobRun:
        self.running.add(job)
        return self.run_of(job)

    def _reuse_results(self) -> None:
        """Reads the results of earlier searches.

        Repeats as long as there are new ones: a result can make further jobs wanted, and the best
        MNLI job decides which STILT results are valid.
        """
        while new := [job for job in self.waiting if self._can_look_up(job)]:
            for job in new:
                self._looked_up.add(job)
                if (result := self.run_of(job).result) is not None:
                    self.results[job] = result
        self._drop_losers()

    def _can_look_up(self, job: Job) -> bool:
        return job not in self._looked_up and (not job.stilt or self.best_source() is not None)

    def _drop_losers(self) -> None:
        """Deletes the models of jobs that can no longer become the best of their task.

        Waits until all that can still become it have models: to make a missing model, a job runs
        again, and its new score can change the ranking.
        """
        for task in self._tasks_of_best_models():
            scores = self._scores(task)
            wanted = [job for job in self.wanted(task) if job.fold != ALL_ROWS]
            kept = possible_best(wanted, scores)
            if all(map(self._has_model, kept)):
                for job in scores.keys() - kept - self.running:
                    drop_model(self.run_of(job).folder)

    def _tasks_of_best_models(self) -> Iterable[str]:
        """Returns the tasks of which the best model alone is kept."""
        if self.keep_models == ALL:
            return ()
        of_all = self.keep_models == BEST
        has_stilt = any(job.stilt for job in self.jobs)
        return [task for task in self._grids if of_all or (has_stilt and task == STILT_SOURCE)]

    def _has_model(self, job: Job) -> bool:
        return has_model(self.run_of(job).folder)
