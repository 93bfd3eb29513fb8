"""Jobs on worker processes: lazily submitted, bounded, and with an end when something fails."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool, num_workers, run_unordered


class Counted(Executor):
    """Does every job at once and remembers what it was given."""

    num_workers = 2

    def __init__(self):
        self.submitted = []

    def submit(self, function, job):
        self.submitted.append(job)
        future = Future()
        future.set_result(function(job))
        return future


def touch(path: Path) -> None:
    path.touch()
    time.sleep(0.05)


def fail_at_3(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def die(_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(_) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(_) -> None:
    os._exit(7)


def test_results_come_with_their_jobs():
    with local_pool(2) as pool:
        assert dict(run_unordered(pool, abs, range(-50, 0))) == {-i: i for i in range(1, 51)}
        assert list(run_unordered(pool, abs, [])) == []


def test_a_million_jobs_are_never_held():
    taken = 0

    def jobs():
        nonlocal taken
        for number in range(1_000_000):
            taken += 1
            yield number

    executor = Counted()
    for done, _ in enumerate(run_unordered(executor, abs, jobs()), start=1):
        assert taken - done < 6  # three for each of two workers
        if done == 1000:
            break
    assert executor.submitted == sorted(executor.submitted)


def test_number_in_flight_can_be_given():
    executor = Counted()
    next(run_unordered(executor, abs, iter(range(100)), max_in_flight=17))
    assert len(executor.submitted) == 17


def test_equal_jobs_are_done_each():
    with ThreadPoolExecutor(3) as pool:
        assert sorted(run_unordered(pool, abs, [-1, -1, -2])) == [(-2, 2), (-1, 1), (-1, 1)]


def test_failure_cancels_what_has_not_begun(tmp_path):
    jobs = [tmp_path / "no" / "folder", *(tmp_path / str(i) for i in range(200))]
    with local_pool(2) as pool, pytest.raises(FileNotFoundError):
        list(run_unordered(pool, touch, jobs))
    assert len(list(tmp_path.iterdir())) < 20


def test_an_interrupt_ends_what_is_at_work():
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), local_pool(2) as pool:
        for _ in run_unordered(pool, time.sleep, [0, 100, 100]):
            raise KeyboardInterrupt
    assert time.monotonic() - begin < 50 and multiprocessing.active_children() == []


def test_workers_do_not_heed_ctrl_c_themselves():
    with local_pool(1) as pool:
        assert dict(run_unordered(pool, signal.raise_signal, [signal.SIGINT])) == {2: None}


def test_failure_comes_unchanged():
    with local_pool(1) as pool, pytest.raises(ValueError, match="three"):
        list(run_unordered(pool, fail_at_3, range(9)))


def test_killed_worker_is_explained():
    said = "a worker process was killed(, most likely because memory ran out| by SIGKILL from)"
    with local_pool(2) as pool, pytest.raises(StageError, match=said):
        list(run_unordered(pool, die, range(9)))


def test_a_worker_that_crashes_is_not_taken_for_one_that_was_killed():
    with local_pool(2) as pool, pytest.raises(StageError, match="a worker process died of SIGSEGV"):
        list(run_unordered(pool, crash, range(9)))


def test_a_pool_that_is_broken_takes_no_more_and_says_why():
    with local_pool(1) as pool:
        for _ in range(2):
            with pytest.raises(StageError, match="a worker process ended with exit code 7"):
                list(run_unordered(pool, leave, range(2)))


def test_number_of_workers_is_known():
    with local_pool(3) as pool:
        assert num_workers(pool) == 3
    assert num_workers(ThreadPoolExecutor()) >= 1


def test_a_worker_whose_parent_died_while_it_was_starting_ends_at_once():
    code = (
        "from pipeline.runtime.executor import _initialize_worker as begin; "
        "begin(1 << 30, None, ()); 1 / 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
