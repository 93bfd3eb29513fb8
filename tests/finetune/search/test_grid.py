"""From grid to jobs: the paper's counts, STILT, the best job, halving."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.defaults import GLUE_TASKS, get_default_config
from finetune.data.tasks import find_task
from finetune.plan import _grids
from finetune.search.grid import (
    Grid,
    Job,
    best_job,
    halving_jobs,
    median_scores,
    num_runs,
    plan_jobs,
    possible_best,
    run_order,
    total_rows,
)

SMALL = Grid((3,), (32,), (1e-5, 5e-5))


def some_of(*values, at_most=3):
    return st.lists(st.sampled_from(values), min_size=1, max_size=at_most, unique=True).map(tuple)


GRIDS = st.builds(
    Grid, some_of(1, 2, 3, 5, 10), some_of(8, 16, 32), some_of(1e-5, 3e-5, 5e-5, 8e-5, at_most=4)
)
SEEDS = some_of(1, 2, 3)
QUICKLY = settings(deadline=None, max_examples=40)


def score(job: Job) -> float:
    """Any function of the job; rounded, so that there are ties."""
    return round(random.Random(str(job)).random(), 1)


def halve(grid: list[Job]) -> list[Job]:
    """All jobs that halving runs, one result after the other."""
    scores = {}
    while missing := [job for job in halving_jobs(grid, scores) if job not in scores]:
        scores[missing[-1]] = score(missing[-1])
    return halving_jobs(grid, scores)


# --- the grid ----------------------------------------------------------------------------------


def test_the_papers_grid():
    config = get_default_config()
    tasks = tuple(map(find_task, GLUE_TASKS))
    jobs = plan_jobs(_grids(config.FINETUNE, tasks), [42], config.FINETUNE.STILT_TASKS)
    counts = {task: sum(job.task == task for job in jobs) for task in GLUE_TASKS}
    large = dict.fromkeys(("MNLI", "QQP", "QNLI"), 4)
    assert counts == {task: large.get(task, 24) for task in GLUE_TASKS}
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


def test_mnli_first_then_the_most_costly():
    grids = {"CoLA": SMALL, "MNLI": SMALL, "QQP": SMALL, "RTE": SMALL}
    rows = {"CoLA": 10, "MNLI": 50, "QQP": 100, "RTE": 5}

    def order(stilt):
        jobs = run_order(plan_jobs(grids, [42], stilt), rows)
        return [job.task for job in jobs]

    assert order(["RTE"]) == ["MNLI"] * 2 + ["QQP"] * 2 + ["CoLA"] * 2 + ["RTE"] * 2
    assert order([])[0] == "QQP"


def test_the_rows_of_a_search():
    jobs = plan_jobs({"CoLA": Grid((1, 3), (32,), (1e-5, 3e-5, 5e-5)), "RTE": SMALL}, [42], [])
    rows = {"CoLA": 10, "RTE": 5}
    assert total_rows(jobs, "grid", rows) == 3 * (1 + 3) * 10 + 2 * 3 * 5
    assert total_rows(jobs, "halving", rows) == (3 * 1 + 2 * 3) * 10 + 2 * 3 * 5


# --- which is best -----------------------------------------------------------------------------


def test_ties_of_settings():
    jobs = [
        Job("RTE", 5, 32, 1e-5, 42),
        Job("RTE", 3, 32, 5e-5, 42),
        Job("RTE", 3, 16, 1e-5, 42),
        Job("RTE", 3, 32, 1e-5, 43),
        Job("RTE", 3, 32, 1e-5, 42),
    ]
    assert best_job(dict.fromkeys(jobs, 0.5)) == jobs[4]
    assert best_job({**dict.fromkeys(jobs, 0.5), jobs[0]: 0.6}) == jobs[0]


def test_a_lucky_seed_does_not_make_a_setting_the_best():
    lucky = {Job("RTE", 3, 32, 5e-5, seed): score for seed, score in enumerate((0.9, 0.5, 0.4))}
    steady = {Job("RTE", 3, 32, 1e-5, seed): score for seed, score in enumerate((0.6, 0.7, 0.7))}
    found = {setting.learning_rate: x for setting, x in median_scores(lucky | steady).items()}
    assert found == {5e-5: 0.5, 1e-5: 0.7}
    assert best_job(lucky | steady) == Job("RTE", 3, 32, 1e-5, 1)


@QUICKLY
@given(GRIDS, SEEDS, st.randoms(use_true_random=False))
def test_the_best_job_is_always_among_those_that_can_become_it(grid, seeds, rng):
    jobs = plan_jobs({"MNLI": grid}, seeds, [])
    rng.shuffle(jobs)
    best = best_job({job: score(job) for job in jobs})
    for done in range(1, len(jobs) + 1):
        scores = {job: score(job) for job in jobs[:done]}
        possible = possible_best(jobs, scores)
        assert best in possible or best not in scores
    assert possible == {best}


# --- halving -----------------------------------------------------------------------------------


def test_halving_of_the_papers_grid():
    config = get_default_config()
    grids = _grids(config.FINETUNE, (find_task("CoLA"), find_task("MNLI")))
    cola, mnli = (plan_jobs({task: grids[task]}, [42], []) for task in ("CoLA", "MNLI"))
    assert num_runs(cola, "halving") == {3: 8, 5: 4, 10: 2}
    assert num_runs(cola, "grid") == {3: 8, 5: 8, 10: 8}
    assert num_runs(mnli, "halving") == {3: 2, 5: 1}
    epochs = {kind: sum(e * n for e, n in num_runs(cola, kind).items()) for kind in ("grid",)}
    assert 2 * sum(e * n for e, n in num_runs(cola, "halving").items()) < epochs["grid"]


@QUICKLY
@given(GRIDS, SEEDS)
def test_halving_runs_the_planned_number_of_the_grids_jobs(grid, seeds):
    jobs = plan_jobs({"CoLA": grid}, seeds, [])
    chosen = halve(jobs)
    assert set(chosen) <= set(jobs) and len(set(chosen)) == len(chosen)
    assert {e: sum(job.epochs == e for job in chosen) for e in sorted(grid.epochs)} == num_runs(
        jobs, "halving"
    )
    if len(grid.epochs) == 1:
        assert chosen == jobs


@QUICKLY
@given(GRIDS, SEEDS)
def test_each_rung_keeps_the_better_half(grid, seeds):
    chosen = halve(plan_jobs({"CoLA": grid}, seeds, []))
    epochs = sorted(grid.epochs)
    for lower, higher in pairwise(epochs):
        tried = median_scores({job: score(job) for job in chosen if job.epochs == lower})
        kept = {(j.batch_size, j.learning_rate) for j in chosen if j.epochs == higher}
        worst_kept = min(x for s, x in tried.items() if (s.batch_size, s.learning_rate) in kept)
        left_out = [x for s, x in tried.items() if (s.batch_size, s.learning_rate) not in kept]
        assert len(kept) == (len(tried) + 1) // 2
        assert worst_kept >= max(left_out, default=0)


@QUICKLY
@given(GRIDS, SEEDS, st.randoms(use_true_random=False))
def test_the_next_rung_does_not_depend_on_the_order_of_the_results(grid, seeds, rng):
    jobs = plan_jobs({"CoLA": grid}, seeds, [])
    scores = [(job, score(job)) for job in halve(jobs)]
    rng.shuffle(scores)
    assert halving_jobs(jobs, dict(scores)) == halve(jobs)
