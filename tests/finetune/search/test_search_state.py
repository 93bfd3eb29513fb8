"""What runs when, what waits for what, and what is left after any number of kills."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.search.grid import Grid, Job, best_job, num_runs, plan_jobs
from finetune.search.job_folder import model_path
from finetune.search.search_state import SearchState

SMALL = Grid((3,), (32,), (1e-5, 5e-5))


class FakeRun:
    """Stands for a JobRun: its folder, and a result if one was put there."""

    def __init__(self, root, done, job, source):
        self.job, self.source = job, source
        self.folder = root / str(job)
        self.result = done.get((job, source))


@pytest.fixture
def searching(tmp_path):
    """Makes a SearchState over MNLI (two settings) and RTE from `done` results."""

    def start(done=(), keep="none"):
        jobs = plan_jobs({"MNLI": SMALL, "RTE": Grid((3,), (32,), (1e-5,))}, [42], ["RTE"])
        done = dict(done)

        def make_run(job, source):
            return FakeRun(tmp_path, done, job, source)

        return SearchState(jobs, make_run, keep_models=keep), jobs

    return start


def finish(progress, run, score):
    if run.job.task == "MNLI" or progress.keep_models != "none":
        model_path(run.folder).mkdir(parents=True, exist_ok=True)
    progress.record(run.job, {"score": score})


def test_stilt_waits_for_all_of_mnli_and_takes_the_best(searching):
    progress, (low, high, rte) = searching()
    first, second = progress.next_run(), progress.next_run()
    assert (first.job, second.job) == (low, high) and progress.next_run() is None
    finish(progress, first, 0.6)
    assert progress.next_run() is None
    finish(progress, second, 0.7)
    third = progress.next_run()
    assert (third.job, third.source) == (rte, high)
    assert not model_path(first.folder).exists() and model_path(second.folder).exists()


def test_models_that_cannot_win_are_dropped_at_once(searching):
    progress, _ = searching()
    first, second = progress.next_run(), progress.next_run()
    finish(progress, second, 0.7)
    assert model_path(second.folder).exists()
    finish(progress, first, 0.6)
    assert not model_path(first.folder).exists()


def test_a_failed_mnli_job_holds_back_only_what_depends_on_it(searching):
    progress, (low, high, rte) = searching()
    first, second = progress.next_run(), progress.next_run()
    progress.record(first.job, RuntimeError("killed"))
    finish(progress, second, 0.7)
    assert progress.next_run() is None
    assert list(progress.failures) == [low] and progress.waiting == [rte]
    assert list(progress.results) == [high] and progress.incomplete_tasks == ["MNLI", "RTE"]


def test_results_are_reused_and_dropped_weights_made_again(searching):
    _, (low, high, rte) = searching()
    done = {(low, None): {"score": 0.6}, (high, None): {"score": 0.7}}
    progress, _ = searching(done)
    again = progress.next_run()  # the best one's weights are gone
    assert again.job == high and progress.next_run() is None
    finish(progress, again, 0.7)
    assert progress.next_run().source == high

    progress, _ = searching({**done, (rte, high): {"score": 0.5}})
    assert len(progress.results) == 3 and progress.next_run() is None
    progress, _ = searching({**done, (rte, low): {"score": 0.5}})  # made from another start
    assert rte in progress.waiting


def test_a_best_run_that_is_done_again_with_another_score_is_not_taken_on_faith(searching):
    _, (low, high, rte) = searching()
    done = {(low, None): {"score": 0.6}, (high, None): {"score": 0.7}, (rte, high): {"score": 0.5}}
    progress, _ = searching(done)
    assert progress.results[rte] == {"score": 0.5} and progress.next_run() is None
    model_path(progress.run_of(low).folder).mkdir(parents=True)
    progress.running.add(high)  # its weights were lost
    done[high, None] = {"score": 0.5}
    progress.record(high, done[high, None])
    assert progress.best_source() == low and rte not in progress.results
    # The weights of the one that is second best now were not dropped before that was known.
    assert progress.next_run().source == low


def test_the_best_models_are_kept_or_all_of_them_and_made_again_if_missing(searching):
    _, (low, high, rte) = searching()
    done = {(low, None): {"score": 0.6}, (high, None): {"score": 0.7}, (rte, high): {"score": 0.5}}
    for keep, wanted in (("none", []), ("best", [high, rte]), ("all", [low])):
        progress, _ = searching(done, keep)
        assert progress.without_model == wanted and not progress.incomplete_tasks
        for job in wanted:
            run = progress.next_run()
            assert run.job == job
            finish(progress, run, progress.results[job]["score"])
        assert progress.next_run() is None and not progress.without_model
    progress, _ = searching(done, "best")
    assert not progress.without_model
    assert not model_path(progress.run_of(low).folder).exists()  # kept by `all`


# --- a simulated search ------------------------------------------------------------------------


class Killed(Exception):
    """The program was killed."""


class StoredRun(FakeRun):
    """A run whose result and model lie in a folder that outlives the program."""

    def __init__(self, root, job, source):
        super().__init__(root, {}, job, source)
        path = self.folder / "result.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        self.result = found if found.get("start") == str(source) else None

    def finish(self):
        """Scores depend on the job and on what it starts from, like a real run's."""
        score = round(random.Random(f"{self.job} from {self.source}").random(), 1)
        model_path(self.folder).mkdir(parents=True, exist_ok=True)
        result = {"score": score, "start": str(self.source)}
        (self.folder / "result.json").write_text(json.dumps(result))
        return result


def run_search(root, jobs, search, kills=(), num_workers=2, rng=None):
    """Goes through a search as the stage does, up to kills[0] results, then anew, and so on.

    Returns the results, and the jobs that were begun.
    """
    begun = []
    for limit in (*kills, None):
        progress = SearchState(jobs, lambda job, source: StoredRun(root, job, source), search)
        running, finished = [], 0
        while True:
            while len(running) < num_workers and (run := progress.next_run()):
                assert not run.job.stilt or run.source in progress.results
                running.append(run)
                begun.append(run.job)
            if not running or finished == limit:
                break
            run = running.pop(rng.randrange(len(running)) if rng else 0)
            progress.record(run.job, run.finish())
            finished += 1
    assert not progress.incomplete_tasks
    return progress.results, begun


GRIDS = {
    "CoLA": Grid((1, 3), (16, 32), (1e-5, 3e-5, 5e-5)),
    "MNLI": Grid((1, 2, 4), (32,), (1e-5, 3e-5, 5e-5)),
    "RTE": Grid((1, 5), (32,), (1e-5, 3e-5)),
}
JOBS = plan_jobs(GRIDS, [1, 2], ["RTE"])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["grid", "halving"]),
    st.lists(st.integers(0, 9), max_size=5),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_any_kills_and_any_number_of_workers_end_with_the_same(
    tmp_path_factory, search, kills, num_workers, rng
):
    folders = [tmp_path_factory.mktemp("root") for _ in range(2)]
    undisturbed, begun = run_search(folders[0], JOBS, search)
    planned = {
        task: sum(num_runs([job for job in JOBS if job.task == task], search).values())
        for task in GRIDS
    }
    assert len(undisturbed) == len(begun) == sum(planned.values())
    disturbed, _ = run_search(folders[1], JOBS, search, kills, num_workers, rng)
    assert disturbed == undisturbed
    models = {path.parent.name for path in folders[1].glob("*/model")}
    assert models == {str(best_of(task, disturbed)) for task in GRIDS}


def best_of(task, results):
    return best_job({j: result["score"] for j, result in results.items() if j.task == task})


def test_grid_and_halving_reuse_each_others_results(tmp_path):
    halved, _ = run_search(tmp_path, JOBS, "halving")
    full, begun = run_search(tmp_path, JOBS, "grid")
    # Of the tasks that start from the pretrained model; the best MNLI model may be another now.
    independent = {job for job in JOBS if not job.stilt}
    assert {job for job in begun if job in independent} == independent - halved.keys()
    assert all(full[job] == halved[job] for job in independent & halved.keys())
    assert run_search(tmp_path, JOBS, "grid")[1] == []
    again, begun = run_search(tmp_path, JOBS, "halving")
    best = {best_of(task, halved) for task in GRIDS}  # their models may be needed again
    assert again == halved and not independent & {*begun} - best


def test_a_failure_ends_the_halving_of_its_task_alone(tmp_path):
    jobs = plan_jobs({"CoLA": GRIDS["CoLA"], "WNLI": GRIDS["RTE"]}, [1], [])
    progress = SearchState(jobs, lambda job, source: StoredRun(tmp_path, job, source), "halving")
    bad = Job("CoLA", 1, 16, 1e-5, 1)
    while run := progress.next_run():
        progress.record(run.job, ValueError("no") if run.job == bad else run.finish())
    assert progress.incomplete_tasks == ["CoLA"] and progress.is_complete("WNLI")
    assert not any(job.epochs == 3 for job in progress.results if job.task == "CoLA")
