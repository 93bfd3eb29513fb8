"""Budgets by steps, by the clock and by tokens."""

import pytest

from pretrain.flags import parse_flags
from pretrain.optimization import budget as budget_module
from pretrain.optimization.budget import Budget
from pretrain.settings import TrainingSettings


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now[0])
    return now


def _settings(*flags):
    return TrainingSettings.from_args(parse_flags(["--dataset_path=d", "--output_dir=o", *flags]))


def _count_step(budget, num_tokens=0):
    budget.count_step(num_tokens, budget.clock())


def test_steps(clock):
    budget = Budget(_settings("--max_steps=4"))
    seen = []
    while not budget.finished:
        seen.append(budget.progress)
        _count_step(budget)
    assert seen == [0.0, 0.25, 0.5, 0.75] and budget.progress == 1.0


def test_time_is_looked_at_in_every_step(clock):
    budget = Budget(_settings("--lr_schedule=time", "--total_training_time=0.001"))  # 3.6 s
    seen = []
    while not budget.finished:
        seen.append(budget.progress)
        clock[0] += 0.91
        _count_step(budget)
    assert seen == pytest.approx([0.91 * i / 3.6 for i in range(4)])


def test_only_the_schedules_own_budget_counts(clock):
    budget = Budget(_settings("--lr_schedule=time", "--total_training_time=1", "--max_steps=1"))
    for _ in range(3):
        _count_step(budget)
    assert budget.step == 3 and not budget.finished


def test_tokens(clock):
    budget = Budget(_settings("--lr_schedule=tokens", "--max_tokens=1000", "--max_steps=1"))
    seen = []
    while not budget.finished:
        seen.append(budget.progress)
        _count_step(budget, 300)
    assert seen == [0.0, 0.3, 0.6, 0.9] and budget.position == (1200, 1000)


def test_the_clock_goes_on_after_a_restart(clock):
    budget = Budget(_settings("--lr_schedule=time", "--total_training_time=1"))
    clock[0] += 5000.0  # the time that lies between the checkpoint and now does not count
    budget.restore(10, 700, 1800.0, False)
    assert budget.progress == 0.5 and budget.step == 10 and budget.num_tokens == 700
    clock[0] += 180.0
    _count_step(budget)
    assert budget.progress == pytest.approx(0.55)


def test_early_exit_ends_a_run_by_steps_too(clock):
    budget = Budget(_settings("--max_steps=100", "--early_exit_time_marker=0.5"))
    clock[0] += 1799.0
    _count_step(budget)
    assert not budget.finished
    clock[0] += 1.0
    _count_step(budget)
    assert budget.finished
