"""Budgets by steps and by the clock, and when validations are due."""

import pytest

from pretrain import budget as budget_module
from pretrain.budget import Budget
from pretrain.flags import parse_flags
from pretrain.validation import is_validation_due, validation_points


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now[0])
    return now


def _args(*flags):
    return parse_flags(["--dataset_path=d", "--output_dir=o", *flags])


def test_steps(clock):
    budget = Budget(_args("--max_steps=4"))
    seen = []
    while not budget.finished:
        seen.append(budget.progress)
        budget.count_step()
    assert seen == [0.0, 0.25, 0.5, 0.75] and budget.progress == 1.0


def test_time_is_looked_at_in_every_step(clock):
    budget = Budget(_args("--lr_schedule=time", "--total_training_time=0.001"))  # 3.6 s
    seen = []
    while not budget.finished:
        seen.append(budget.progress)
        clock[0] += 0.91
        budget.count_step()
    assert seen == pytest.approx([0.91 * i / 3.6 for i in range(4)])


def test_the_clock_goes_on_after_a_restart(clock):
    budget = Budget(_args("--lr_schedule=time", "--total_training_time=1"))
    clock[0] += 5000.0  # the time that lies between the checkpoint and now does not count
    budget.restore(10, 1800.0, False)
    assert budget.progress == 0.5 and budget.total_steps == 20
    clock[0] += 180.0
    budget.count_step()
    assert budget.progress == pytest.approx(0.55)


def test_early_exit_ends_a_run_by_steps_too(clock):
    budget = Budget(_args("--max_steps=100", "--early_exit_time_marker=0.5"))
    clock[0] += 1799.0
    budget.count_step()
    assert not budget.finished
    clock[0] += 1.0
    budget.count_step()
    assert budget.finished


def test_validations_of_the_manual_are_spread_over_the_run():
    args = _args("--max_steps=1000", "--do_validation")
    assert validation_points(args) == pytest.approx(
        [0.05, 0.05 + 0.94 / 3, 0.05 + 0.94 * 2 / 3, 0.99, 1.0]
    )
    due = [t for t in range(1, 1001) if is_validation_due(args, t, (t - 1) / 1000, t / 1000)]
    assert due == [50, 364, 677, 990, 1000]


def test_validation_by_steps_and_none_at_all():
    by_steps = _args("--max_steps=10", "--do_validation", "--validation_steps=4")
    assert [t for t in range(1, 11) if is_validation_due(by_steps, t, 0.0, 1.0)] == [4, 8]
    assert not is_validation_due(_args("--max_steps=10"), 4, 0.0, 1.0)
