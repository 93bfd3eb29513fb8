"""Slots: workers that live on, die alone, and see only their own GPUs."""

import os
import signal

import pytest

from finetune.slots import Slot, plan_slots, run_in_slots
from pipeline.errors import ConfigError
from pipeline.executor import num_cores

CPU = Slot((), 1)


def work(job):
    """Runs in the worker: what a job name asks for."""
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "fail":
        raise ValueError("no luck")
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def hand_out(*jobs):
    jobs = list(jobs)
    return lambda: jobs.pop(0) if jobs else None


def test_a_worker_lives_on_and_one_that_dies_takes_only_its_job():
    outcomes = dict(run_in_slots([CPU], work, hand_out("a", "fail", "b", "die", "c")))
    assert list(outcomes) == ["a", "fail", "b", "die", "c"]
    assert outcomes["a"] == outcomes["b"] != outcomes["c"]
    assert isinstance(outcomes["fail"], ValueError)
    assert "worker process died" in str(outcomes["die"])


def test_a_worker_sees_only_its_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    [(_, outcome)] = run_in_slots([Slot((0, 2), 1)], work, hand_out("a"))
    assert outcome[1] == "4,6"


def test_slots_of_gpus():
    assert [slot.gpus for slot in plan_slots(2, [], 0)] == [(0,), (1,)]
    assert [slot.gpus for slot in plan_slots(4, [[0, 1], [2, 3]], 0)] == [(0, 1), (2, 3)]
    for wrong in ([[0, 1], [1]], [[2]], [[]]):
        with pytest.raises(ConfigError, match=r"FINETUNE\.MULTIPROCESS_GPU_LIST: got .* 0 to 1"):
            plan_slots(2, wrong, 0)


def test_slots_of_cores():
    assert len(plan_slots(0, [[0]], 0)) == num_cores()
    assert plan_slots(0, [], 1) == [Slot((), num_cores())]
    assert len(plan_slots(0, [], 10_000)) == num_cores()
