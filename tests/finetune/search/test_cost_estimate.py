"""Estimates of work: near the true number of tokens, and consistent with the jobs."""

import pytest

from finetune.data.examples import load_examples
from finetune.data.tasks import find_task
from finetune.search.cost_estimate import Effort, SearchEffort, estimate_effort
from finetune.search.grid import Grid, plan_jobs

GRIDS = {"MNLI": Grid((1, 2), (32,), (1e-5, 3e-5, 5e-5)), "RTE": Grid((3, 5), (16, 32), (1e-5,))}
EFFORTS = {"MNLI": Effort(600.0, 30.0, 60.0, 20.0), "RTE": Effort(90.0, 9.0, 9.0, 40.0)}
JOBS = plan_jobs(GRIDS, [1], ["RTE"])


def test_the_total_is_that_of_all_jobs():
    effort = SearchEffort(EFFORTS, JOBS, "grid", evals_per_epoch=0)
    assert effort.total == pytest.approx(sum(map(effort.of_job, JOBS)))
    assert effort.of_job(JOBS[0]) == pytest.approx(600 + (30 + 60) / 3)
    assert effort.longest_chain() == pytest.approx((1200 + 30) + (450 + 6))
    assert effort.typical_sample == 20


def test_halving_takes_less_in_a_longer_chain():
    whole, halved = (SearchEffort(EFFORTS, JOBS, kind, 0) for kind in ("grid", "halving"))
    assert halved.total == pytest.approx(3 * 630 + 2 * 1230 + 2 * 276 + 1 * 456)
    assert halved.total < whole.total
    assert halved.longest_chain() == pytest.approx(630 + 1230 + 276 + 456)
    first_rungs = [job for job in JOBS if job.epochs in (1, 3)]
    assert halved.longest_chain(first_rungs) == pytest.approx(1230 + 456)


def test_evaluations_on_the_way_count():
    assert EFFORTS["RTE"].of_run(3, evals_per_epoch=2) == pytest.approx(270 + (6 * 9 + 9) / 3)


def test_time_left_follows_from_what_is_done():
    effort = SearchEffort(EFFORTS, JOBS, "grid", 0)
    speed = effort.seconds_per_token({JOBS[0]: 63.0})
    assert speed == pytest.approx(0.1)
    assert effort.seconds_left([], speed, 1) == pytest.approx(0.1 * effort.total)
    assert effort.seconds_left([], speed, 99) == pytest.approx(0.1 * effort.longest_chain())
    assert effort.seconds_left(JOBS, speed, 1) == pytest.approx(0.0)
    mnli = [job for job in JOBS if job.task == "MNLI"]  # nothing has to wait for it any more
    assert effort.seconds_left(mnli, speed, 99) == pytest.approx(0.1 * (450 + 6))


def test_what_can_be_estimated_without_data():
    cola = find_task("CoLA")
    assert estimate_effort(cola, "", 128).train == cola.num_train_rows * 40


@pytest.mark.parametrize("name", ["CoLA", "RTE", "MRPC", "SST-2"])
def test_real_files_have_about_as_many_tokens_as_estimated(shared_data, name):
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(shared_data / "vocab" / "bert-uncased-vocab.txt"))
    task, folder = find_task(name), str(shared_data / "glue_data")
    rows = load_examples(task, task.train, folder).texts
    tokens = sum(min(128, len(tokenizer.encode(*row).ids)) for row in rows[::10]) * 10
    assert estimate_effort(task, folder, 128).train == pytest.approx(tokens, rel=0.2)
