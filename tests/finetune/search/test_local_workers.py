"""Workers run many jobs, die alone, are replaced, and see only their own GPU."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from finetune.search.local_workers import LocalWorkers, Slot, plan_slots
from finetune.search.scheduler import WorkerDied, run_jobs
from pipeline.errors import ConfigError, StageError
from pipeline.runtime.executor import num_cores

CPU = Slot(None, 1)


def work(job):
    """Runs in the worker: does what the job's name says, once if it names a file."""
    action, _, file = job.partition(" ")
    if file and Path(file).exists():
        return "second time"
    if file:
        Path(file).touch()
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if action == "exit":
        os._exit(7)
    if action == "fail":
        raise ValueError("no luck")
    if action == "refuse":
        raise StageError("no such file")
    if action == "threads":
        import torch

        return torch.get_num_threads()
    if action == "device":
        from pipeline.runtime.devices import device_type

        return device_type()
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def hand_out(*jobs):
    jobs = list(jobs)
    return lambda: jobs.pop(0) if jobs else None


def outcomes_of(*jobs, slot=CPU, notes=None):
    with LocalWorkers([slot]) as workers:
        note = [].append if notes is None else notes.append
        return dict(run_jobs(workers, work, hand_out(*jobs), note))


@pytest.mark.slow
def test_a_worker_lives_on_and_one_that_dies_takes_only_its_job():
    notes = []
    outcomes = outcomes_of("a", "refuse", "b", "die", "c", notes=notes)
    assert list(outcomes) == ["a", "refuse", "b", "die", "c"]
    assert outcomes["a"] == outcomes["b"] != outcomes["c"]
    assert isinstance(outcomes["refuse"], StageError)
    assert isinstance(outcomes["die"], WorkerDied)
    assert str(outcomes["die"]).startswith("its worker was killed")
    assert notes == [f"die is tried again: {outcomes['die']}"]  # what the input causes is not
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_what_fails_once_is_tried_again_in_a_new_worker(tmp_path):
    outcomes = outcomes_of(f"fail {tmp_path}/a", f"die {tmp_path}/b", "fail", "crash", "exit")
    assert list(outcomes.values())[:2] == ["second time"] * 2
    assert str(outcomes["fail"]) == "ValueError: no luck"
    assert str(outcomes["crash"]) == "its worker died of SIGSEGV"
    assert str(outcomes["exit"]) == "its worker ended with exit code 7"


@pytest.mark.slow
def test_a_worker_that_was_killed_while_it_was_idle_is_replaced():
    with LocalWorkers([CPU]) as workers:
        jobs = run_jobs(workers, work, hand_out("a", "b"), [].append)
        _, (process, _) = next(jobs)
        os.kill(process, signal.SIGKILL)
        time.sleep(0.3)
        [(job, (other, _))] = jobs
    assert job == "b" and other != process


def test_when_the_caller_gives_up_no_worker_is_left():
    with pytest.raises(KeyboardInterrupt), LocalWorkers([CPU, CPU]) as workers:
        for _ in run_jobs(workers, work, lambda: "a", [].append):
            raise KeyboardInterrupt
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_worker_sees_only_its_gpu(monkeypatch):
    assert outcomes_of("a")["a"][1] == ""
    assert outcomes_of("a", slot=Slot(2, 1))["a"][1] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-5b,6")
    assert outcomes_of("a", slot=Slot(1, 1))["a"][1] == "GPU-5b"


@pytest.mark.slow
def test_a_worker_that_was_given_a_gpu_never_computes_on_the_cpu(monkeypatch):
    """The stage was told of a GPU that is not there. Its job is not tried again elsewhere."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    notes = []
    [outcome] = outcomes_of("device", slot=Slot(0, 1), notes=notes).values()
    assert isinstance(outcome, StageError) and not notes
    assert " cannot use " in str(outcome) and "SYSTEM.NUM_GPUS: 0" in str(outcome)


@pytest.mark.slow
def test_a_worker_on_the_cpu_takes_its_threads_from_the_slot():
    assert outcomes_of("threads", "device", slot=CPU) == {"threads": 1, "device": "cpu"}


@pytest.mark.parametrize(
    ("num_gpus", "lists", "num_jobs", "expected"),
    [
        (2, [], 9, [0, 1]),
        (2, [], 1, [0]),
        (4, [[0, 1], [2, 3]], 9, [0, 1, 2, 3]),  # the manual's: no run takes several GPUs
        (1, [[0], [0]], 9, [0, 0]),
        (2, [[0], [0], [1], [1]], 9, [0, 1, 0, 1]),
        (2, [[0], [0], [1], [1]], 2, [0, 1]),  # few jobs are spread over the GPUs
    ],
)
def test_slots_of_gpus(num_gpus, lists, num_jobs, expected):
    assert [slot.gpu for slot in plan_slots(num_gpus, lists, 0, num_jobs)] == expected


@pytest.mark.parametrize("wrong", [[[0, 1], [2]], [[-1]], [[]]])
def test_gpus_that_are_not_there_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"FINETUNE\.MULTIPROCESS_GPU_LIST: got .* 0 to 1"):
        plan_slots(2, wrong, 0, 9)


def test_slots_of_cores(monkeypatch):
    monkeypatch.setattr("finetune.search.local_workers.num_cores", lambda: 8)
    assert plan_slots(0, [[0]], 0, 99) == [Slot(None, 1)] * 8
    assert plan_slots(0, [], 3, 99) == [Slot(None, 2)] * 3
    assert plan_slots(0, [], 10_000, 99) == [Slot(None, 1)] * 8
    assert plan_slots(0, [], 0, 2) == [Slot(None, 4)] * 2  # a small search leaves no core idle
    monkeypatch.undo()
    assert plan_slots(0, [], 1, 99) == [Slot(None, num_cores())]
