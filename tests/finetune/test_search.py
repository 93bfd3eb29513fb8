"""From grid to jobs: the paper's counts, STILT, the best job, and what runs when."""

import pytest

from configs.defaults import get_default_config
from finetune.artifact import _grids
from finetune.progress import SearchProgress
from finetune.runs import model_path
from finetune.search import Grid, Job, best_job, plan_jobs, run_order
from finetune.tasks import TASKS

SMALL = Grid((3,), (32,), (1e-5, 5e-5))


def test_the_papers_grid():
    config = get_default_config()
    jobs = plan_jobs(_grids(config, TASKS), [42], config.FINETUNE.STILT_TASKS)
    counts = {task.name: sum(job.task == task.name for job in jobs) for task in TASKS}
    large = dict.fromkeys(("MNLI", "QQP", "QNLI"), 4)
    assert counts == {task.name: large.get(task.name, 24) for task in TASKS}
    assert {job.task for job in jobs if job.stilt} == {"RTE", "MRPC", "STS-B"}
    assert len({(job.task, job.setting) for job in jobs}) == len(jobs) == 156


def test_setting_names_are_distinct_and_readable():
    assert Job("RTE", 3, 32, 5e-5, 42).setting == "lr5e-05_bs32_ep3_seed42"
    assert Job("RTE", 3, 32, 1.5e-5, 42).setting != Job("RTE", 3, 32, 2e-5, 42).setting


def test_duplicate_values_make_one_job():
    assert len(plan_jobs({"CoLA": Grid((3, 3), (8,), (1e-5,))}, [1, 1], [])) == 1


def test_stilt_needs_mnli():
    with pytest.raises(ValueError, match="RTE cannot start from the best MNLI"):
        plan_jobs({"RTE": SMALL}, [42], ["RTE"])
    with pytest.raises(ValueError, match="MNLI cannot start"):
        plan_jobs({"MNLI": SMALL}, [42], ["MNLI"])
    assert not any(job.stilt for job in plan_jobs({"CoLA": SMALL}, [42], ["RTE"]))


def test_best_job_and_its_tie_break():
    jobs = [
        Job("RTE", 5, 32, 1e-5, 42),
        Job("RTE", 3, 32, 5e-5, 42),
        Job("RTE", 3, 16, 1e-5, 42),
        Job("RTE", 3, 32, 1e-5, 43),
        Job("RTE", 3, 32, 1e-5, 42),
    ]
    assert best_job(dict.fromkeys(jobs, 0.5)) == jobs[4]
    assert best_job({**dict.fromkeys(jobs, 0.5), jobs[0]: 0.6}) == jobs[0]


def test_mnli_first_then_the_largest():
    grids = {"CoLA": SMALL, "MNLI": SMALL, "QQP": SMALL, "RTE": SMALL}
    rows = {"CoLA": 10, "MNLI": 50, "QQP": 100, "RTE": 5}
    order = [job.task for job in run_order(plan_jobs(grids, [42], ["RTE"]), rows)]
    assert order == ["MNLI"] * 2 + ["QQP"] * 2 + ["CoLA"] * 2 + ["RTE"] * 2
    assert run_order(plan_jobs(grids, [42], []), rows)[0].task == "QQP"


class FakeRun:
    """Stands for a JobRun: its folder, and a result if one was put there."""

    def __init__(self, root, done, job, source):
        self.job, self.source = job, source
        self.folder = root / str(job)
        self.result = done.get((job, source))


@pytest.fixture
def searching(tmp_path):
    """Makes a SearchProgress over MNLI (two settings) and RTE from `done` results."""

    def start(done=()):
        jobs = plan_jobs({"MNLI": SMALL, "RTE": Grid((3,), (32,), (1e-5,))}, [42], ["RTE"])
        done = dict(done)
        return SearchProgress(jobs, lambda job, source: FakeRun(tmp_path, done, job, source)), jobs

    return start


def finish(progress, run, score):
    if run.job.task == "MNLI":
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


def test_a_failed_mnli_job_holds_back_only_what_depends_on_it(searching):
    progress, (low, high, rte) = searching()
    first, second = progress.next_run(), progress.next_run()
    progress.record(first.job, RuntimeError("killed"))
    finish(progress, second, 0.7)
    assert progress.next_run() is None
    assert list(progress.failures) == [low] and progress.waiting == [rte]
    assert list(progress.results) == [high]


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
